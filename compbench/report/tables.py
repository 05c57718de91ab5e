"""The tables of a suite's results: which rows and columns they have, and what is said under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compbench.report.axes import cell_axes, known_axes
from compbench.report.axes import shown as shown_value
from compbench.report.best import SENTENCE, best_places
from compbench.report.columns import VERDICT, Catalogue, Column, Spread
from compbench.report.formats import FORMATS, TERMINAL, Place, Screen, Table, Tone, as_text
from compbench.report.legend import grouping_legend, legend, verdict_legend
from compbench.report.outcome import Outcome
from compbench.report.remarks import joining_remarks, remarks
from compbench.report.rows import BY_DEFAULT, Row, chosen_cells, csv_columns, make_rows, metric_names
from compbench.report.verdicts import judge
from compbench.report.wording import (
    NOT_AVAILABLE,
    RATES,
    difference,
    difference_unit,
    figures,
    words,
)

TIMES = (
    "time_ratio",
    "forward_ratio",
    "backward_ratio",
    "update_share",
    "step_seconds",
    "uncompressed_step_seconds",
    "flop_ratio",
    "gflop_per_second",
    "uncompressed_gflop_per_second",
    "page_faults",
    "uncompressed_page_faults",
)
"""The columns that say where the time of a step goes, and what arithmetic it is for."""

SCHEMA_VERSION = 1
"""Of the JSON that tables are written in."""

_FOLDABLE = ("status", "seeds")
TONES: Mapping[str, Tone] = {"non-inferior": "good", "inconclusive": "doubtful", "degraded": "bad"}
"""What verdicts say."""


@dataclass(frozen=True)
class View:
    """What of a suite's results a table shows.

    Attributes:
        by: the axes of its rows; by default arm and depth.
        columns: its columns, by the names that they have in the CSV; by default those that most readers ask for.
        spread: what stands beside the mean of a metric.
        sort: the columns by which rows are sorted, one with ``-`` before it from high to low; by default rows are in
            the suite's order.
        only: patterns of cells, as in ``compbench run --only``.
        times: whether the columns are :data:`TIMES`.
    """

    by: Sequence[str] = ()
    columns: Sequence[str] = ()
    spread: Spread = "sd"
    sort: Sequence[str] = ()
    only: Sequence[str] = ()
    times: bool = False


def results_table(outcome: Outcome, view: View | None = None) -> Table:
    """A row an arm and depth, or whatever else is asked for.

    Of what has not been run at all there is no row for people but a sentence; the raw numbers have a row for it, too.

    Raises:
        SettingsError: there is no such axis, column or cell.
    """
    view = view or View()
    by = tuple(view.by) or BY_DEFAULT
    rows = make_rows(outcome, view.by, view.only)
    verdicts = {metric: judge(outcome, metric, margin) for metric, margin in outcome.margins.items()}
    catalogue = Catalogue(rows, by, view.spread, outcome.groups, verdicts)
    rows = _sorted(rows, view.sort, catalogue)
    shown = [row for row in rows if any(cell.result for cell in row.cells)]
    judged = [metric for metric in verdicts if any(catalogue.verdict(metric, row) for row in shown)]
    columns = catalogue.columns(_names(view, by, metric_names(shown), judged), shown)
    best = best_places(shown, columns)
    names, records = _data(view, by, rows, columns)
    places = {id(row): place for place, row in enumerate(shown)}
    for row, record in zip(rows, records, strict=True):
        record |= {metric + VERDICT: catalogue.verdict(metric, row) for metric in judged}
        place = places.get(id(row), -1)
        record["best"] = [column.name for index, column in enumerate(columns) if (place, index) in best]
    occurring = {catalogue.verdict(metric, row) for metric in judged for row in shown}
    return Table(
        headers=[column.header for column in columns],
        cells=[[column.text(row) for column in columns] for row in shown],
        words=[column.header for column in columns if column.words],
        sentences=[
            *legend(columns, catalogue.divisor, catalogue.unit, view.spread),
            *verdict_legend(outcome, columns, occurring),
            *(_grouping_sentences(outcome, view, rows) if view.by else []),
            *_remarks(outcome, view, columns),
            *joining_remarks(outcome),
        ],
        caption=": ".join(filter(None, (outcome.name, outcome.description.strip()))),
        best=best,
        best_sentence=SENTENCE,
        tones=_tones(shown, columns),
        sections=_sections([shown_value(row.axes[by[0]]) for row in shown] if len(by) > 1 else []),
        foldable={} if view.columns else _foldable(shown, columns, by),
        columns=names,
        records=records,
        facts={
            "schema_version": SCHEMA_VERSION,
            "suite": outcome.name,
            "description": outcome.description.strip(),
            "by": list(by),
            "spread": view.spread,
            "margins": dict(outcome.margins),
        },
    )


def times_table(outcome: Outcome) -> Table:
    """A row an arm and depth: where the time of a step goes, and what arithmetic it is for."""
    return results_table(outcome, View(times=True))


def _names(view: View, by: Sequence[str], metrics: Sequence[str], judged: Sequence[str]) -> list[str]:
    """The columns by name: those that name the rows come first, unless they are asked for at another place."""
    wanted: Sequence[str] = view.columns
    if view.times:
        wanted = TIMES
    elif not wanted:
        wanted = ["status", "seeds", "saved_bytes", "saving", "peak_delta_bytes", "peak_phase", "time_ratio"]
        wanted += [*metrics, "gradient_cosine", *(metric + VERDICT for metric in judged)]
    return [*(axis for axis in by if axis not in wanted), *wanted]


def _data(
    view: View, by: Sequence[str], rows: Sequence[Row], columns: Sequence[Column]
) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of the raw numbers, and a record a row: those of the columns asked for, or else of all."""
    if view.columns:
        records = [{name: value for column in columns for name, value in column.raw(row).items()} for row in rows]
        return list(records[0]) if records else [], records
    names = [*by, *(name for name in csv_columns(rows) if name not in (*BY_DEFAULT, *by))]
    if view.spread == "interval":
        names = [new for name in names for new in _as_interval(name)]
    return names, [row.record(names) for row in rows]


