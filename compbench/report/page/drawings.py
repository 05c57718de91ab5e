"""The figures as the page has them: drawn already, for print and where no script runs, and as data to draw anew."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compbench.report.outcome import Outcome
from compbench.report.page.embedding import json_for_script

_NAMED = re.compile(r'(\bid="|url\(#|href="#)')
_SIZE = re.compile(r'<svg\b[^>]*?\bwidth="(?P<width>[\d.]+)" height="(?P<height>[\d.]+)"')


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        caption: plain text, as the title.
        svg: it as drawn on white, to stand among the page's own elements.
        width: of the drawing, in its own units.
        specification: JSON for a ``script`` element.
    """

    name: str
    title: str
    caption: str
    svg: str
    width: float
    specification: str


@dataclass(frozen=True)
class Missing:
    """A figure that these results can't give, and why."""

    name: str
    title: str
    reason: str


@dataclass(frozen=True)
class Drawings:
    """All figures of a suite's results.

    Attributes:
        drawn: in the order in which a reader wants them.
        dark: the part ``config`` of a specification that makes it one for a dark background, as JSON.
        library: the script that draws specifications; empty where there is nothing to draw.
    """

    drawn: Sequence[Drawing]
    missing: Sequence[Missing]
    dark: str = "{}"
    library: str = ""


def draw_figures(outcome: Outcome) -> Drawings:
    """The figures of a suite's results, drawn."""
    # Altair and the renderer take a second to import, which a page's other parts and other commands need not wait for.
    from compbench.report.figures import DARK_CONFIG, Figure, NoFigure, as_svg, javascript_bundle, make_figures

    made = make_figures(outcome)
    drawn = [_drawing(f.name, f.title, f.caption, as_svg(f), f.specification) for f in made if isinstance(f, Figure)]
    missing = [Missing(figure.name, figure.title, figure.reason) for figure in made if isinstance(figure, NoFigure)]
    if not drawn:
        return Drawings((), missing)
    return Drawings(drawn, missing, json_for_script(DARK_CONFIG), javascript_bundle())


def _drawing(name: str, title: str, caption: str, svg: str, specification: Mapping[str, object]) -> Drawing:
    size = _SIZE.search(svg)
    own = _NAMED.sub(lambda match: f"{match[1]}{name}-", svg)  # names of gradients and clips are the whole page's
    return Drawing(name, title, caption, own, float(size["width"]) if size else 240.0, json_for_script(specification))
