"""What a figure is: a Vega-Lite specification with its data inside, a title, and a caption made from the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Specification = Mapping[str, Any]
"""A Vega-Lite specification as plain data: dictionaries, lists, strings, numbers, booleans and None."""


@dataclass(frozen=True)
class Figure:
    """A figure that can be drawn.

    Names of arms, sites and metrics come from suites and plugins: ``title`` and ``caption`` are plain text, to be
    escaped by whoever shows them.

    Attributes:
        name: a file's stem, unique among the figures of an outcome.
        title: what it shows, in a few words.
        caption: what to see in it and how it was made, in sentences with its numbers.
        specification: for a light background; :func:`~compbench.report.figures.dark` gives that for a dark one.
    """

    name: str
    title: str
    caption: str
    specification: Specification


@dataclass(frozen=True)
class NoFigure:
    """A figure that these results can't give, and the reason, in a sentence."""

    name: str
    title: str
    reason: str
