"""The columns that a table of results can have: how each is named, what it shows, and which way is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compbench.errors import SettingsError, nearest
from compbench.report.axes import shown
from compbench.report.outcome import PlannedCell
from compbench.report.quantities import MOMENTS, QUANTITIES, Better, Quantity, Unit
from compbench.report.rows import Row, figure, metric_names, statistic_names
from compbench.report.verdicts import Decision, Verdict
from compbench.report.wording import NOT_AVAILABLE, cosine, figures, fixed, is_there, unit_of_bytes, words

Spread = Literal["sd", "interval"]
"""What stands beside the mean of a metric: the standard deviation over seeds, or the 95 % t interval of the mean."""

_OTHERS = ("status", "seeds", "cells", "peak_phase")
"""Columns that are neither axes nor figures."""

VERDICT = "_verdict"
"""What the name of a verdict's column ends in."""

_SUFFIXES: Mapping[Unit, str] = {"share": " %", "rate": " %", "milliseconds": " ms", "seconds": " s"}
_MOMENTS = {"sd": "SD", "low": "95 % low", "high": "95 % high"}
_CENTRES = ("", "mean", "median")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: as it is asked for.
        header: what stands over it.
        text: what it shows of a row.
        raw: its raw numbers of a row, by their names.
        centre: what of ``text`` rows are ranked by, which leaves out how it spreads.
        key: what rows are sorted by; None where there is nothing.
        quantity: the figure, if it is one.
        moment: which of its moments; empty for the usual one.
        spreads: whether it also shows how the figure spreads over seeds.
    """

    name: str
    header: str
    text: Callable[[Row], str]
    raw: Callable[[Row], Mapping[str, Any]]
    centre: Callable[[Row], str]
    key: Callable[[Row], Any]
    words: bool = False
    quantity: Quantity | None = None
    moment: str = ""
    spreads: bool = False

    @property
    def better(self) -> Better | None:
        """Which way is better, if either."""
        return self.quantity.better if self.quantity and self.moment in _CENTRES else None


class Catalogue:
    """The columns of some rows, by name.

    Args:
        rows: the rows.
        by: the axes by which they are grouped.
        spread: what stands beside the mean of a metric.
        groups: the cells of each arm and depth, which verdicts are of.
        verdicts: those of every metric that is judged.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        by: Sequence[str],
        spread: Spread,
        groups: Mapping[tuple[str, int], Sequence[PlannedCell]],
        verdicts: Mapping[str, Sequence[Verdict]],
    ) -> None:
        self._rows = rows
        self._by = by
        self._groups = groups
        self._spread: Spread = spread
        self._metrics = metric_names(rows)
        self._judged = [*verdicts]
        self._statistics = statistic_names(rows)
        self._decisions = {
            (verdict.metric, verdict.arm, verdict.depth): verdict for found in verdicts.values() for verdict in found
        }
        self.names = [
            *by,
            *_OTHERS,
            *QUANTITIES,
            *self._metrics,
            *(name + VERDICT for name in self._judged),
            *self._statistics,
        ]
        self.divisor, self.unit = 1.0, "B"

    def columns(self, names: Sequence[str], rows: Sequence[Row]) -> list[Column]:
        """The columns of these names; sizes in all of them have one unit, which fits the largest that is shown.

        Raises:
            SettingsError: there is no column of a name, or it is named twice.
        """
        for place, name in enumerate(names):
            self.check(name, "--columns")
            if name in names[:place]:
                raise SettingsError(f"--columns: column '{name}' is given twice")
        sizes = [
            size
            for name in names
            if (quantity := self._figure(name)[0]) is not None and quantity.unit == "bytes"
            for row in rows
            if is_there(size := row.value(name))
        ]
        self.divisor, self.unit = unit_of_bytes(max(sizes, default=0))
        return [self.column(name) for name in names]

    def check(self, name: str, option: str) -> None:
        """Whether there is a column of that name.

        Raises:
            SettingsError: there is none.
        """
        if name not in self.names and self._figure(name)[0] is None:
            figure_names = [n for n in self.names if n not in (*self._by, *_OTHERS) and not n.endswith(VERDICT)]
            near = nearest(name, [*self.names, *(f"{n}_{moment}" for n in figure_names for moment in MOMENTS)])
            raise SettingsError(
                f"{option}: unknown column '{name}'{near} (allowed: {', '.join(self.names)}; of a figure also "
                f"{', '.join(f'_{moment}' for moment in MOMENTS)} behind its name)"
            )

    def column(self, name: str) -> Column:
        """The column of a name that there is."""
        if name in self._by:
            of_words = any(isinstance(row.axes[name], str) for row in self._rows)
            return _plain(name, lambda row: shown(row.axes[name]), lambda row: row.axes[name], of_words)
        if name in _OTHERS:
            of_words = name not in ("seeds", "cells")
            return _plain(name, lambda row: shown(row.value(name)), lambda row: row.value(name), of_words)
        quantity, moment = self._figure(name)
        if quantity is None:
            judged = name.removesuffix(VERDICT)
            return _plain(name, lambda row: shown(self.verdict(judged, row)), lambda row: self.verdict(judged, row))
        if moment or name not in self._metrics:
            return self._of_figure(name, quantity, moment)
        return self._of_metric(name, quantity)

    def verdict(self, metric: str, row: Row) -> Decision | None:
        """The decision on a metric for the cells of a row; None where it stands for other cells than a verdict."""
        group = row.cells[0].arm, row.cells[0].depth
        found = self._decisions.get((metric, *group))
        alike = [cell.key for cell in row.cells] == [cell.key for cell in self._groups[group]]
        return found.decision if found and alike else None

    def _figure(self, name: str) -> tuple[Quantity | None, str]:
        if name in self._by or name in _OTHERS:
            return None, ""
        return figure(name, self._metrics, self._statistics, self._judged)

    def _of_figure(self, name: str, quantity: Quantity, moment: str) -> Column:
        def text(row: Row) -> str:
            return self.shown(quantity, row.value(name))

        return Column(
            name=name,
            header=self.header(quantity, moment),
            text=text,
            raw=lambda row: {name: row.value(name)},
            centre=text,
            key=lambda row: row.value(name),
            quantity=quantity,
            moment=moment,
        )

    def _of_metric(self, name: str, quantity: Quantity) -> Column:
        moments = ("mean", "sd") if self._spread == "sd" else ("mean", "low", "high")

        def text(row: Row) -> str:
            mean, *spread = (row.value(f"{name}_{moment}") for moment in moments)
            if mean is None or spread[0] is None:
                return self.shown(quantity, mean)
            around = [self.shown(quantity, value) for value in spread]
            beside = f"± {around[0]}" if self._spread == "sd" else f"[{', '.join(around)}]"
            return f"{self.shown(quantity, mean)} {beside}"

        return Column(
            name=name,
            header=self.header(quantity, ""),
            text=text,
            raw=lambda row: {f"{name}_{moment}": row.value(f"{name}_{moment}") for moment in moments},
            centre=lambda row: self.shown(quantity, row.value(name)),
            key=lambda row: row.value(name),
            quantity=quantity,
            spreads=True,
        )

    def header(self, quantity: Quantity, moment: str) -> str:
        """What stands over a figure: its name, and its unit."""
        return heading(quantity, self.unit, moment)

    def shown(self, quantity: Quantity, value: float | None) -> str:
        """A figure in its unit."""
        return in_unit(quantity.unit, value, self.divisor)


