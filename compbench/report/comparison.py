"""Two sets of results held against each other, figure by figure: what changed, and what can't be compared.

A and B are two results folders, or two arms. Their rows are paired by what they are grouped by, and within two rows
their cells by depth, seed and further axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from compbench.errors import SettingsError, unknown
from compbench.report.axes import Axes, cell_axes, check_axes, shown
from compbench.report.comparability import Match, reasons
from compbench.report.outcome import Outcome, PlannedCell
from compbench.report.quantities import QUANTITIES, Quantity, interval
from compbench.report.rows import BY_DEFAULT, Row, figure, metric_names, ok_results, rows_of, statistic_names
from compbench.report.statistics import ALPHA, FEWEST_PAIRS, PairedTest, holm, paired_test
from compbench.report.wording import is_there
from compbench.run.result import CellResult

Mark = Literal["", "!", "*", "!*", "x"]
"""``!``: a cell that was ok in A is not in B; ``*``: the reverse; ``x``: not comparable."""

Decision = Literal["", "non-inferior", "degraded", "inconclusive", "higher", "lower", "not told apart", "not tested"]
"""The first three where both have the same margin for a metric, the next three of other figures of times and quality.
"""

FIGURES = ("saved_bytes", "peak_delta_bytes", "time_ratio", "step_seconds")
"""What is compared unless something else is asked for, beside all metrics and the gradient cosine."""

NO_FAILURES = ("ok", "missing", "skipped")
"""Statuses that are no failures."""

_MOST_NAMES = 8

RATIOS = ("bytes", "ratio", "milliseconds", "seconds", "count", "operations")
"""The units of figures whose change is a ratio; that of the others is a difference."""


@dataclass(frozen=True)
class Side:
    """One of the two: a suite's results, or one arm of them.

    Attributes:
        arm: the arm, or its label with the values of further axes; empty for all arms.
    """

    outcome: Outcome
    arm: str = ""

    def cells(self) -> tuple[PlannedCell, ...]:
        """Its cells.

        Raises:
            SettingsError: there is no such arm.
        """
        if not self.arm:
            return self.outcome.cells
        axes = cell_axes(self.outcome)
        found = tuple(c for c in self.outcome.cells if self.arm in (c.arm, axes[c.key]["arm"]))
        if not found:
            arms = {str(axes[cell.key]["arm"]) for cell in self.outcome.cells}
            raise SettingsError(f"suite '{self.outcome.name}': {unknown('arm', self.arm, arms)}")
        return found


@dataclass(frozen=True)
class Pair:
    """A row of A and the row of B that it is held against; one of them is None where the other has no counterpart.

    Attributes:
        axes: what the rows have in common, and what tells them from other pairs.
        matches: cells of both that are ok.
        across: where there are none, the first cells of both that are ok: of other seeds, but with the same settings.
        failures: for each cell that is ok in one of them and failed in the other, the two.
    """

    axes: Axes
    a: Row | None
    b: Row | None
    matches: tuple[Match, ...] = ()
    across: Match | None = None
    failures: tuple[tuple[PlannedCell, PlannedCell], ...] = ()

    @property
    def mark(self) -> Mark:
        """What became of the cells' statuses."""
        if self.a is None or self.b is None or "missing" in (self.a.status, self.b.status):
            return "x"
        new = any(a.status == "ok" for a, _ in self.failures)
        fixed = any(b.status == "ok" for _, b in self.failures)
        return "!*" if new and fixed else "!" if new else "*" if fixed else ""

    @property
    def name(self) -> str:
        """What it is called in a sentence."""
        row = self.a or self.b
        if tuple(self.axes) == BY_DEFAULT and row is not None:
            return row.name
        return ", ".join(f"{axis} {shown(value)}" for axis, value in self.axes.items())


