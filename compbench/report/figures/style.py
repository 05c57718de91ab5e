"""How figures look: one column of a paper wide, with colours, shapes and dashes that tell arms apart.

A specification names no colour of its own. What depends on the background is in its ``config``, which is one of two
constants, so that a figure is made dark by putting the other one in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compbench.report.figures.figure import Specification

COLUMN_WIDTH = 240
"""Width of a figure in points, of which an inch has 72: 3.33 in, or 84.7 mm, one column of most papers."""

FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
"""The first of these comes with the renderer, so that files do not depend on the fonts of a machine."""

FONT_SIZE = 7
"""In points, of everything but the title of an axis."""

TITLE_SIZE = 7.5

LIGHT_COLOURS = ("#000000", "#0D2F7A", "#B80000", "#1A705F", "#F756B0", "#CA8700", "#0799F7", "#79814C")
"""Colours that are told apart with normal and with colour-blind eyes, and have a contrast of 3 to white.

Any two are at least 20 apart (CIELAB, Machado's simulations of the three kinds of colour blindness), and at least 17 of
those for a dark background.
"""

DARK_COLOURS = ("#FFFFFF", "#3C7FE0", "#D9502F", "#3FDB94", "#A8749F", "#D08A06", "#A5C8FB", "#FBD920")
"""Their like in the same order, with a contrast of 3 to a dark background."""


def _config(ink: str, soft: str, grid: str, background: str, colours: Sequence[str]) -> dict[str, Any]:
    labels = {"labelFontSize": FONT_SIZE, "titleFontSize": TITLE_SIZE, "labelColor": ink, "titleColor": ink}
    # A second weight is a second font, and files with two of them are not the same twice: the renderer orders fonts by
    # chance.
    plain = {"titleFontWeight": "normal", "labelFontWeight": "normal"}
    return {
        "background": background,
        "font": FONT,
        "padding": 2,
        "view": {"stroke": None},
        "axis": {
            **labels,
            **plain,
            "domainColor": soft,
            "tickColor": soft,
            "gridColor": grid,
            "gridWidth": 0.5,
            "domainWidth": 0.5,
            "tickWidth": 0.5,
            "tickSize": 3,
            "labelPadding": 2,
            "titlePadding": 4,
        },
        "header": {**labels, **plain, "labelPadding": 2, "titlePadding": 2},
        "legend": {
            **labels,
            **plain,
            "orient": "bottom",
            "direction": "horizontal",
            "symbolSize": 26,
            "symbolStrokeWidth": 1.2,
            "rowPadding": 1,
            "columnPadding": 6,
            "titlePadding": 3,
            "offset": 6,
            "symbolLimit": 0,
            "labelLimit": COLUMN_WIDTH,
            "titleLimit": COLUMN_WIDTH,
        },
        "title": {"color": ink, "fontSize": TITLE_SIZE, "fontWeight": "normal", "offset": 4},
        "text": {"color": ink, "fontSize": FONT_SIZE},
        "rule": {"color": soft, "strokeWidth": 0.8},
        "tick": {"color": ink, "opacity": 1},
        "point": {"opacity": 1},
        "style": {
            "ring": {"color": ink, "strokeWidth": 0.7, "size": 110, "shape": "circle", "filled": False},
            "margin": {"color": ink, "strokeDash": [3, 2]},
        },
        "range": {"category": list(colours)},
    }


LIGHT_CONFIG = _config("#1A1A1A", "#666666", "#E3E3E3", "white", LIGHT_COLOURS)
"""The ``config`` of every figure's specification."""

DARK_CONFIG = _config("#E8E8E8", "#A0A0A0", "#3A3A3A", "transparent", DARK_COLOURS)
"""The ``config`` to put in its place on a dark background, which shows through."""


def dark(specification: Specification) -> dict[str, Any]:
    """A figure's specification for a dark background."""
    return {**specification, "config": DARK_CONFIG}
