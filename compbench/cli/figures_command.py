"""``compbench figures``: the figures of results that are there, as files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compbench.errors import SettingsError, StoreError, unknown
from compbench.report.checksums import CHECKSUMS
from compbench.report.outcome import read_outcome
from compbench.report.summary import write_results
from compbench.run.files import make_folder, write_atomically

if TYPE_CHECKING:
    from compbench.report.figures import Figure

FORMATS = ("svg", "png", "pdf", "html")


def figures(
    directory: Annotated[Path, typer.Argument(help="A suite's results folder, such as results/quick.", metavar="DIR")],
    formats: Annotated[
        str, typer.Option("--format", help=f"Formats, separated by commas: {', '.join(FORMATS)}.", metavar="FORMATS")
    ] = "svg",
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="Make only the figure of this name, and those whose names begin with it and an underscore. May be "
            "given several times.",
            metavar="NAME",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; by default figures in DIR.", metavar="DIR")
    ] = None,
) -> None:
    """Draws the figures of a suite's results, one column of a paper wide.

    html is a page that needs no network, in which marks tell their numbers. A figure that these results can't give is
    named with the reason. The same results give the same files. README.md in DIR shows those that are drawn as SVG in
    its folder figures, and is made anew. Exit status 1 if no figure can be drawn.

    \b
    Examples:
      compbench figures results/quick
      compbench figures results/trm_depth --format pdf,png --only memory_by_depth --only pareto
      compbench figures results/trm_depth --format html --output pages
    """  # noqa: D301 - a backspace is what keeps the examples on lines of their own
    wanted = _formats(formats)
    outcome = read_outcome(directory, _warn)
    # Altair takes a second to import, which other commands should not wait for.
    from compbench.report.figures import Figure, make_figures

    found = make_figures(outcome)
    chosen = [figure for figure in found if not only or any(_is_of(figure.name, name) for name in only)]
    for name in only or ():
        if not any(_is_of(figure.name, name) for figure in found):
            raise SettingsError(unknown("figure", name, [figure.name for figure in found]))
    folder = output if output is not None else directory / "figures"
    for figure in chosen:
        if isinstance(figure, Figure):
            paths = [_write(figure, folder, kind) for kind in wanted]
            print(f"{figure.name}: {figure.title}: {', '.join(map(str, paths))}")
        else:
            print(f"{figure.name}: not drawn: {figure.reason}")
    # Figures beside the results are shown on their page. That of a publication has all of its own, and checksums.
    if output is None and (directory / "README.md").exists() and not (directory / CHECKSUMS).exists():
        write_results(directory, _warn)
    if not any(isinstance(figure, Figure) for figure in chosen):
        raise typer.Exit(1)


def _formats(text: str) -> list[str]:
    """The formats that are asked for, each once, in the order given."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise SettingsError(unknown("format", name, FORMATS))
    return names


def _is_of(name: str, asked: str) -> bool:
    return name == asked or name.startswith(f"{asked}_")


def _write(figure: Figure, folder: Path, kind: str) -> Path:
    from compbench.report import figures as drawing

    draw: dict[str, Callable[[Figure], str | bytes]] = {
        "svg": drawing.as_svg,
        "png": drawing.as_png,
        "pdf": drawing.as_pdf,
        "html": drawing.as_html,
    }
    path = folder / f"{figure.name}.{kind}"
    try:
        make_folder(folder)
        write_atomically(path, draw[kind](figure))
    except OSError as error:
        raise StoreError(f"can't write {path}: {error.strerror or error}") from error
    return path


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
