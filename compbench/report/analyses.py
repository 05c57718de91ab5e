"""An analysis in a folder: its numbers, every measurement, and its figures as HTML, SVG and PNG."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compbench.analysis.document import as_csv, as_json
from compbench.analysis.result import Analysis
from compbench.errors import StoreError
from compbench.report.figures import Figure, as_html, as_png, as_svg
from compbench.report.figures.analyses import analysis_figures
from compbench.run.files import make_folder, write_atomically

_FORMATS: Mapping[str, Callable[[Figure], str | bytes]] = {"html": as_html, "svg": as_svg, "png": as_png}


def write_analysis(folder: Path, content: Mapping[str, Any], found: Analysis) -> list[Path]:
    """Puts an analysis into a folder, each file whole or not at all; the JSON comes last.

    Args:
        folder: Where analyses of the cell belong.
        content: What the JSON says, the captions left out.
        found: What was found.

    Returns:
        The files, the JSON first.

    Raises:
        StoreError: They can't be written.
    """
    name = content["analysis"]
    figures = analysis_figures(content, found.rows)
    captions = {figure.name: figure.caption for figure in figures}
    files: dict[str, str | bytes] = {f"{name}.csv": as_csv(found.rows)}
    for figure in figures:
        files |= {f"{figure.name}.{kind}": draw(figure) for kind, draw in _FORMATS.items()}
    files[f"{name}.json"] = as_json({**content, "caption": captions[figures[0].name], "captions": captions})
    try:
        make_folder(folder)
        for file, text in files.items():
            write_atomically(folder / file, text)
    except OSError as error:
        raise StoreError(f"can't write {folder}: {error.strerror or error}") from error
    return [folder / file for file in reversed(files)]
