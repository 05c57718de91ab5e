"""What a suite asks, in one sentence made from its cells and margins."""

from __future__ import annotations

from compbench.report.amounts import tolerance
from compbench.report.outcome import Outcome
from compbench.report.pairing import REFERENCE, is_reference
from compbench.report.rows import make_rows, metric_names
from compbench.report.wording import listed, words

_MOST_NAMES = 8


def question(outcome: Outcome) -> str:
    """The question that a suite's results answer, with names of arms between backticks."""
    arms = list(dict.fromkeys(cell.arm for cell in outcome.cells))
    references = [arm for arm in arms if arm in _references(outcome)]
    others = [arm for arm in arms if arm not in references]
    depths = sorted({cell.depth for cell in outcome.cells})
    where = f"at recursion depth{'s' if len(depths) > 1 else ''} {listed([str(depth) for depth in depths])}"
    metrics = [words(name) for name in metric_names(make_rows(outcome))]
    becomes = f"what becomes of {listed(metrics)}" if metrics else ""
    if not others:
        return _asked(f"What does a step without compression hold for its backward pass {where}", becomes)
    who = listed([f"`{arm}`" for arm in others]) if len(others) <= _MOST_NAMES else f"each of {len(others)} arms"
    several = 1 < len(others) <= _MOST_NAMES
    cost = f"what do {'their' if several else 'its'} steps cost in time"
    if not references:
        return _asked(f"What does a step under {who} hold for its backward pass {where}", cost, becomes)
    step = f"a step under {who} hold for its backward pass than one under `{references[0]}`"
    margins = [f"{tolerance(metric, margin)} of {words(metric)}" for metric, margin in outcome.margins.items()]
    loses = f"{'do they' if several else 'does it'} lose less than {listed(margins)}" if margins else becomes
    return _asked(f"How much less does {step} {where}", cost, loses)


def _references(outcome: Outcome) -> set[str]:
    """Labels of the arms that compress nothing."""
    return {REFERENCE, *(cell.arm for cell in outcome.cells if cell.result and is_reference(cell.result.cell))}


def _asked(*questions: str) -> str:
    *first, last = [question for question in questions if question]
    return f"{', '.join(first)}, and {last}?" if first else f"{last}?"
