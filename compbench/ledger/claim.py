"""A claim of a paper, the rule by which it is judged, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from compbench.errors import StoreError

if TYPE_CHECKING:
    from compbench.ledger.evidence import Evidence

Verdict = Literal[
    "reproduced",
    "not reproduced",
    "can't be tested at this scale",
    "can't be right as printed",
    "not run yet",
]

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

MEANINGS: dict[Verdict, str] = {
    "reproduced": "the rule holds for what we ran or computed",
    "not reproduced": "what we ran or computed says otherwise; at the scale that is named, not at the paper's",
    "can't be tested at this scale": "nothing that we can run here would settle it",
    "can't be right as printed": "the printed sentence contradicts arithmetic, its own numbers, or what it cites",
    "not run yet": "there is no evidence; the command would make it",
}


class NotRunError(StoreError):
    """There is no evidence for a claim yet; the message says what is lacking."""


@dataclass(frozen=True)
class Finding:
    """What became of a claim.

    Attributes:
        verdict: one of :data:`VERDICTS`.
        number: what we have, in a clause.
        why: how the verdict follows from it, in a sentence or two.
    """

    verdict: Verdict
    number: str
    why: str


@dataclass(frozen=True)
class Claim:
    """One thing that a paper says.

    Attributes:
        id: a short name that stays.
        place: where it stands in the paper.
        words: the claim in our own words.
        rule: how it is judged, with its thresholds.
        source: the commands that make the evidence, or what else it rests on.
        scale: the size of what was run or computed.
        change: what would change the verdict.
        test: the rule in code. It raises :class:`NotRunError` where evidence is lacking.
        figure: a drawing of the evidence, as a path from the folder above the page's; empty where there is none.
        known: what of the numbers was known when the rule was written; empty where nothing was.
    """

    id: str
    place: str
    words: str
    rule: str
    source: Sequence[str]
    scale: str
    change: str
    test: Callable[[Evidence], Finding]
    known: str = ""
    figure: str = ""


@dataclass(frozen=True)
class Entry:
    """A claim with what was found."""

    claim: Claim
    finding: Finding


@dataclass(frozen=True)
class Chapter:
    """Claims that belong together."""

    title: str
    claims: Sequence[Claim]


def judged(claim: Claim, evidence: Evidence) -> Entry:
    """The claim with its finding; where evidence is lacking the finding says so."""
    try:
        return Entry(claim, claim.test(evidence))
    except NotRunError as error:
        return Entry(claim, Finding("not run yet", "", str(error)))


def holds(condition: bool) -> Verdict:
    """The verdict of a rule that could be applied."""
    return "reproduced" if condition else "not reproduced"
