"""``compbench plugins``: the listing, one description, and both as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from compbench.cli.plugins_command import plugins
from compbench.errors import PluginError, SettingsError
from compbench.report.formats import Screen
from tests.hook_examples import example, write_examples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_examples(tmp_path)
    (tmp_path / "bad.py").write_text("def f():\n    raise ValueError('so [bold]bad[/bold]')\n\n\nf()\n")
    return tmp_path


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(plugins)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_everything_is_listed_with_kind_summary_source_and_status(folder: Path) -> None:
    result = run("--plugins-dir", folder)
    assert result.exit_code == 0
    rows = {line.split()[1]: line for line in result.stdout.splitlines() if "ok" in line.split()}
    assert rows["half"].split(maxsplit=2)[0] == "strategy"
    assert "Keeps every activation in 16 bits." in rows["half"]
    assert str(folder / "compressors.py") in rows["half"]
    assert rows["echo"].startswith("workload")
    assert rows["output_norm"].startswith("metric")
    assert rows["lines"].startswith("reporter")
    assert "compbench_cell_started" in rows["cell_started"]


def test_a_broken_plugin_is_listed_with_its_traceback_and_is_no_failure(folder: Path) -> None:
    result = run("--plugins-dir", folder)
    assert result.exit_code == 0
    assert f"broken: bad ({folder / 'bad.py'})" in result.stdout
    assert f'  File "{folder / "bad.py"}", line 5, in <module>' in result.stdout
    assert "ValueError: so [bold]bad[/bold]" in result.stdout


def test_a_name_that_is_claimed_twice_is_listed_with_both_sources(folder: Path) -> None:
    (folder / "mine.py").write_text(example("compbench_compressors"))
    content = json.loads(run("--json", "--plugins-dir", folder).stdout)
    rows = [row for row in content["plugins"] if row["name"] == "half"]
    assert [(row["status"], row["file"]) for row in rows] == [
        ("conflict", str(folder / "compressors.py")),
        ("conflict", str(folder / "mine.py")),
    ]
    (conflict,) = content["conflicts"]
    assert f"conflict: {conflict}" in run("--plugins-dir", folder).stdout


def test_one_name_shows_its_docstring_and_fields(folder: Path) -> None:
    result = run("half", "--plugins-dir", folder)
    assert result.exit_code == 0
    assert result.stdout.startswith(
        f"strategy half ({folder / 'compressors.py'})\n\nKeeps every activation in 16 bits.\n"
    )
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("brain")]
    assert re.split(r"\s{2,}", line) == ["brain", "true or false", "true", "bfloat16 instead of float16"]


def test_json_has_the_same(folder: Path) -> None:
    content = json.loads(run("half", "--json", "--plugins-dir", folder).stdout)
    (half,) = content["plugins"]
    assert (half["kind"], half["name"], len(half["sha256"])) == ("strategy", "half", 64)
    (field,) = half["fields"]
    assert (field["name"], field["allowed"], field["default"]) == ("brain", "true or false", "true")
    assert field["schema"]["type"] == "boolean"
    listed = json.loads(run("--json", "--plugins-dir", folder).stdout)
    (broken,) = listed["broken"]
    assert (broken["name"], broken["reason"]) == ("bad", "ValueError: so [bold]bad[/bold]")


def test_a_metric_has_no_fields(folder: Path) -> None:
    result = run("output_norm", "--plugins-dir", folder)
    assert result.stdout.startswith("metric output_norm")
    assert "(no description)" in result.stdout


def test_an_unknown_name_names_the_nearest(folder: Path) -> None:
    error = run("hafl", "--plugins-dir", folder).exception
    assert isinstance(error, SettingsError)
    assert "unknown plugin 'hafl'; did you mean 'half'?" in str(error)


def test_the_name_of_a_broken_plugin_gives_its_reason(folder: Path) -> None:
    error = run("bad", "--plugins-dir", folder).exception
    assert isinstance(error, PluginError)
    assert "is broken: ValueError: so" in str(error)


def test_a_terminal_gets_a_table_of_its_width_without_markup(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compbench.cli.printing.screen", lambda: Screen(90, styles=True, colours=True))
    text = (folder / "compressors.py").read_text().replace("Keeps every activation in 16 bits.", "For [laser, int8].")
    (folder / "compressors.py").write_text(text)
    result = run("--plugins-dir", folder)
    table = result.stdout.partition("\nbroken")[0]
    assert "For [laser, int8]." in table
    assert max(map(len, table.splitlines())) <= 90


STRATEGY = '''"""``squeeze``: not what is looked for.