@dataclass(frozen=True)
class Change:
    """One figure of a pair, over the cells that are ok in both.

    Attributes:
        a: the figure in A; None where it was not measured. So is ``b``.
        values: the figure of each cell, in A and in B.
        why_not: why the two are not comparable; empty where they are.
        change: ``b / a`` for figures that are ratios (:data:`RATIOS`), else ``b - a``.
        low: of the 95 % interval of the true change, from pairs of seeds; None with fewer than three. So is ``high``.
        pairs: the number of pairs of seeds that are compared, of times and quality.
        decision: what they show.
        holm_p: the p-value of that, after Holm's adjustment over all pairs of rows.
    """

    pair: Pair
    quantity: Quantity
    a: float | None
    b: float | None
    values: tuple[Sequence[float], Sequence[float]] = ((), ())
    why_not: tuple[str, ...] = ()
    change: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    decision: Decision = ""
    holm_p: float | None = None


@dataclass(frozen=True)
class Comparison:
    """All pairs and their figures.

    Attributes:
        margins: by metric, the loss that both suites declare tolerable.
        other_margins: metrics for which they declare different ones.
    """

    a: Side
    b: Side
    by: Sequence[str]
    pairs: tuple[Pair, ...]
    changes: tuple[Change, ...]
    margins: Mapping[str, float] = field(default_factory=dict)
    other_margins: Sequence[str] = ()

    @property
    def regressed(self) -> bool:
        """Whether a cell fails that did not, or a metric is shown to be worse."""
        return any("!" in pair.mark for pair in self.pairs) or any(c.decision == "degraded" for c in self.changes)


def compare(a: Side, b: Side, columns: Sequence[str] = (), by: Sequence[str] = ()) -> Comparison:
    """Holds B against A.

    Args:
        a: what was.
        b: what is.
        columns: the figures and metrics to compare; by default :data:`FIGURES`, all metrics and the gradient cosine.
        by: the axes of rows; by default arm and depth, and of two arms the depth and their further axes.

    Raises:
        SettingsError: there is no such arm, axis or figure, or no row of the one has a counterpart in the other.
    """
    pairs = _pairs(a, b, by)
    rows = [row for pair in pairs for row in (pair.a, pair.b) if row is not None]
    margins = {m: x for m, x in a.outcome.margins.items() if b.outcome.margins.get(m) == x}
    others = [m for m in {**a.outcome.margins, **b.outcome.margins} if m not in margins]
    changes: list[Change] = []
    for quantity in _quantities(rows, columns, (*margins, *others)):
        of_one = [change for pair in pairs if (change := _change(pair, quantity)) is not None]
        changes += _decided(of_one, margins.get(quantity.name))
    order = {id(pair): place for place, pair in enumerate(pairs)}
    changes.sort(key=lambda change: order[id(change.pair)])
    return Comparison(a, b, tuple(pairs[0].axes), tuple(pairs), tuple(changes), margins, others)


@dataclass(frozen=True)
class _Grouped:
    """The rows of one side, with the axes that they are grouped by and those that cells may differ in."""

    side: Side
    by: Sequence[str]
    rows: Sequence[Row]
    axes: Mapping[str, Axes]
    further: Sequence[str]

    @property
    def run(self) -> list[Row]:
        """The rows of which anything has been run."""
        return [row for row in self.rows if any(cell.result for cell in row.cells)]


def _grouped(side: Side, by: Sequence[str]) -> _Grouped:
    cells, axes = side.cells(), cell_axes(side.outcome)
    further = _further(cells)
    if side.arm and not by:
        by = ("depth", *further)
    return _Grouped(side, by or BY_DEFAULT, rows_of(side.outcome, cells, by), axes, further)


def _pairs(a: Side, b: Side, by: Sequence[str]) -> list[Pair]:
    """Rows of A with those of B: in A's order, then what B alone has.

    Raises:
        SettingsError: there is no such axis, or no row of the one has a counterpart in the other.
    """
    check_axes(by, {**cell_axes(b.outcome), **cell_axes(a.outcome)}, "--by")
    if "arm" in by and a.arm != b.arm:
        raise SettingsError(f"--by {','.join(by)}: arms are what is compared (allowed: other axes)")
    ours, theirs = _grouped(a, by), _grouped(b, by)
    common = [name for name in ours.by if name in theirs.by]

    def counterparts(row: Row, rows: Sequence[Row]) -> list[Row]:
        return [other for other in rows if all(shown(row.axes[n]) == shown(other.axes[n]) for n in common)]

    if not any(counterparts(row, theirs.run) for row in ours.run):
        raise SettingsError(f"nothing to compare: A has {_listed(ours.run)}, and B has {_listed(theirs.run)}")
    found: list[tuple[Row | None, Row | None]] = []
    for row in ours.run:
        found += [(row, other) for other in counterparts(row, theirs.rows)] or [(row, None)]
    met = {id(other) for _, other in found}
    for other in theirs.run:
        if id(other) not in met:
            found += [(row, other) for row in counterparts(other, ours.rows)] or [(None, other)]
    return [_pair(row, other, ours, theirs) for row, other in found]


