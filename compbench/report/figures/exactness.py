"""Which arms lose nothing, as far as a store tells, with no plugin at hand."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from compbench.report.outcome import Outcome
from compbench.report.rows import ok_results
from compbench.report.verdicts import REFERENCE
from compbench.run.result import CellResult

Evidence = Literal["said", "seen"]
"""The strategy said so when it ran, or every loss of its training is that of the reference, bit for bit."""

_FEWEST_STEPS = 3
"""Of fewer losses nothing is concluded: the first is that of the initial weights whatever is compressed."""


def exact_arms(outcome: Outcome) -> dict[str, Evidence]:
    """The arms that are exact or lossless, and how that is known; of others it is not known, or known to be otherwise.

    Records say since their fourth version what a strategy says of itself. Of older ones there is evidence: a training
    whose losses are those of the same training without compression, step for step and bit for bit, has lost nothing.
    """
    found: dict[str, Evidence] = {}
    curves = {tuple(result.loss_curve) for result in ok_results(outcome.cells) if _is_reference(result)}
    for arm in dict.fromkeys(cell.arm for cell in outcome.cells):
        results = ok_results(cell for cell in outcome.cells if cell.arm == arm)
        if not results:
            continue
        if all(result.exactness is not None for result in results):
            if all(result.exactness != "lossy" for result in results):
                found[arm] = "said"
        elif all(_is_reference(result) or _is_one_of(result, curves) for result in results):
            found[arm] = "seen"
    return found


def _is_reference(result: CellResult) -> bool:
    return [plugin.name for plugin in result.cell.strategy] == [REFERENCE]


def _is_one_of(result: CellResult, curves: Collection[tuple[float, ...]]) -> bool:
    return len(result.loss_curve) >= _FEWEST_STEPS and tuple(result.loss_curve) in curves