It is ``a . b`` of the rows. Keeps ``z = s . v`` of every row,
on two lines. And more.
{error}
Source: Some and Others (arXiv 1234.56789), their ``x | y``. It departs from it.
"""

from typing import ClassVar

from compbench import Compressor, hookimpl


class Squeeze(Compressor):
    """Squeezes | rows.

    At length.
    """

    name: ClassVar[str] = "squeeze"
    exact: ClassVar[bool] = {exact}

    def codec(self, site, generator):
        return None


@hookimpl
def compbench_compressors():
    return [Squeeze]
'''


def strategy_row(folder: Path, error: str = "", exact: bool = False, text: str = STRATEGY) -> list[str]:
    (folder / "squeeze.py").write_text(text.format(error=error, exact=exact))
    result = run("--format", "github", "--plugins-dir", folder)
    assert result.exit_code == 0
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("| `squeeze`")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def test_the_table_of_strategies_has_the_sentences_of_their_files(tmp_path: Path) -> None:
    assert strategy_row(tmp_path, error="\nError: biased, and large. Or so.\n") == [
        "`squeeze`",
        r"Squeezes \| rows",
        "`z = s . v` of every row, on two lines",
        "biased, and large",
        r"Some and Others (arXiv 1234.56789), their `x \| y`",
    ]


@pytest.mark.parametrize(("exact", "shown"), [(True, "none"), (False, "lossy")])
def test_a_strategy_that_says_nothing_of_its_error_is_lossy_unless_it_is_exact(
    tmp_path: Path, exact: bool, shown: str
) -> None:
    assert strategy_row(tmp_path, exact=exact)[3] == shown


def test_without_these_sentences_a_strategy_keeps_what_the_title_says_and_has_no_source(tmp_path: Path) -> None:
    text = re.sub(r'"""``squeeze``.*?"""', '"""``squeeze``: keeps half."""', STRATEGY, count=1, flags=re.DOTALL)
    assert strategy_row(tmp_path, text=text)[2:] == ["half", "lossy", "-"]
    text = text.replace('"""``squeeze``: keeps half."""', "")
    assert strategy_row(tmp_path, text=text)[2:] == ["-", "lossy", "-"]


def test_the_table_of_strategies_in_plain_columns(tmp_path: Path) -> None:
    strategy_row(tmp_path)
    result = run("--format", "terminal", "--plugins-dir", tmp_path)
    header, _, *rows = result.stdout.splitlines()
    assert re.split(r"\s{2,}", header.strip()) == ["name", "what it does", "keeps", "error", "source"]
    assert any(row.startswith("squeeze ") and "Squeezes | rows" in row for row in rows)


@pytest.mark.parametrize(
    ("layout", "shown"),
    [
        ("latex_booktabs", r"\texttt{x \textbar{} y}"),
        ("html", "their <code>x | y</code>"),
        ("csv", "squeeze,Squeezes | rows,"),
        ("json", '"name": "squeeze"'),
    ],
)
def test_the_table_of_strategies_in_other_formats(tmp_path: Path, layout: str, shown: str) -> None:
    strategy_row(tmp_path)
    assert shown in run("--format", layout, "--plugins-dir", tmp_path).stdout


def test_an_unknown_format_names_the_nearest(folder: Path) -> None:
    error = run("--format", "githbu", "--plugins-dir", folder).exception
    assert str(error).startswith("--format: unknown format 'githbu'; did you mean 'github'? (allowed: csv, github, ")


def test_what_the_table_of_strategies_leaves_out_is_said_beside_it(folder: Path) -> None:
    result = run("--format", "github", "--plugins-dir", folder)
    assert "left out" not in result.stdout
    assert "is broken: ValueError: so [bold]bad[/bold]" in result.stderr


@pytest.mark.parametrize("beside", ["half", "--json"])
def test_the_table_of_strategies_is_of_all_of_them(folder: Path, beside: str) -> None:
    error = run(beside, "--format", "github", "--plugins-dir", folder).exception
    assert isinstance(error, SettingsError)
    assert str(error).startswith("--format beside ")