def _pair(row: Row | None, other: Row | None, ours: _Grouped, theirs: _Grouped) -> Pair:
    values = {**(other.axes if other else {}), **(row.axes if row else {})}
    names = dict.fromkeys((*ours.by, *theirs.by))
    pair = Pair({name: values.get(name) for name in names}, row, other)
    if row is None or other is None:
        return pair
    further = [name for name in ours.further if name in theirs.further]
    cells, others = (
        _by_key(found.cells, side.axes, further, arms=not side.side.arm)
        for found, side in ((row, ours), (other, theirs))
    )
    both = [(cells[key], others[key]) for key in cells if key in others]

    def match(a: CellResult, b: CellResult) -> Match:
        machines = (ours.side.outcome.machines.get(a.machine), theirs.side.outcome.machines.get(b.machine))
        return Match(a, b, *machines)

    matches = tuple(
        match(x.result, y.result) for x, y in both if x.result and y.result and x.status == y.status == "ok"
    )
    across = [match(x, y) for x in ok_results(row.cells)[:1] for y in ok_results(other.cells)[:1]]
    return replace(
        pair,
        matches=matches,
        across=across[0] if across and not matches else None,
        failures=tuple((x, y) for x, y in both if x.result and y.result and (x.status == "ok") != (y.status == "ok")),
    )


def _further(cells: Iterable[PlannedCell]) -> tuple[str, ...]:
    """The further axes of the matrix that some cells have, in the order of their names."""
    return tuple(sorted({name for cell in cells if cell.result for name in cell.result.cell.variant}))


def _by_key(
    cells: Iterable[PlannedCell], axes: Mapping[str, Axes], further: Sequence[str], arms: bool
) -> dict[Any, PlannedCell]:
    """Cells by what they have in common with their counterparts; without those of which there are several."""
    found: dict[Any, list[PlannedCell]] = {}
    for cell in cells:
        values = [shown(axes[cell.key].get(name)) for name in further]
        found.setdefault((cell.depth, cell.seed, *values, *([cell.arm] if arms else [])), []).append(cell)
    return {key: several[0] for key, several in found.items() if len(several) == 1}


def _quantities(rows: Sequence[Row], columns: Sequence[str], judged: Sequence[str]) -> list[Quantity]:
    """The figures to compare, in order.

    Raises:
        SettingsError: there is no figure of a name.
    """
    metrics = metric_names(rows)
    names = list(columns) or [*FIGURES, *metrics, "gradient_cosine"]
    statistics = statistic_names(rows)
    allowed = [*QUANTITIES, *metrics, *statistics]
    found = []
    for name in names:
        quantity, of = figure(name, metrics, statistics, judged)
        if quantity is None or of or name not in allowed:
            raise SettingsError(f"--columns: {unknown('figure', name, allowed)}")
        found.append(quantity)
    return found