def _as_interval(name: str) -> tuple[str, ...]:
    return tuple(name.removesuffix("sd") + end for end in ("low", "high")) if name.endswith("_sd") else (name,)


def _sorted(rows: Sequence[Row], sort: Sequence[str], catalogue: Catalogue) -> list[Row]:
    """The rows, sorted by the first column, then by the next; those without a value come last."""
    found = list(rows)
    for name in reversed(sort):
        descending = name.startswith("-")
        catalogue.check(name.removeprefix("-"), "--sort")
        key = catalogue.column(name.removeprefix("-")).key
        there = [row for row in found if key(row) is not None]
        numbers = [row for row in there if isinstance(key(row), (int, float))]
        texts = [row for row in there if not isinstance(key(row), (int, float))]
        numbers.sort(key=key, reverse=descending)
        texts.sort(key=lambda row, key=key: str(key(row)), reverse=descending)  # type: ignore[misc]
        found = [*numbers, *texts, *(row for row in found if key(row) is None)]
    return found


def _grouping_sentences(outcome: Outcome, view: View, rows: Sequence[Row]) -> list[str]:
    axes = cell_axes(outcome)
    varied = [
        axis
        for axis in known_axes(axes)
        if axis not in (*view.by, "seed") and len({shown_value(found.get(axis)) for found in axes.values()}) > 1
    ]
    sentences = grouping_legend(rows, axes, varied)
    planned = chosen_cells(outcome, view.only) if view.only else set(axes)
    left_out = len(planned - {cell.key for row in rows for cell in row.cells})
    if left_out:
        sentences.append(
            f"{left_out} cells that have not been run are in no row: nothing of their kind has, so that what they are "
            f"grouped by ({', '.join(view.by)}) is not known."
        )
    return sentences


def _remarks(outcome: Outcome, view: View, columns: Sequence[Column]) -> list[str]:
    """Remarks are on arms at a depth, however the table groups their cells; of chosen figures on these alone."""
    rows = make_rows(outcome, only=view.only)
    shown = [row for row in rows if any(cell.result for cell in row.cells)]
    kinds = {column.quantity.kind for column in columns if column.quantity}
    if view.times:
        return remarks(shown, shown, kinds)
    return remarks(rows, shown, kinds if view.columns else None)


def _sections(values: Sequence[str]) -> list[int]:
    """Where a group of several rows of the same first value begins; none where rows of one value are apart."""
    starts = [place for place in range(1, len(values)) if values[place] != values[place - 1]]
    groups = len(set(values))
    return starts if groups < len(values) and len(starts) + 1 == groups else []


def _tones(rows: Sequence[Row], columns: Sequence[Column]) -> dict[Place, Tone]:
    tones: dict[Place, Tone] = {}
    for place, row in enumerate(rows):
        for index, column in enumerate(columns):
            text = column.text(row)
            if column.name == "status" and text != "ok":
                tones[place, index] = "bad"
            elif column.name.endswith(VERDICT) and text in TONES:
                tones[place, index] = TONES[text]
    return tones


def _foldable(rows: Sequence[Row], columns: Sequence[Column], by: Sequence[str]) -> dict[str, Sequence[str]]:
    """Headers of columns that can be told in a sentence where room is scarce, and of those without any figure."""
    found: dict[str, Sequence[str]] = {}
    for column in columns:
        if column.name.endswith(VERDICT):
            found[column.header] = ("reference", NOT_AVAILABLE)
        elif column.name == "peak_phase":
            found[column.header] = (NOT_AVAILABLE,)
        elif column.name in (*by[1:], *_FOLDABLE) or (
            column.quantity and all(column.text(r) == NOT_AVAILABLE for r in rows)
        ):
            found[column.header] = ()
    return found


__all__ = [
    "FORMATS",
    "NOT_AVAILABLE",
    "RATES",
    "TERMINAL",
    "TIMES",
    "TONES",
    "Screen",
    "Table",
    "View",
    "as_text",
    "difference",
    "difference_unit",
    "figures",
    "metric_names",
    "results_table",
    "times_table",
    "words",
]
"""With what the other modules of the report need to make tables of their own."""