def heading(quantity: Quantity, unit: str, moment: str = "") -> str:
    """The name of a figure with its unit, which is the given one where it is a size."""
    suffix = {"bytes": f" {unit}", "operations": " GFLOP"}.get(quantity.unit, _SUFFIXES.get(quantity.unit, ""))
    of = f" {_MOMENTS.get(moment, moment)}" if moment else ""
    return f"{quantity.title}{of}{suffix}"


def in_unit(unit: Unit, value: float | None, divisor: float = 1.0) -> str:
    """A figure as text; sizes are divided by the bytes of their unit."""
    if not is_there(value):
        return NOT_AVAILABLE
    match unit:
        case "bytes":
            return figures(value / divisor)
        case "share":
            return fixed(100 * value, 1)
        case "rate":
            return fixed(100 * value, 2)
        case "ratio":
            return fixed(value, 2)
        case "cosine":
            return cosine(value)
        case "milliseconds":
            return figures(1000 * value)
        case "operations":
            return figures(value / 1e9)
        case "count":
            return f"{value:,.0f}"
        case _:
            return figures(value)


def _plain(name: str, text: Callable[[Row], str], value: Callable[[Row], Any], of_words: bool = True) -> Column:
    return Column(name, words(name), text, lambda row: {name: value(row)}, text, value, of_words)
