"""A figure as SVG, PNG, PDF or a page of its own; all of it offline."""

from __future__ import annotations

import html
import json
from functools import cache
from typing import Any

import vl_convert

from compbench.report.figures.figure import Figure, Specification
from compbench.report.figures.pdf import in_order
from compbench.report.figures.style import DARK_CONFIG

PIXELS_PER_INCH = 300
"""Of a PNG: what journals ask for."""

_VEGA_LITE = "6.4"
"""The version of Vega-Lite that draws; one of those that the renderer has with it."""

_NAMES = "window.vegaEmbed=vegaEmbed; window.vega=vega; window.vegaLite=vegaLite;"

_OFFLINE: dict[str, Any] = {"vl_version": _VEGA_LITE, "allowed_base_urls": []}


def as_svg(figure: Figure) -> str:
    """The figure as SVG, whose text is text."""
    return vl_convert.vegalite_to_svg(dict(figure.specification), **_OFFLINE)


def as_png(figure: Figure) -> bytes:
    """The figure as PNG, at 300 pixels an inch."""
    return vl_convert.vegalite_to_png(dict(figure.specification), ppi=PIXELS_PER_INCH, **_OFFLINE)


def as_pdf(figure: Figure) -> bytes:
    """The figure as PDF, a point of which is a point, with its fonts inside."""
    return in_order(vl_convert.vegalite_to_pdf(dict(figure.specification), **_OFFLINE))


@cache
def javascript_bundle() -> str:
    """Vega, Vega-Lite and vega-embed, for a page that draws figures offline.

    A classic script, to be put into a ``script`` element as it is; it defines ``vegaEmbed``, ``vega`` and ``vegaLite``
    on ``window`` and nothing else.
    """
    bundle = vl_convert.javascript_bundle(_NAMES, vl_version=_VEGA_LITE)
    return f"(() => {{{bundle}\n}})();"


def as_json(data: Specification) -> str:
    """Data as a JavaScript literal that can't end the ``script`` element that it is in."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def as_html(figure: Figure) -> str:
    """The figure as one page that needs nothing else, with its caption, for a light and a dark background.

    Pointing at a mark tells its numbers; a click in the legend brings out an arm.
    """
    return _PAGE.format(
        title=html.escape(figure.title),
        caption=html.escape(figure.caption),
        bundle=javascript_bundle(),
        specification=as_json(figure.specification),
        dark=as_json(DARK_CONFIG),
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 2rem auto; max-width: 44rem; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }}
figure {{ margin: 0; }}
#figure, #figure svg {{ display: block; width: 100%; height: auto; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #121212; color: #e8e8e8; }} }}
</style>
</head>
<body>
<h1>{title}</h1>
<figure>
<div id="figure"></div>
<figcaption>{caption}</figcaption>
</figure>
<script>{bundle}</script>
<script>
const specification = {specification};
const darkConfig = {dark};
const scheme = matchMedia("(prefers-color-scheme: dark)");
function draw() {{
  const config = scheme.matches ? darkConfig : specification.config;
  const theme = scheme.matches ? "dark" : "light";
  vegaEmbed("#figure", {{...specification, config}}, {{renderer: "svg", actions: false, tooltip: {{theme}}}});
}}
scheme.addEventListener("change", draw);
draw();
</script>
</body>
</html>
"""
