"""A comparison as a table: a row for each figure of each pair, and what keeps others from being compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compbench.report.axes import shown
from compbench.report.best import is_reference_row
from compbench.report.columns import Spread, heading, in_unit
from compbench.report.comparability import told
from compbench.report.comparison import RATIOS, Change, Comparison, Decision, Mark, Pair, Side
from compbench.report.formats import Place, Table, Tone
from compbench.report.outcome import PlannedCell
from compbench.report.quantities import Quantity, moment
from compbench.report.statistics import ALPHA
from compbench.report.wording import (
    NOT_AVAILABLE,
    difference,
    difference_unit,
    figures,
    fixed,
    is_there,
    unit_of_bytes,
    words,
)

SCHEMA_VERSION = 1
"""Of the JSON that comparisons are written in."""

_MARKS: Mapping[str, str] = {
    "!": "!: some cell was ok in A and is not in B.",
    "*": "*: some cell was not ok in A and is in B.",
}
_MARK_TONES: Mapping[Mark, Tone] = {"!": "bad", "!*": "bad", "*": "good", "x": "doubtful"}
_DECISION_TONES: Mapping[Decision, Tone] = {"non-inferior": "good", "degraded": "bad", "inconclusive": "doubtful"}

_DECISIONS: Mapping[Decision, str] = {
    "non-inferior": "non-inferior: shown to lose less than the margin.",
    "degraded": "degraded: shown to be worse.",
    "inconclusive": "inconclusive: these seeds show neither, which is no evidence that nothing is lost.",
    "higher": "higher: shown to be higher in B.",
    "lower": "lower: shown to be lower in B.",
    "not told apart": "not told apart: these seeds do not show a difference, which is no evidence that there is none.",
    "not tested": "not tested: fewer than three pairs of seeds, or nothing to lose.",
}
_INTERVAL = "95 % interval"
_FEW = 6


def comparison_table(comparison: Comparison, spread: Spread = "sd") -> Table:
    """A row a figure: both values, the change, and what pairs of seeds show of it.

    Statuses have a row where something is not ok, or a counterpart is missing.
    """
    by, shown_columns = list(comparison.by), _shown_columns(comparison.changes)
    in_words = [words(name) for name in by if any(isinstance(pair.axes[name], str) for pair in comparison.pairs)]
    rows = _Rows(comparison, spread)
    for pair in comparison.pairs:
        rows.add(pair, [change for change in comparison.changes if change.pair is pair])
    return Table(
        headers=["", *map(words, by), *shown_columns],
        cells=rows.cells,
        words=["", *in_words, "figure", "verdict"],
        sentences=_sentences(comparison, spread),
        caption=_sides(comparison),
        best=rows.best,
        best_sentence="bold: the better of the two, as shown; chance has a part in it.",
        tones=rows.tones,
        sections=rows.sections,
        foldable={words(name): () for name in by[1:]},
        columns=_columns(by, spread),
        records=rows.records,
        facts={
            "schema_version": SCHEMA_VERSION,
            "a": {"suite": comparison.a.outcome.name, "arm": comparison.a.arm or None},
            "b": {"suite": comparison.b.outcome.name, "arm": comparison.b.arm or None},
            "by": by,
            "spread": spread,
            "margins": dict(comparison.margins),
        },
    )


class _Rows:
    """The rows of the table as they come about, one pair after the other."""

    def __init__(self, comparison: Comparison, spread: Spread) -> None:
        self._by = comparison.by
        self._spread: Spread = spread
        self._columns = _columns(comparison.by, spread)
        self._units = _units(comparison.changes)
        self._shown = _shown_columns(comparison.changes)
        self.cells: list[list[str]] = []
        self.records: list[dict[str, Any]] = []
        self.best: set[Place] = set()
        self.tones: dict[Place, Tone] = {}
        self.sections: list[int] = []
        self._after_long = False

    def add(self, pair: Pair, changes: Sequence[Change]) -> None:
        """The rows of a pair."""
        first = len(self.cells)
        statuses = [NOT_AVAILABLE if row is None else row.status for row in (pair.a, pair.b)]
        if pair.mark or statuses != ["ok", "ok"] or not changes:
            why = "; ".join(_why_not_run(pair))
            texts = dict(zip(("figure", "A", "B"), ("status", *statuses), strict=True))
            self._add(pair, pair.mark, texts, {"a": statuses[0], "b": statuses[1]}, why)
        for change in changes:
            self._add_change(pair, change)
        long = len(self.cells) - first > 1
        if first and (long or self._after_long):
            self.sections.append(first)
        self._after_long = long

    def _add_change(self, pair: Pair, change: Change) -> None:
        quantity = change.quantity
        divisor, unit = self._units.get(quantity.name, (1.0, "B"))
        a, b = (in_unit(quantity.unit, value, divisor) for value in (change.a, change.b))
        shown_a, shown_b = (self._with_spread(change, side, text, divisor) for side, text in enumerate((a, b)))
        between = "" if change.low is None or change.high is None else _interval(quantity, change.low, change.high)
        self._add(
            pair,
            "x" if change.why_not else "",
            {
                "figure": heading(quantity, unit),
                "A": shown_a,
                "B": shown_b,
                "change": _signed(quantity, change.change),
                _INTERVAL: between or NOT_AVAILABLE,
                "pairs": str(change.pairs) if change.pairs else NOT_AVAILABLE,
                "verdict": change.decision or NOT_AVAILABLE,
            },
            self._raw(change),
            "; ".join(change.why_not),
        )
        place, first = len(self.cells) - 1, 1 + len(self._by)
        if change.decision in _DECISION_TONES:
            self.tones[place, first + self._shown.index("verdict")] = _DECISION_TONES[change.decision]
        own = quantity.against_plain and any(row and is_reference_row(row) for row in (pair.a, pair.b))
        if quantity.better and not change.why_not and a != b and not own and is_there(change.a) and is_there(change.b):
            b_is_better = (change.b < change.a) == (quantity.better == "less")
            self.best.add((place, first + self._shown.index("B" if b_is_better else "A")))

    def _add(self, pair: Pair, mark: Mark, texts: Mapping[str, str], raw: Mapping[str, Any], why: str) -> None:
        if mark in _MARK_TONES:
            self.tones[len(self.cells), 0] = _MARK_TONES[mark]
        self.cells.append(
            [mark, *(shown(pair.axes[name]) for name in self._by), *(texts.get(name, "") for name in self._shown)]
        )
        record = {"mark": mark, **pair.axes, "figure": "status", **raw, "reason": why}
        self.records.append({name: record.get(name) for name in self._columns})

    def _with_spread(self, change: Change, side: int, text: str, divisor: float) -> str:
        values, quantity = change.values[side], change.quantity
        if quantity.kind != "quality" or len(values) < 2 or change.why_not:
            return text
        if self._spread == "sd":
            sd = moment(values, "sd")
            return f"{text} ± {fixed(sd, 4) if quantity.unit == 'cosine' else in_unit(quantity.unit, sd, divisor)}"
        low, high = (in_unit(quantity.unit, moment(values, name), divisor) for name in ("low", "high"))
        return f"{text} [{low}, {high}]"

    def _raw(self, change: Change) -> dict[str, Any]:
        moments = ("sd",) if self._spread == "sd" else ("low", "high")
        spreads = {
            f"{side}_{name}": moment(values, name)
            for side, values in zip("ab", change.values, strict=True)
            for name in moments
        }
        return {
            "figure": change.quantity.name,
            "a": change.a,
            "b": change.b,
            **spreads,
            "ratio": change.change if change.quantity.unit in RATIOS else None,
            "difference": change.change if change.quantity.unit not in RATIOS else None,
            "change_low": change.low,
            "change_high": change.high,
            "pairs": change.pairs,
            "verdict": change.decision or None,
            "holm_p": change.holm_p,
        }


def _shown_columns(changes: Sequence[Change]) -> list[str]:
    """The columns that are shown beside the axes: of what pairs of seeds show, those that have something in them."""
    there = {
        _INTERVAL: any(change.low is not None for change in changes),
        "pairs": any(change.pairs for change in changes),
        "verdict": any(change.decision for change in changes),
    }
    return ["figure", "A", "B", "change", *(name for name, is_there in there.items() if is_there)]


def _columns(by: Sequence[str], spread: Spread) -> list[str]:
    spreads = [f"{side}_{name}" for side in "ab" for name in (("sd",) if spread == "sd" else ("low", "high"))]
    changes = ["ratio", "difference", "change_low", "change_high", "pairs", "verdict", "holm_p", "reason"]
    return ["mark", *by, "figure", "a", "b", *spreads, *changes]


def _units(changes: Iterable[Change]) -> dict[str, tuple[float, str]]:
    """The unit of each figure that is a size, which fits the largest in any row."""
    largest: dict[str, float] = {}
    for change in changes:
        if change.quantity.unit == "bytes":
            sizes = [value for value in (change.a, change.b) if is_there(value)]
            largest[change.quantity.name] = max([largest.get(change.quantity.name, 0.0), *sizes])
    return {name: unit_of_bytes(size) for name, size in largest.items()}


def _signed(quantity: Quantity, value: float | None) -> str:
    if not is_there(value):
        return NOT_AVAILABLE
    if quantity.unit in RATIOS:
        return f"\N{MULTIPLICATION SIGN}{figures(value)}"
    text = _difference(quantity, value)
    return text if text.startswith("-") else f"+{text}"


def _difference(quantity: Quantity, value: float) -> str:
    match quantity.unit:
        case "rate":
            return fixed(100 * value, 2)
        case "share":
            return fixed(100 * value, 1)
        case "cosine":
            return fixed(value, 4)
        case _:
            return figures(value)


def _interval(quantity: Quantity, low: float, high: float) -> str:
    return f"[{_signed(quantity, low)}, {_signed(quantity, high)}]"


def _sides(comparison: Comparison) -> str:
    a, b = comparison.a, comparison.b
    elsewhere = ", in another folder" if a.outcome is not b.outcome and a.outcome.name == b.outcome.name else ""
    return f"A: {_side(a)}; B: {_side(b)}{elsewhere}"


def _side(side: Side) -> str:
    return f"{side.arm} of {side.outcome.name}" if side.arm else side.outcome.name


def _why_not_run(pair: Pair) -> list[str]:
    found = []
    for name, row in (("A", pair.a), ("B", pair.b)):
        if row is None:
            found.append(f"not in {name}")
        elif row.status == "missing":
            found.append(f"not run in {name}")
    return found


def _sentences(comparison: Comparison, spread: Spread) -> list[str]:
    changes, pairs = comparison.changes, comparison.pairs
    marks = "".join(pair.mark for pair in pairs)
    units = {change.quantity.unit in RATIOS for change in changes if change.change is not None}
    told_changes = [
        *(["\N{MULTIPLICATION SIGN} B over A"] if True in units else []),
        *(["B minus A, of percentages in points"] if False in units else []),
    ]
    beside = {"sd": "± standard deviation", "interval": "and the 95 % t interval of the true mean"}[spread]
    sentences = [
        f"{_sides(comparison)}. Figures are over the cells that are ok in both: medians "
        f"of memory and times, means {beside} of metrics and cosines.",
    ]
    if told_changes:
        sentences.append(f"change: {'; '.join(told_changes)}.")
    if any(change.low is not None for change in changes):
        sentences.append(
            "95 % interval: the t interval of the true change, paired by seed and not adjusted; of ratios by their "
            "logarithms."
        )
    sentences += _verdicts(comparison)
    sentences += [text for mark, text in _MARKS.items() if mark in marks]
    sentences += _failures(pairs)
    sentences += _not_comparable(comparison)
    sentences += _told(comparison)
    return sentences


def _verdicts(comparison: Comparison) -> list[str]:
    decisions = {change.decision for change in comparison.changes}
    tested = decisions - {"", "not tested"}
    sentences = []
    if tested:
        margins = [
            f"{difference(metric, margin)}{difference_unit(metric)} of {words(metric)}"
            for metric, margin in comparison.margins.items()
        ]
        judged = f"of metrics, whether B loses less than {' and '.join(margins)} (one-sided); " if margins else ""
        others = "of other figures of training and times" if margins else "of figures of training and times"
        sentences.append(
            f"verdict: {judged}{others}, whether they differ (two-sided); paired t tests at {100 * ALPHA:.0f} %, Holm "
            "over all rows of a figure."
        )
    sentences += [text for decision, text in _DECISIONS.items() if decision in decisions]
    if comparison.other_margins:
        names = ", ".join(map(words, comparison.other_margins))
        sentences.append(f"the margins for {names} are not the same in A and B, so that none is used.")
    return sentences


def _failures(pairs: Iterable[Pair]) -> list[str]:
    """Cells that are ok on one side alone, with what the other says."""
    found = []
    for pair in pairs:
        for a, b in pair.failures:
            mark, failed, where = ("!", b, "B") if a.status == "ok" else ("*", a, "A")
            found.append(f"{mark} {pair.name}, seed {failed.seed}: {_status(failed)} in {where}.")
    return found


def _status(cell: PlannedCell) -> str:
    reason = " ".join(cell.result.reason.split()) if cell.result else ""
    return f"{cell.status} ({reason})" if reason else cell.status


def _not_comparable(comparison: Comparison) -> list[str]:
    """Each reason why something is not comparable, with the figures and rows that it is the reason of."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for pair in comparison.pairs:
        for why in _why_not_run(pair):
            found.setdefault(why, ({}, {}))[1][pair.name] = None
    for change in comparison.changes:
        for why in change.why_not:
            titles, rows = found.setdefault(why, ({}, {}))
            titles[change.quantity.title] = None
            rows[change.pair.name] = None
    everywhere = {change.pair.name for change in comparison.changes}
    together: dict[str, list[str]] = {}
    for why, (titles, rows) in found.items():
        where = f"{_few([*titles])} ({_where([*rows], everywhere)})" if titles else _few([*rows])
        together.setdefault(where, []).append(why)
    return [f"x: {where}: {', '.join(reasons)}." for where, reasons in together.items()]


def _told(comparison: Comparison) -> list[str]:
    """In what A and B differ that is no reason against a comparison."""
    arms_differ = comparison.a.arm != comparison.b.arm
    found: dict[str, dict[str, None]] = {}
    compared = {pair.name for pair in comparison.pairs if pair.matches}
    for pair in comparison.pairs:
        for match in pair.matches:
            for line in told(match, arms_differ):
                found.setdefault(line, {})[pair.name] = None
    together: dict[str, list[str]] = {}
    for line, rows in found.items():
        together.setdefault(_where([*rows], compared), []).append(line)
    return [f"B differs from A ({where}): {', '.join(lines)}." for where, lines in together.items()]


def _where(rows: Sequence[str], everywhere: set[str]) -> str:
    if len(rows) > 1 and set(rows) == everywhere:
        return "every row"
    return _few(rows)


def _few(names: Sequence[str]) -> str:
    more = len(names) - _FEW
    return "; ".join(names[:_FEW]) + (f" and {more} more" if more > 0 else "")
