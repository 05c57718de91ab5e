"""The figures of a suite's results: Vega-Lite specifications, and SVG, PNG, PDF and HTML made of them, offline."""

from compbench.report.figures.drawing import as_html, as_pdf, as_png, as_svg, javascript_bundle
from compbench.report.figures.figure import Figure, NoFigure, Specification
from compbench.report.figures.making import make_figures
from compbench.report.figures.style import DARK_CONFIG, dark

__all__ = [
    "DARK_CONFIG",
    "Figure",
    "NoFigure",
    "Specification",
    "as_html",
    "as_pdf",
    "as_png",
    "as_svg",
    "dark",
    "javascript_bundle",
    "make_figures",
]
