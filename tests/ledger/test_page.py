"""The ledger as a whole: what it says without evidence, and the page that ships."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from compbench.cli import main
from compbench.ledger.claim import VERDICTS
from compbench.ledger.evidence import Evidence
from compbench.ledger.laser_paper import CHAPTERS, TITLE
from compbench.ledger.page import judge_all, ledger_page
from tests.ledger.conftest import CLAIMS, Bench
from tests.report.made_up import memory

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("results/small", "results/paper", "results/questions", "results")

WITHOUT_EVIDENCE = {
    "T1-memory": "reproduced",
    "T1-absolute": "can't be tested at this scale",
    "T1-not-significant": "reproduced",
    "T1-power": "can't be right as printed",
    "T2-savings": "reproduced",
    "T2-share": "can't be right as printed",
    "T2-final-ranks": "can't be right as printed",
    "A-line-21": "can't be right as printed",
    "C-memory": "can't be right as printed",
    "C-covariance": "can't be right as printed",
    "G-rank-24": "can't be right as printed",
    "Q-outliers": "can't be right as printed",
    "P1-fidelity": "reproduced",
    "Co1-cosine": "reproduced",
    "6.1-GALE-what": "can't be right as printed",
}
"""What arithmetic alone decides."""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["compbench", "ledger", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_without_results_all_that_needs_them_is_not_run_yet(tmp_path: Path) -> None:
    judgements = judge_all(CHAPTERS, Evidence([tmp_path]))
    found = {entry.claim.id: entry.finding for _, entries in judgements for entry in entries}
    assert {name: finding.verdict for name, finding in found.items() if finding.verdict != "not run yet"} == (
        WITHOUT_EVIDENCE
    )
    assert all(not finding.number for finding in found.values() if finding.verdict == "not run yet")
    page = ledger_page(TITLE, judgements, "compbench ledger")
    assert "To run it: `compbench run suites/small/table1.yaml --jobs 2 --results results/small`" in page


def test_records_of_another_model_are_no_evidence(bench: Bench) -> None:
    (cell, *_) = bench.cells("small/table1")
    fields = {**cell.workload.fields, "hidden": 32}
    workload = cell.workload.model_copy(update={"fields": fields})
    bench.write("small/table1", {"laser_quarter": {}, "laser_half": {"memory": memory(1)}}, workload=workload)
    finding = bench.judge("T1-saving-small").finding
    assert finding.verdict == "not run yet"
    assert "its records differ in workload's settings" in finding.why


def test_a_suite_of_which_a_part_has_been_run_says_how_many_seeds(bench: Bench) -> None:
    folder = bench.write("small/table1", {"laser_quarter": {}, "laser_half": {}})
    for file in (folder / "cells").glob("*-s10[1234]-*.json"):
        file.unlink()
    assert "1 seed of 5" in bench.judge("T1-saving-small").finding.number


def test_claims_have_all_that_the_page_says(bench: Bench) -> None:
    assert len(CLAIMS) == sum(len(chapter.claims) for chapter in CHAPTERS)  # no name twice
    for claim in CLAIMS.values():
        assert all((claim.place, claim.words, claim.rule, claim.source, claim.scale, claim.change))
        assert claim.change.endswith(".")


def test_the_page_that_ships_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run(monkeypatch, *FOLDERS, "--check", "docs/paper.md") == 0


def test_verdicts_are_counted_and_linked(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "paper.md").read_text()
    counts = {verdict: int(re.search(rf"^\| {re.escape(verdict)} \| (\d+)", page, re.M)[1]) for verdict in VERDICTS}
    assert sum(counts.values()) == len(CLAIMS)
    for verdict, count in counts.items():
        assert len(re.findall(rf"^\| \[.*\| \*\*{re.escape(verdict)}\*\* \|", page, re.M)) == count
    anchors = set(re.findall(r"\]\(#(.*?)\)", page))
    headings = {
        re.sub(r"[^a-z0-9 _-]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^### (.*)$", page, re.M)
    }
    assert anchors == headings


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert run(monkeypatch, "empty", "--write", "page.md") == 0
    assert f"{len(CLAIMS)} claims:" in capsys.readouterr().out
    assert run(monkeypatch, "empty", "--check", "page.md") == 0
    (tmp_path / "page.md").write_text((tmp_path / "page.md").read_text().replace("reproduced", "refuted", 1))
    assert run(monkeypatch, "empty", "--check", "page.md") == 1
    assert "differ from line" in capsys.readouterr().err
    assert run(monkeypatch, "nowhere") == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
    assert run(monkeypatch, "empty", "--check", "a", "--write", "b") == 2
