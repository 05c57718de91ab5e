"""What a suite asks, in one sentence made from its cells and margins."""

from __future__ import annotations

from collections.abc import Iterable

from compbench.report.outcome import Outcome
from compbench.report.rows import make_rows
from compbench.report.tables import RATES, figures, metric_names, words
from compbench.report.verdicts import REFERENCE

_MOST_NAMES = 8


def question(outcome: Outcome) -> str:
    """The question that a suite's results answer, with names of arms between backticks."""
    arms = list(dict.fromkeys(cell.arm for cell in outcome.cells))
    references = [arm for arm in arms if arm in _references(outcome)]
    others = [arm for arm in arms if arm not in references]
    depths = sorted({cell.depth for cell in outcome.cells})
    where = f"at recursion depth{'s' if len(depths) > 1 else ''} {listed(map(str, depths))}"
    metrics = [words(name) for name in metric_names(make_rows(outcome))]
    becomes = f"what becomes of {listed(metrics)}" if metrics else ""
    if not others:
        return _asked(f"What does a step without compression hold for its backward pass {where}", becomes)
    who = listed(f"`{arm}`" for arm in others) if len(others) <= _MOST_NAMES else f"each of {len(others)} arms"
    several = 1 < len(others) <= _MOST_NAMES
    cost = f"what do{'' if several else 'es'} {'their' if several else 'its'} steps cost in time"
    if not references:
        return _asked(f"What does a step under {who} hold for its backward pass {where}", cost, becomes)
    step = f"a step under {who} hold for its backward pass than one under `{references[0]}`"
    margins = [_loss(metric, margin) for metric, margin in outcome.margins.items()]
    loses = f"{'do they' if several else 'does it'} lose less than {listed(margins)}" if margins else becomes
    return _asked(f"How much less does {step} {where}", cost, loses)


def listed(names: Iterable[str]) -> str:
    """Names in a row, as a sentence has them."""
    *found, last = [*names] or [""]
    return f"{', '.join(found)} and {last}" if found else last


def _references(outcome: Outcome) -> set[str]:
    """Labels of the arms that compress nothing."""
    plain = {
        cell.arm
        for cell in outcome.cells
        if cell.result and [plugin.name for plugin in cell.result.cell.strategy] == [REFERENCE]
    }
    return plain | {REFERENCE}


def _loss(metric: str, margin: float) -> str:
    amount = f"{100 * margin:.3g} points" if metric in RATES else figures(margin)
    return f"{amount} of {words(metric)}"


def _asked(*questions: str) -> str:
    *first, last = [question for question in questions if question]
    return f"{', '.join(first)}, and {last}?" if first else f"{last}?"
