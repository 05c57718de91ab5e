"""What tells marks apart: a colour, a shape and a dash for each arm or site, and a legend that can be clicked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt

from compbench.report.figures.style import COLUMN_WIDTH, FONT_SIZE
from compbench.report.outcome import Outcome
from compbench.report.verdicts import REFERENCE

SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")

DASHES = ([1, 0], [5, 2], [2, 1.5], [6, 1.5, 1.5, 1.5], [9, 2], [3, 3], [9, 1.5, 1.5, 1.5, 1.5, 1.5], [1, 2])

_LONGEST_LABEL = 25
_LEGEND_ROW = 10


@dataclass(frozen=True)
class Key:
    """The things of one kind that a suite's figures show, each with the same look in all of them.

    No two of 64 have the same colour and shape, or the same colour and dash.

    Attributes:
        field: the field of the data that says which one a mark is of.
        labels: what that field and the legend have for each name, in the order of the colours.
        room: points that a row of the legend has: it begins where the plot does, right of the labels of its axis.
    """

    field: str
    labels: Mapping[str, str]
    room: float = COLUMN_WIDTH

    def relabelled(self, labels: Mapping[str, str]) -> Key:
        """This key with other labels for some of its names."""
        return replace(self, labels={**self.labels, **labels})

    def colour(self, shown: Iterable[str], title: str | None = None, *, lines: bool = False) -> alt.Color:
        """Colours, with the legend.

        Args:
            shown: the names that the figure has.
            title: of the legend.
            lines: whether the legend has lines with their dashes; else it has shapes.
        """
        return alt.Color(f"{self.field}:N", legend=self._legend(shown, title, lines)).scale(domain=self._domain)

    def shape(self, shown: Iterable[str], title: str | None = None) -> alt.Shape:
        """Shapes, for the legend that :meth:`colour` has with the same arguments."""
        shapes = [SHAPES[place] for place in self._places]
        legend = self._legend(shown, title, False)
        return alt.Shape(f"{self.field}:N", legend=legend).scale(domain=self._domain, range=shapes)

    def dash(self, shown: Iterable[str], title: str | None = None, *, lines: bool = False) -> alt.StrokeDash:
        """Dashes, for the legend that :meth:`colour` has with the same arguments."""
        dashes = [DASHES[place] for place in self._places]
        legend = self._legend(shown, title, lines)
        return alt.StrokeDash(f"{self.field}:N", legend=legend).scale(domain=self._domain, range=dashes)

    def legend_height(self, shown: Iterable[str], title: str | None = None) -> int:
        """Points that the legend takes below a figure."""
        labels = [self.labels[name] for name in shown]
        return 8 + _LEGEND_ROW * (-(-len(labels) // _columns(labels, self.room)) + (title is not None))

    def pick(self) -> Pick:
        """A click in the legend brings out one of them; files show all."""
        # A name of its own for each figure is what Altair would count up, so that no two calls would be the same.
        parameter = alt.selection_point(name="picked", fields=[self.field], bind="legend")
        return Pick(parameter, alt.when(parameter).then(alt.value(1)).otherwise(alt.value(0.12)))

    @property
    def _domain(self) -> list[str]:
        return list(self.labels.values())

    @property
    def _places(self) -> list[int]:
        """Shifted by one from each round of the colours to the next."""
        return [(number + number // len(SHAPES)) % len(SHAPES) for number in range(len(self.labels))]

    def _legend(self, shown: Iterable[str], title: str | None, lines: bool) -> alt.Legend:
        labels = [self.labels[name] for name in shown]
        line = {"symbolType": "stroke", "symbolSize": 140, "symbolOpacity": 1}
        symbol: dict[str, Any] = line if lines else {"symbolStrokeWidth": 0}
        return alt.Legend(title=title, values=labels, columns=_columns(labels, self.room), **symbol)


@dataclass(frozen=True)
class Pick:
    """A parameter, and the opacity by which all charts of a figure follow it.

    It belongs to the first chart of a figure, or the first of its layers: a legend is the first one's.
    """

    parameter: alt.Parameter
    opacity: Any


def arms_key(outcome: Outcome) -> Key:
    """The arms of a suite in its order; the first colour, which is that of the text, is the reference's."""
    is_reference: dict[str, bool] = {}
    for cell in outcome.cells:
        strategy = [plugin.name for plugin in cell.result.cell.strategy] if cell.result else []
        is_reference[cell.arm] = is_reference.get(cell.arm, False) or strategy == [REFERENCE]
    return Key("arm", short_labels(sorted(is_reference, key=lambda arm: not is_reference[arm])))


def short_labels(names: Iterable[str]) -> dict[str, str]:
    """Names as a figure has room for them: long ones are shortened in their middle, and no two become the same."""
    labels: dict[str, str] = {}
    for name in names:
        text = "".join(character if character.isprintable() else "?" for character in name)
        label, number = _shortened(text), 1
        while label in labels.values():
            number += 1
            label = f"{_shortened(text)} ({number})"
        labels[name] = label
    return labels


def text_width(text: str) -> float:
    """About how wide a label is, in points."""
    return 0.53 * FONT_SIZE * len(text)


def _shortened(text: str) -> str:
    half = (_LONGEST_LABEL - 1) // 2
    return text if len(text) <= _LONGEST_LABEL else f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"


def _columns(labels: Sequence[str], room: float) -> int:
    """Of a legend, as many as there is room for."""
    widest = 26 + max(map(text_width, labels), default=0)
    return max(1, min(len(labels), int(room // widest)))
