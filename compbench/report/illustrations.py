"""Figures on a page in Markdown: each with its caption, shown from the files beside the page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compbench.report.markdown import escaped, image
from compbench.report.outcome import Outcome
from compbench.run.files import write_atomically

if TYPE_CHECKING:
    from compbench.report.figures import Figure, NoFigure

FOLDER = "figures"
"""Of a results folder, and of a publication."""

_ENLARGED = 1.8
"""How much larger a figure is on a screen than in the column of a paper that it is drawn for."""

_WIDTH = 600
"""Pixels, where the drawing does not say how wide it is."""


def shown_width(svg: str) -> int:
    """How many pixels wide a drawing is shown."""
    points = re.search(r'<svg[^>]*? width="([0-9.]+)', svg)
    return round(_ENLARGED * float(points[1])) if points else _WIDTH


def illustrations(figures: Sequence[Figure], widths: Mapping[str, int], formats: Sequence[str] = ()) -> list[str]:
    """The paragraphs of figures, whose drawings are in the folder ``figures`` beside the page.

    Args:
        figures: those that are drawn.
        widths: by the name of a figure, how many pixels wide it is shown.
        formats: the formats that each has a file of, to be linked; none: no links.
    """
    paragraphs = []
    for figure in figures:
        path = f"{FOLDER}/{figure.name}"
        links = ", ".join(f"[{suffix.upper()}]({path}.{suffix})" for suffix in formats)
        paragraphs += [
            f"### {escaped(figure.title)}",
            image(figure.title, f"{path}.svg", widths[figure.name]),
            f"{escaped(figure.caption)}{f' ({links})' if links else ''}",
        ]
    return paragraphs


def redrawn(directory: Path, outcome: Outcome) -> str:
    """The section of those figures that a results folder has drawings of; each is drawn anew, so that it is of now.

    Args:
        directory: the suite's own folder; what is an SVG in its folder ``figures`` is chosen.
        outcome: its results.

    Returns:
        Markdown, empty where nothing is drawn.

    Raises:
        OSError: a drawing can't be written.
    """
    folder = directory / FOLDER
    if not any(folder.glob("*.svg")):
        return ""
    # Altair takes a second to import, which a run without figures should not wait for.
    from compbench.report.figures import Figure, as_svg, make_figures

    found: list[Figure | NoFigure] = [f for f in make_figures(outcome) if (folder / f"{f.name}.svg").exists()]
    drawn = [figure for figure in found if isinstance(figure, Figure)]
    widths = {}
    for figure in drawn:
        svg = as_svg(figure)
        write_atomically(folder / f"{figure.name}.svg", svg)
        widths[figure.name] = shown_width(svg)
    return "\n\n".join(["## Figures", *illustrations(drawn, widths)]) if drawn else ""
