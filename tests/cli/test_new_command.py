"""``compbench new``: what it writes works as written, and it overwrites nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import compbench_plugins
import pytest
import torch
from typer.testing import CliRunner, Result

from compbench import Site
from compbench.cli.app import app
from compbench.errors import CompbenchError
from compbench.registry import Registry
from compbench.scaffold import compressor_files, package_files, write_new

ROOT = Path(__file__).parent.parent.parent


def new(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["new", *(str(argument) for argument in arguments)])


def refusal(*arguments: object) -> str:
    error = new(*arguments).exception
    assert isinstance(error, CompbenchError)
    return str(error)


def run(*command: object, cwd: Path, path: Path | None = None) -> str:
    """What a command prints; it must succeed. ``path`` is where further packages are installed."""
    paths = [str(folder) for folder in (path, ROOT) if folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MYPYPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_new_compressor_passes_its_test_as_written(project: Path) -> None:
    result = new("compressor", "top_columns")
    assert result.exit_code == 0
    assert written(project) == {"plugins/top_columns.py", "tests/test_top_columns.py"}
    assert "2 passed" in run("pytest", "-q", "tests/test_top_columns.py", cwd=project)


def test_a_new_package_is_found_by_its_entry_point_and_passes_its_test(project: Path) -> None:
    assert new("package", "top_columns").exit_code == 0
    pip = ("pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps", "--no-build-isolation")
    run(*pip, "--target", "site", "./top_columns", cwd=project)
    site = project / "site"
    listing = run("compbench", "plugins", cwd=project, path=site)
    (row,) = [line for line in listing.splitlines() if "top_columns" in line.split()]
    assert "Keeps the largest columns whole" in row
    assert "compbench-top-columns 0.1.0" in row
    assert (site / "compbench_top_columns" / "py.typed").is_file()
    run("compbench", "check", "top_columns", cwd=project, path=site)
    assert "3 passed" in run("pytest", "-q", cwd=project / "top_columns", path=site)


def test_what_is_said_to_do_next_is_what_there_is(project: Path) -> None:
    said = new("compressor", "mine", "--into", "a folder").stdout
    assert said.splitlines()[:2] == ["wrote a folder/plugins/mine.py", "wrote a folder/tests/test_mine.py"]
    steps = [line.split("   ")[0].strip() for line in said.partition("Next:\n")[2].splitlines()]
    assert steps == ["cd 'a folder'", "compbench plugins mine", "compbench check mine", "pytest tests/test_mine.py"]
    said = new("package", "mine").stdout
    assert "pip install -e ./mine\n" in said
    assert "pytest mine " in said
    assert "no licence yet" in said
    assert not list((project / "mine").glob("LICEN*"))


@pytest.mark.parametrize("name", ["x", "my_4_bits", "codec", "field", "exception", "torch", "compbench", "a" * 40])
def test_every_name_gives_files_that_are_formatted_linted_and_typed(name: str, project: Path) -> None:
    write_new(compressor_files(name), project)
    write_new(package_files(name), project / "elsewhere")
    for file in project.rglob("*.py"):
        ast.parse(file.read_text())
    strict = ("--config", ROOT / "pyproject.toml")
    run("ruff", "check", *strict, "plugins", "tests", cwd=project)
    run("ruff", "format", "--check", *strict, "plugins", "tests", cwd=project)
    run("ruff", "check", ".", cwd=project / "elsewhere" / name)
    run("ruff", "format", "--check", ".", cwd=project / "elsewhere" / name)
    registry = Registry.load(project / "plugins")
    assert not [plugin.reason for plugin in registry.broken]
    codec = registry.compressor(name, share=0.5).codec(Site("block", "block_8", 8), torch.Generator())
    assert codec is not None
    assert codec.encode(torch.ones(3, 8)).decode().equal(torch.ones(3, 8))


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("top_rows", "TopRows"),
        ("codec", "CodecStrategy"),
        ("field", "FieldStrategy"),
        ("exception", "ExceptionStrategy"),
    ],
)
def test_the_class_hides_neither_an_import_nor_a_builtin(name: str, cls: str) -> None:
    plugin, _ = compressor_files(name)
    assert f"\nclass {cls}(Compressor):\n" in plugin.text
    assert f"\nclass {cls}Codec(Codec):\n" in plugin.text


def test_the_plugin_and_the_package_are_strictly_typed(project: Path) -> None:
    write_new([*compressor_files("mine"), *package_files("other")], project)
    run("mypy", "src", "tests", "../plugins", "../tests", cwd=project / "other", path=project / "other" / "src")


def test_the_plugin_fits_on_a_screen() -> None:
    plugin, _ = compressor_files("mine")
    assert len([line for line in plugin.text.splitlines() if line]) <= 60


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("My-Strategy", "my_strategy"),
        ("MyStrategy", "my_strategy"),
        ("top columns", "top_columns"),
        ("8bit", "bit"),
        ("_hidden", "hidden"),
        ("top__columns_", "top_columns"),
        ("../escape", "escape"),
        ("größe", "grosse"),
        ("a" * 41, "a" * 40),
        ("Laser", None),
        ("123", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("kind", ["compressor", "package"])
def test_a_name_of_another_form_is_refused_with_the_nearest_free_one(
    kind: str, name: str, nearest: str | None, project: Path
) -> None:
    message = refusal(kind, name)
    assert f"can't have the name '{name}'" in message
    assert (f"did you mean '{nearest}'?" in message) if nearest else ("did you mean" not in message)
    assert "(allowed: lower-case letters and digits, a letter first" in message
    assert not written(project.parent)


@pytest.mark.parametrize(("name", "meaning"), [("true", "true"), ("no", "false"), ("on", "true"), ("null", "null")])
def test_a_name_that_yaml_takes_for_something_else_is_refused(name: str, meaning: str, project: Path) -> None:
    assert f"in a suite it means {meaning}" in refusal("compressor", name)


@pytest.mark.parametrize("kind", ["compressor", "package"])
def test_the_name_of_a_strategy_that_is_there_is_refused(kind: str, project: Path) -> None:
    assert refusal(kind, "laser").startswith("the name 'laser' is taken: plugin 'laser' (compbench ")
    new("compressor", "mine")
    (project / "plugins" / "mine.py").rename(project / "plugins" / "other.py")
    assert str(project / "plugins" / "other.py") in refusal(kind, "mine")
    (project / "plugins" / "third.py").write_text((project / "plugins" / "other.py").read_text())
    assert "third.py" in refusal(kind, "mine")


def test_a_package_does_not_hide_a_module_that_is_there(project: Path) -> None:
    assert "called 'compbench_plugins', and there is a module of that name" in refusal("package", "plugins")
    assert "'compbench_local'" in refusal("package", "local")
    assert not written(project)


@pytest.mark.parametrize("there", ["plugins/mine.py", "tests/test_mine.py"])
def test_an_existing_file_is_named_and_kept_and_nothing_else_is_written(there: str, project: Path) -> None:
    (project / there).parent.mkdir()
    (project / there).write_text("precious")
    assert refusal("compressor", "mine") == f"{there} is there already, and nothing was written"
    assert written(project) == {there}
    assert (project / there).read_text() == "precious"


def test_all_existing_files_of_a_package_are_named(project: Path) -> None:
    for file in ("mine/README.md", "mine/pyproject.toml"):
        (project / file).parent.mkdir(exist_ok=True)
        (project / file).write_text("precious")
    (project / "mine" / "tests").symlink_to("nowhere")
    message = refusal("package", "mine")
    assert message == "mine/pyproject.toml, mine/README.md are there already, and nothing was written"
    assert written(project) == {"mine/README.md", "mine/pyproject.toml"}


def test_a_failure_on_the_way_leaves_nothing_behind(project: Path) -> None:
    (project / "tests").write_text("a file where a folder should be")
    assert "can't write tests/test_mine.py" in refusal("compressor", "mine")
    assert [path.name for path in project.iterdir()] == ["tests"]


def test_an_interrupt_on_the_way_leaves_nothing_behind(project: Path) -> None:
    def interrupted():
        yield from compressor_files("mine")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_new(interrupted(), project)
    assert not list(project.iterdir())


def test_the_folder_of_installed_plugins_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "plugins").symlink_to(Path(compbench_plugins.__file__).parent)
    monkeypatch.setattr("compbench.cli.new_command.write_new", lambda *_: pytest.fail("files are written"))
    assert "plugins has the plugins of compbench " in refusal("compressor", "mine")
