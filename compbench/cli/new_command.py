"""``compbench new``: writes a strategy to begin with, as a file of this project or as a package of its own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from compbench.registry import Registry, default_plugins_dir
from compbench.scaffold import (
    ScaffoldError,
    check_package_name,
    check_strategy_name,
    compressor_files,
    package_files,
    write_new,
)

new = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[
    str, typer.Argument(help="The strategy's name: lower-case letters and digits, words joined by _.", metavar="NAME")
]
Into = Annotated[Path, typer.Option(help="Folder to write into, instead of the current one.", metavar="DIR")]


@new.callback()
def _new() -> None:
    """Write a strategy to begin with, and its test: small, and works as it is."""


@new.command()
def compressor(name: Name, into: Into = Path()) -> None:
    """Write plugins/NAME.py and tests/test_NAME.py.

    The first is a strategy of this project, which compbench finds when it runs in the current folder; the second
    checks that it holds to the contract. Nothing that exists is overwritten.
    """
    folder = into / "plugins"
    registry = Registry.load(folder if folder.is_dir() else None)
    _check_not_installed(folder, registry)
    check_strategy_name(name, registry)
    _tell(write_new(compressor_files(name), into))
    typer.echo("\nNext:")
    if into != Path():
        typer.echo(f"  cd {shlex.quote(str(into))}")
    typer.echo(_steps(name, f"tests/test_{name}.py"))


@new.command()
def package(name: Name, into: Into = Path()) -> None:
    """Write NAME/, a package to install and to share.

    It has the same strategy and its test. pip knows it as compbench-NAME, Python as compbench_NAME, and suites as
    NAME. Nothing that exists is overwritten.
    """
    check_strategy_name(name, Registry.load(default_plugins_dir()))
    check_package_name(name)
    _tell(write_new(package_files(name), into))
    folder = into / name
    # With a slash: without one, pip without -e would take a name for that of a package on its index.
    path = str(folder) if folder.is_absolute() else f"./{folder}"
    typer.echo(f"\nNext:\n  pip install -e {shlex.quote(path)}")
    typer.echo(_steps(name, str(folder)))
    typer.echo(
        "\nIt has no licence yet, and without one nobody may use it: "
        f"choose one, add its text as LICENSE, and name it in {folder / 'pyproject.toml'}."
    )


def _check_not_installed(folder: Path, registry: Registry) -> None:
    """A file beside installed plugins would not be found: these come in by their entry points alone."""
    for plugin in registry.plugins:
        installed = plugin.file is not None and plugin.source != str(plugin.file)
        if installed and plugin.file is not None and plugin.file.parent.resolve() == folder.resolve():
            raise ScaffoldError(
                f"{folder} has the plugins of {plugin.source}, which come in by their entry points; "
                "work in another folder, or name one with --into"
            )


def _tell(paths: list[Path]) -> None:
    for path in paths:
        typer.echo(f"wrote {path}")


def _steps(name: str, test: str) -> str:
    steps = {
        f"compbench plugins {name}": "what others will see of it",
        f"compbench check {name}": "whether it holds to the contract",
        f"pytest {shlex.quote(test)}": "the same, as a test",
    }
    width = max(map(len, steps))
    return "\n".join(f"  {command:<{width}}   {purpose}" for command, purpose in steps.items())
