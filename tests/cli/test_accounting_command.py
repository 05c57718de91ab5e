"""``compbench accounting`` as its user sees it."""

import csv
import io
import json
import sys

import pytest

from compbench.cli import main
from tests.report.made_up import outcome, result, write
from tests.report.test_accounting_tables import site, with_sites


@pytest.fixture
def compbench(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["compbench", "accounting", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return invoke


def test_without_results_the_papers_tables_are_printed(compbench):
    status, out, err = compbench()
    assert (status, err) == (0, "")
    for number in ("2.850", "1.136", "1.225", "0.904", "92.5", "57.3", "53.6"):
        assert number in out


def test_one_table_is_raw_numbers(compbench):
    _, out, _ = compbench("--of", "arms", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [int(row["per_call_bytes"]) for row in rows] == [2_849_792_000, 1_224_876_800, 1_135_993_600]
    assert json.loads(compbench("--format", "json")[1])["rows"][0]["site"] == "mlp_3072"


def test_results_are_counted(compbench, tmp_path):
    write(tmp_path / "results", outcome([with_sites(0, site("a", 2, 3_280))]))
    status, out, _ = compbench("results/made_up", "--format", "csv")
    assert status == 0
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["name"], row["ranks"], float(row["raw_bytes"])) == ("a", "2", 16000)


def test_results_without_ranks_are_told(compbench, tmp_path):
    write(tmp_path / "results", outcome([result()]))
    status, out, err = compbench("results/made_up")
    assert (status, out) == (2, "")
    assert "no record of a strategy with a rank" in err
