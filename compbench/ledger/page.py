"""The page of a ledger in Markdown: the same evidence gives the same bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from compbench.ledger.claim import MEANINGS, VERDICTS, Chapter, Entry, judged
from compbench.ledger.evidence import Evidence
from compbench.report.phrases import counted

_BEFORE = (
    "The paper is {title}. Its claims are here in our own words, each with where it stands, the rule by which we judge "
    "it, what we ran or computed, and at what size. Rules and thresholds are code (`compbench/ledger/claims/`), "
    "written before the numbers were known; where that is not so, it is said. This page is made by"
)
_AFTER = (
    "A verdict is about the claim as it is stated, at the size that is named. Most of what we could run is small: a "
    "hidden width of 64 instead of 512, four calls instead of 25, 7x7 mazes. *Not reproduced* there is no refutation "
    "at the paper's size, nor is *reproduced* a proof. We found no code of the authors; where the text leaves a "
    "choice, our LASER's is in `plugins/laser.py`, and where it can't be followed that is a claim of its own below. "
    "What would change a verdict is said with each."
)

Judged = Sequence[tuple[Chapter, Sequence[Entry]]]


def judge_all(chapters: Sequence[Chapter], evidence: Evidence) -> Judged:
    """Every claim with its finding, chapter by chapter."""
    return [(chapter, [judged(claim, evidence) for claim in chapter.claims]) for chapter in chapters]


def ledger_page(title: str, judgements: Judged, command: str) -> str:
    """The page.

    Args:
        title: the paper's.
        judgements: its claims with what was found.
        command: what makes the page again.
    """
    entries = [entry for _, found in judgements for entry in found]
    counts = Counter(entry.finding.verdict for entry in entries)
    lines = [
        "# What the paper claims, and what came of it",
        "",
        _BEFORE.format(title=title),
        "",
        "```bash",
        command,
        "```",
        "",
        _AFTER,
        "",
        "| verdict | claims | meaning |",
        "| --- | ---: | --- |",
        *(f"| {verdict} | {counts[verdict]} | {MEANINGS[verdict]} |" for verdict in VERDICTS),
        f"| all | {len(entries)} | |",
        "",
    ]
    for chapter, found in judgements:
        lines += [f"## {chapter.title}", "", "| claim | where | verdict | ours |", "| --- | --- | --- | --- |"]
        lines += [_row(entry) for entry in found]
        lines.append("")
        for entry in found:
            lines += _block(entry)
    return "\n".join(lines).rstrip("\n") + "\n"


def summary(judgements: Judged) -> str:
    """How many claims have each verdict, in one line."""
    counts = Counter(entry.finding.verdict for _, found in judgements for entry in found)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    return f"{counted(sum(counts.values()), 'claim')}: {told}"


def _row(entry: Entry) -> str:
    claim, finding = entry.claim, entry.finding
    cells = (f"[{claim.id}](#{_anchor(claim.id)})", claim.place, f"**{finding.verdict}**", finding.number or "-")
    return f"| {' | '.join(_cell(text) for text in cells)} |"


def _block(entry: Entry) -> list[str]:
    claim, finding = entry.claim, entry.finding
    sources = ", ".join(f"`{source}`" if source.startswith("compbench ") else source for source in claim.source)
    verdict = finding.verdict
    if verdict == "not run yet":
        why = f"{finding.why[:1].upper()}{finding.why[1:]}."
        found = f"**Not run yet.** {why} To run it: {sources}."
    else:
        number = f" Ours: {finding.number}." if finding.number else ""
        found = f"**{verdict[:1].upper()}{verdict[1:]}.**{number} {finding.why}"
    return [
        f"### {claim.id}",
        "",
        f"> {claim.words} ({claim.place})",
        "",
        found,
        "",
        *([f"![{claim.words}](../{claim.figure})", ""] if claim.figure and verdict != "not run yet" else []),
        f"- rule: {claim.rule}{f' ({claim.known})' if claim.known else ''}",
        f"- evidence: {sources}",
        f"- scale: {claim.scale}",
        f"- what would change it: {_small(claim.change)}",
        "",
    ]


def _anchor(name: str) -> str:
    """What GitHub makes of a heading."""
    kept = "".join(character for character in name.lower() if character.isalnum() or character in "- _")
    return kept.replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _small(sentence: str) -> str:
    """A clause after a colon: a sentence without its capital and its full stop, unless it begins with a name."""
    first = sentence.split(" ", 1)[0]
    if (first.isupper() and len(first) > 1) or any(letter.isupper() for letter in first[1:]):
        return sentence.removesuffix(".")
    return (sentence[:1].lower() + sentence[1:]).removesuffix(".")