def _change(pair: Pair, quantity: Quantity) -> Change | None:
    """A figure of a pair, before it is known what it shows; None where neither side has it."""
    if pair.a is None or pair.b is None:
        return None
    results_a, results_b = [m.a for m in pair.matches], [m.b for m in pair.matches]
    matches: Sequence[Match] = pair.matches
    if pair.across:
        results_a, results_b, matches = ok_results(pair.a.cells), ok_results(pair.b.cells), [pair.across]
    elif measured := [m for m in matches if is_there(quantity.of(m.a)) and is_there(quantity.of(m.b))]:
        results_a, results_b, matches = [m.a for m in measured], [m.b for m in measured], measured
    a, b = quantity.over(results_a), quantity.over(results_b)
    if a is None and b is None:
        return None
    found = Change(pair, quantity, a, b)
    if a is None or b is None:
        return replace(found, why_not=(f"not measured in {'A' if a is None else 'B'}",))
    if why := _why_not(pair, quantity, matches):
        return replace(found, why_not=tuple(why))
    return replace(
        found,
        values=(tuple(quantity.values(results_a)), tuple(quantity.values(results_b))),
        change=(b / a if a else None) if quantity.unit in RATIOS else b - a,
        pairs=len(pair.matches and matches) if quantity.kind in ("time", "quality") else 0,
    )


def _why_not(pair: Pair, quantity: Quantity, matches: Sequence[Match]) -> list[str]:
    if not pair.across or quantity.kind != "quality":
        return reasons(matches, quantity.kind)
    # Other seeds begin with other weights: that their hashes differ says no more.
    return [*reasons(matches, "arithmetic"), "no seed in common"]


def _decided(changes: Sequence[Change], margin: float | None) -> list[Change]:
    """Changes of one figure with what they show: of times and quality, from three pairs of seeds on.

    A metric that has a margin is judged as in the table of results: B is not to lose more than that. Of others it is
    asked whether they differ at all, either way.
    """
    tests: dict[int, PairedTest] = {}
    found = list(changes)
    for place, change in enumerate(changes):
        if not change.pairs:
            continue
        differences = _differences(change)
        nothing_to_lose = margin is not None and not any(change.values[0])
        if len(differences) < FEWEST_PAIRS or nothing_to_lose:
            found[place] = replace(change, decision="not tested")
            continue
        test = paired_test(differences, margin or 0.0)
        low, high = interval(test.mean, test.sd, test.n)
        if change.quantity.unit in RATIOS:
            low, high = math.exp(low), math.exp(high)
        tests[place] = test
        found[place] = replace(change, low=low, high=high)
    decide = _about_differences if margin is None else _about_margin
    for place, (decision, p) in decide(tests, changes).items():
        found[place] = replace(found[place], decision=decision, holm_p=p)
    return found


def _differences(change: Change) -> list[float]:
    """B minus A by pair of seeds; of ratios, that of their logarithms."""
    pairs = list(zip(*change.values, strict=True))
    if change.quantity.unit not in RATIOS:
        return [y - x for x, y in pairs]
    return [math.log(y / x) for x, y in pairs if x > 0 and y > 0]


def _about_margin(tests: Mapping[int, PairedTest], changes: Sequence[Change]) -> dict[int, tuple[Decision, float]]:
    non_inferior = holm([test.p_non_inferior for test in tests.values()])
    worse = holm([test.p_worse for test in tests.values()])
    found: dict[int, tuple[Decision, float]] = {}
    for place, p_non_inferior, p_worse in zip(tests, non_inferior, worse, strict=True):
        row = changes[place].pair.b
        failed = row is not None and any(cell.status not in NO_FAILURES for cell in row.cells)
        if p_non_inferior < ALPHA and not failed:
            found[place] = "non-inferior", p_non_inferior
        else:
            found[place] = "degraded" if p_worse < ALPHA else "inconclusive", p_non_inferior
    return found


def _about_differences(tests: Mapping[int, PairedTest], changes: Sequence[Change]) -> dict[int, tuple[Decision, float]]:
    # Without a margin `p_non_inferior` is the p-value against "not higher".
    either = holm([min(1.0, 2 * min(test.p_non_inferior, test.p_worse)) for test in tests.values()])
    found: dict[int, tuple[Decision, float]] = {}
    for (place, test), p in zip(tests.items(), either, strict=True):
        found[place] = ("not told apart" if p >= ALPHA else "higher" if test.mean > 0 else "lower"), p
    return found


def _listed(rows: Sequence[Row]) -> str:
    names = [row.name for row in rows]
    more = len(names) - _MOST_NAMES
    return ("; ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")) or "nothing"
