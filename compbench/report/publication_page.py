"""The ``README.md`` of a publication: what was found, how it was made, how it is made again, what is where."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compbench.report.citation import Author
from compbench.report.figures import Figure, NoFigure
from compbench.report.illustrations import illustrations
from compbench.report.markdown import escaped, fenced
from compbench.report.origin import origin_of
from compbench.report.outcome import Outcome
from compbench.report.summary import readme


@dataclass(frozen=True)
class Contents:
    """What there is to say of a publication, beside the results in it.

    Attributes:
        title: What it is called where it is cited.
        version: Of the results: it changes with any record.
        year: When the newest of them was made; empty where no record says.
        authors: Who made them.
        damaged: Keys of cells whose records are not trusted, and were left out.
        cleaned: Keys of cells whose records were written anew, without names in their texts.
        figures: The figures that are in it, and those that can't be drawn.
        widths: By the name of a figure, how many pixels wide it is shown.
        files: What else is in it: a path and what it holds, in the order of the page.
    """

    title: str
    version: str
    year: str
    authors: Sequence[Author]
    damaged: Sequence[str]
    cleaned: Sequence[str]
    figures: Sequence[Figure | NoFigure]
    widths: Mapping[str, int]
    files: Sequence[tuple[str, str]]


def publication_page(outcome: Outcome, contents: Contents) -> str:
    """The page, in Markdown; images and links are relative."""
    notice = incomplete(outcome, contents.damaged)
    return readme(
        outcome,
        notice=f"> **Incomplete:** {notice}." if notice else "",
        figures=_figures(contents),
        closing="\n\n".join([_again(outcome, contents), _files(contents), _citing(contents)]),
    )


def incomplete(outcome: Outcome, damaged: Sequence[str]) -> str:
    """What is missing from a suite's results, in a clause; empty where every cell is there and ok."""
    counts = Counter(cell.status for cell in outcome.cells)
    missing = counts.pop("missing", 0)
    counts.pop("ok", None)
    of = f"of the suite's {len(outcome.keys)} cells"
    found = []
    if missing:
        trusted = f" ({len(damaged)} of them one that is not trusted, and not here)" if damaged else ""
        found.append(f"{missing} {of} have no record{trusted}")
    if counts:
        statuses = ", ".join(f"{status} {number}" for status, number in sorted(counts.items()))
        found.append(f"{sum(counts.values())} {of} are not ok ({statuses})")
    return ", and ".join(found)


def _figures(contents: Contents) -> str:
    """Each figure with its caption and its other formats; at the end, those that these results can't give."""
    if not contents.figures:
        return ""
    drawn = [figure for figure in contents.figures if isinstance(figure, Figure)]
    sections = ["## Figures", *illustrations(drawn, contents.widths, ("svg", "pdf", "png"))]
    missing = [figure for figure in contents.figures if isinstance(figure, NoFigure)]
    without = [f"- {escaped(figure.title)}: {escaped(figure.reason)}" for figure in missing]
    if without:
        sections += ["Not drawn:", "\n".join(without)]
    return "\n\n".join(sections)


def _again(outcome: Outcome, contents: Contents) -> str:
    """How to make the results again, and all that is made of them."""
    machines = sorted(
        {(machine.compbench, machine.torch, machine.commit) for machine in outcome.machines.values()},
    )
    programs = [
        f"- compbench {compbench}{f' at commit {commit}' if commit else ''}, torch {torch}"
        for compbench, torch, commit in machines
    ]
    origin = origin_of(outcome)
    where = "the suite's file is `suite.yaml`" if "suite.yaml" in dict(contents.files) else "they name the suite's file"
    sections = ["## How to make it again"]
    if origin.command:
        sections.append(
            f"The records, by the commands under [How it was made](#how-it-was-made); {where}. They ran under"
        )
    else:
        sections.append(f"The records, by `compbench run`; {where}. They ran under")
    if programs:
        sections.append("\n".join(programs))
    sections.append(
        "Initial weights, data and the order of examples follow from the seeds alone. On another processor, or with "
        "another version of torch, sums are rounded otherwise, which makes another training of each; times are those "
        "of the machine."
    )
    sections.append("All else in this folder, from the records in it, byte for byte by the same version of compbench:")
    named = "".join(f" --author {shlex.quote(str(author))}" for author in contents.authors)
    logs = " --logs" if "logs/" in dict(contents.files) else ""
    sections.append(fenced(f"compbench publish . ../again{named}{logs}"))
    return "\n\n".join(sections)


def _files(contents: Contents) -> str:
    lines = ["## What is in this folder", "", "| file | what |", "| --- | --- |"]
    lines += [f"| [`{path}`]({path}) | {what} |" for path, what in contents.files]
    kept = "Records are here as they were written, byte for byte, with a checksum of their own from schema 3 on"
    if contents.cleaned:
        kept += (
            f", but for {len(contents.cleaned)} whose reason, log or other text named a folder, a person or a host: "
            "there the name is cut, nothing else is changed, and the record is sealed anew (`cleaned.txt` has them)"
        )
    changed = "Whether a file has changed since, `sha256sum --check checksums.txt` tells."
    return "\n".join([*lines, "", f"{changed} {kept}."])


def _citing(contents: Contents) -> str:
    """How to cite it, as a list of references has it."""
    names = "; ".join(author.name for author in contents.authors)
    year = f" ({contents.year})" if contents.year else ""
    by = f"{escaped(names)}{year}. " if names else ""
    nobody = "" if names else f" Nobody is named as author{f', the year is {contents.year}' if contents.year else ''}."
    return (
        f"## How to cite it\n\n{by}{escaped(contents.title)}, version {contents.version} [data set].{nobody} "
        "[`CITATION.cff`](CITATION.cff) has the same for programs; the version changes with any record."
    )
