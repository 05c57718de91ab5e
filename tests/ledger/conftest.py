"""A results folder with made-up records of shipped suites: each figure is one that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compbench.ledger.claim import Claim, Entry, judged
from compbench.ledger.evidence import Evidence
from compbench.ledger.laser_paper import CHAPTERS
from compbench.measure.results import Arithmetic, Fidelity, Flops
from compbench.registry import Registry
from compbench.run.result import CellResult
from compbench.run.store import Store, SuiteRecord
from compbench.suite import load_suite
from compbench.suite.cell import Cell
from tests.report.made_up import memory

CLAIMS: Mapping[str, Claim] = {claim.id: claim for chapter in CHAPTERS for claim in chapter.claims}


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.load(None)


class Bench:
    """Writes records of shipped suites into a folder and judges claims by them."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.folder = folder
        self.registry = registry

    def cells(self, suite: str) -> list[Cell]:
        return load_suite(suite, self.registry, elsewhere=True).cells(self.registry)

    def write(self, suite: str, figures: Mapping[str, Mapping[str, Any]], **change: Any) -> Path:
        """Records of the arms that have figures; a figure that is a function is asked with the cell.

        Args:
            suite: a shipped suite's name.
            figures: of each arm, fields of its records.
            change: fields of the cells that are other than the suite's.
        """
        loaded = load_suite(suite, self.registry, elsewhere=True)
        cells = [cell.model_copy(update=change) for cell in loaded.cells(self.registry)]
        store = Store.create(self.folder, loaded.name)
        for cell in cells:
            if cell.arm in figures:
                fields = {name: value(cell) if callable(value) else value for name, value in figures[cell.arm].items()}
                store.save(record(cell, **fields))
        store.save_suite(
            SuiteRecord(
                name=loaded.name,
                description="",
                margins=dict(loaded.margins),
                lower_is_better=[],
                keys=[cell.key for cell in cells],
                command="compbench run",
            )
        )
        return store.directory

    def judge(self, claim: str) -> Entry:
        return judged(CLAIMS[claim], Evidence([self.folder]))

    def verdict(self, claim: str) -> str:
        return self.judge(claim).finding.verdict


def record(cell: Cell, **fields: Any) -> CellResult:
    """A record that is ok."""
    made = {
        "weights_hash": f"weights {cell.seed}",
        "order_hash": f"order {cell.seed}",
        "memory": memory(),
        "metrics": {"solved": 0.5, "token_accuracy": 0.9},
        **fields,
    }
    return CellResult(key=cell.key, cell=cell, status="ok", **made)


def cosine(value: float, start: float = 0.99) -> Fidelity:
    return Fidelity(gradient_cosine_start=start, gradient_cosine=value, smallest_parameter_cosine=value)


def operations(total: int, plain: int = 1_000_000) -> Arithmetic:
    flops = Flops(forward=total, backward=0, update=0)
    return Arithmetic(flops=flops, uncompressed_flops=Flops(forward=plain, backward=0, update=0))


def curve(*values: float) -> list[dict[str, float]]:
    return [{"step": float(step), "fidelity": value} for step, value in enumerate(values, start=1)]


@pytest.fixture
def bench(tmp_path: Path, registry: Registry) -> Bench:
    return Bench(tmp_path, registry)
