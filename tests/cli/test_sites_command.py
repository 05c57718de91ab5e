"""``compbench sites`` as its user sees it: what is listed, what is left out, and the exit status."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compbench.cli import main
from compbench.registry import Registry
from compbench.report.site_tables import size as size_in_words
from compbench.run.result import CellResult
from compbench.run.store import Store
from compbench.suite import load_suite

SUITE = """
name: tiny
workload: {name: trm_maze, grid: 5, train_mazes: 8, validation_mazes: 4, hidden: 32, heads: 2, inner: 48}
arms:
  none: none
  int8: int8
  gale: {gale: {rank: 8}}
  lance: {lance: {rank: 8, energy: 0.9}}
matrix:
  depth: [2, 4]
  seed: [0, 1]
  gale.rank: [4, 8]
training: {batch_size: 8}
device: cpu
"""
HOOKS = "capture: {routes: hooks}\n"  # so that there are many sites
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.yaml").write_text(SUITE + HOOKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def compbench(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line; gives its exit status, output and errors."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["compbench", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return invoke


def rows(out: str, first: str) -> list[list[str]]:
    """The rows of the table whose first column is called ``first``."""
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if re.match(rf"{first}  ", line))
    table = [*lines[start + 2 :], ""]
    return [re.split(r"\s{2,}", line) for line in table[: table.index("")]]


def test_an_arm_is_listed_at_the_deepest_depth_site_by_site(compbench: Command) -> None:
    status, out, err = compbench("sites", "tiny.yaml", "--only", "arm=int8")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "int8, depth 4, batch 8, fp32"
    assert rows(out, "site")[:2] == [
        ["block.attn.qkv/attn_32", "4", "200", "32", "float32", "102 kB", "28.8 kB", "71.9", "weight-only"],
        ["block.attn/attn_32", "4", "200", "32", "float32", "102 kB", "28.8 kB", "71.9", "propagating"],
    ]
    assert ["block/block_1", "8", "200", "1", "float32", "6.40 kB"] in [row[:6] for row in rows(out, "site left raw")]
    assert "\ntotal: raw 1.68 MB, kept 466 kB, saved 72.2 %\n" in out
    assert "arm  " not in out


def test_sites_of_a_module_stand_side_by_side(compbench: Command) -> None:
    _, out, _ = compbench("sites", "tiny.yaml", "--only", "arm=int8")
    modules = [row[0].partition("/")[0] for row in rows(out, "site")]
    assert len([name for name, _ in itertools.groupby(modules)]) == len(set(modules))


def test_seeds_are_left_out_and_several_arms_end_in_their_totals(compbench: Command) -> None:
    status, out, _ = compbench("sites", "tiny.yaml")
    assert status == 0
    totals = rows(out, "arm")
    assert [row[:2] for row in totals] == [
        ["none", "4"],
        ["int8", "4"],
        ["gale gale.rank=4", "4"],
        ["gale gale.rank=8", "4"],
        ["lance", "4"],
    ]
    assert totals[0][6] == "0.0"
    assert totals[-1][5:] == ["?", "?"]
    assert "12 sites can't tell beforehand what they will keep" in out


def test_a_part_of_the_suite_is_chosen_as_in_run(compbench: Command) -> None:
    _, out, _ = compbench("sites", "tiny.yaml", "--only", "depth=2,4", "--only", "arm=int*", "--only", "seed=1")
    assert [line for line in out.splitlines() if line.startswith("int8,")] == [
        "int8, depth 2, batch 8, fp32",
        "int8, depth 4, batch 8, fp32",
    ]


def test_json_has_every_figure(compbench: Command) -> None:
    status, out, _ = compbench("sites", "tiny.yaml", "--json", "--only", "gale.rank=8", "--only", "arm=gale,lance")
    assert status == 0
    content = json.loads(out)
    assert content["suite"] == "tiny"
    (gale,) = content["cells"]
    assert (gale["arm"], gale["depth"], gale["variant"]) == ("gale", 4, {"gale.rank": 8})
    assert gale["raw_bytes"] == sum(site["raw_bytes"] for site in gale["sites"])
    assert gale["kept_bytes"] == sum(site["kept_bytes"] for site in gale["sites"])
    (qkv,) = [site for site in gale["sites"] if site["name"] == "block.attn.qkv/attn_32"]
    assert qkv == {
        "name": "block.attn.qkv/attn_32",
        "module": "block.attn.qkv",
        "role": "attn_32",
        "width": 32,
        "rows": 200,
        "calls": 4,
        "dtype": "float32",
        "raw_bytes": 4 * 200 * 32 * 4,
        "kept_bytes": 4 * 200 * 8 * 4 + 32 * 8 * 4,
        "rank": 8,
        "propagating": False,
        "reason": "",
    }


def test_patterns_of_the_suite_are_followed(compbench: Command, folder: Path) -> None:
    (folder / "tiny.yaml").write_text(SUITE + "capture: {routes: hooks, sites: ['block.mlp*', '!width:<48']}\n")
    _, out, _ = compbench("sites", "tiny.yaml", "--only", "arm=int8")
    assert [row[0] for row in rows(out, "site")] == ["block.mlp/mlp_96", "block.mlp/mlp_48", "block.mlp.down/mlp_48"]
    raw = {row[0]: row[-1] for row in rows(out, "site left raw")}
    assert raw["block.attn.qkv/attn_32"] == "not among the chosen sites"


def test_a_pattern_that_matches_no_site_is_an_error_with_the_nearest(compbench: Command, folder: Path) -> None:
    (folder / "tiny.yaml").write_text(SUITE + "capture: {routes: hooks, sites: [block.mpl]}\n")
    status, out, err = compbench("sites", "tiny.yaml", "--only", "arm=int8")
    assert (status, out) == (2, "")
    assert err.startswith("error: arm 'int8' at depth 4: sites pattern 'block.mpl' matches none of the 12 sites; ")
    assert "nearest: block.mlp, " in err


def test_values_give_the_same_listing(compbench: Command) -> None:
    without = compbench("sites", "tiny.yaml", "--only", "arm=int8,none")
    assert compbench("sites", "tiny.yaml", "--only", "arm=int8,none", "--values") == without


def test_a_suite_for_a_device_that_is_not_here_is_listed_too(compbench: Command, folder: Path) -> None:
    (folder / "tiny.yaml").write_text(SUITE.replace("device: cpu", "device: cuda"))
    assert compbench("sites", "tiny.yaml", "--only", "arm=int8")[0] == 0


def test_a_broken_arm_is_left_out_and_told_of(compbench: Command, folder: Path) -> None:
    (folder / "plugins").mkdir()
    (folder / "plugins" / "mine.py").write_text("raise ValueError('boom')\n")
    (folder / "tiny.yaml").write_text(SUITE.replace("  int8: int8", "  int8: int8\n  mine: mine"))
    status, out, err = compbench("sites", "tiny.yaml", "--only", "arm=int8,mine")
    assert status == 0
    assert out.startswith("int8, depth 4")
    assert err.startswith("warning: arm 'mine' is left out: ")
    assert "ValueError: boom" in err
    status, out, err = compbench("sites", "tiny.yaml", "--only", "arm=mine")
    assert (status, out) == (2, "")
    assert "the plugin of every selected arm is broken" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.yaml"], "missing.yaml"),
        (["tiny.yaml", "--format", "gitbub"], "--format: unknown format 'gitbub'; did you mean 'github'?"),
        (["tiny.yaml", "--only", "dept=2"], "unknown axis 'dept'; did you mean 'depth'?"),
        (["tiny.yaml", "--plugins-dir", "nowhere"], "nowhere"),
        (["large.yaml"], "batch_size is 9, but there are only 8 training examples"),
    ],
)
def test_bad_input_is_one_message_with_status_2(
    compbench: Command, folder: Path, arguments: list[str], message: str
) -> None:
    (folder / "large.yaml").write_text(SUITE.replace("batch_size: 8", "batch_size: 9"))
    status, out, err = compbench("sites", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


@pytest.mark.parametrize(
    ("layout", "start"),
    [
        ("github", "| site"),
        ("latex_booktabs", "% Needs"),
        ("html", "<table>\n<caption>int8, depth 4, batch 8, fp32: sites that are compressed"),
    ],
)
def test_other_formats_have_the_same_tables(compbench: Command, layout: str, start: str) -> None:
    status, out, err = compbench("sites", "tiny.yaml", "--only", "arm=int8", "--format", layout)
    assert (status, err) == (0, "")
    assert out.startswith(f"int8, depth 4, batch 8, fp32\n\n{start}")
    assert "not among" not in out
    assert "outside the model" in out


def test_csv_has_a_row_a_site_with_its_raw_numbers(compbench: Command) -> None:
    asked = ("sites", "tiny.yaml", "--only", "arm=int8,none")
    rows = list(csv.DictReader(io.StringIO(compbench(*asked, "--format", "csv")[1])))
    cells = json.loads(compbench(*asked, "--format", "json")[1])["cells"]
    assert compbench(*asked, "--json")[1] == compbench(*asked, "--format", "json")[1]
    sites = [(cell["arm"], site) for cell in cells for site in cell["sites"]]
    assert [(row["arm"], row["site"], int(row["raw_bytes"])) for row in rows] == [
        (arm, site["name"], site["raw_bytes"]) for arm, site in sites
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "?"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9996, "10.0 kB"),
        (999_600, "1.00 MB"),
        (4e12, "4000 GB"),
    ],
)
def test_sizes_have_three_digits_and_a_unit(size: int | None, text: str) -> None:
    assert size_in_words(size) == text


@pytest.mark.parametrize("name", ["paper/depth"])
def test_the_largest_shipped_suite_is_listed_without_its_memory(compbench: Command, name: str) -> None:
    status, out, _ = compbench("sites", name, "--only", "arm=laser", "--only", "depth=25", "--json")
    assert status == 0
    (cell,) = json.loads(out)["cells"]
    assert cell["raw_bytes"] > 4e9
    assert cell["kept_bytes"] < 1e9


def test_a_cell_is_listed_by_its_key_as_in_its_suite(compbench: Command, folder: Path) -> None:
    registry = Registry.load()
    cell = next(c for c in load_suite("tiny.yaml", registry).cells(registry) if (c.arm, c.depth) == ("int8", 2))
    Store.create(folder / "results", "tiny").save(CellResult(key=cell.key, cell=cell, status="ok"))
    of_suite = compbench("sites", "tiny.yaml", "--only", "arm=int8", "--only", "depth=2", "--json")
    assert compbench("sites", cell.key, "--json") == of_suite
    assert compbench("sites", f"results/tiny/cells/{cell.key}.json", "--json") == of_suite
