"""What the paper says of the cause of low rank, and expects of other models and tasks (sections 3.1, 3.5 and 6)."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from compbench.ledger.analyses import number, site, summary
from compbench.ledger.claim import Chapter, Claim, Finding, NotRunError, holds
from compbench.ledger.claims.distribution import NORMED
from compbench.ledger.claims.geometry import MLP, SUITE, WIDE
from compbench.ledger.evidence import Evidence
from compbench.report.phrases import listed
from compbench.run.result import CellResult

SHARING = "questions/recursion_or_width"
LANGUAGE = "questions/language"
HIDDEN_STATE = "block.attn.qkv/attn_64"
SITES = (*WIDE, *NORMED)
"""The sites that the recursive model on mazes and the looped language model have in common."""

_KNOWN = "the numbers were known"
_LOOPED = (
    "a looped language model on characters, hidden 64, one block four times, 400 steps, trained without compression"
)
_MOST = 4


def _analyse(name: str, suite: str) -> str:
    where, seed = ("results/questions", 0) if suite == LANGUAGE else ("results/small", 100)
    return f"compbench analyse {name} {suite} --only arm=none --only seed={seed} --results {where}"


def _sharing_concentrates(evidence: Evidence) -> Finding:
    shared: dict[int, float] = {}
    apart: dict[int, float] = {}
    for result in evidence.results(SHARING).of("laser"):
        ranks = shared if result.cell.variant.get("tied") is True else apart
        ranks[result.cell.seed] = _mean_rank(result)
    seeds = sorted(set(shared) & set(apart))
    if not seeds:
        raise NotRunError(f"suite '{SHARING}' has no seed that is finished for shared and for separate weights yet")
    told = (
        f"mean rank over sites {fmean(shared[seed] for seed in seeds):.1f} with shared weights, "
        f"{fmean(apart[seed] for seed in seeds):.1f} with separate ones ({len(seeds)} seeds)"
    )
    why = (
        "The same block, depth and data, once with weights that all calls share and once with weights of their own for "
        "each. LASER's bases begin at rank 4 and widen where fidelity is below 0.95. A shared basis spans four calls "
        "and a separate one a single call: what is compared is what LASER keeps, not what equally many calls span."
    )
    return Finding(holds(all(shared[seed] < apart[seed] for seed in seeds)), told, why)


def _mean_rank(result: CellResult) -> float:
    """Of the bases at the end of a training, each site counted once."""
    sites = result.memory.sites if result.memory else []
    ranks = [entry["statistics"]["rank"] for entry in sites if "rank" in entry.get("statistics", {})]
    if not ranks:
        raise NotRunError(f"the record {result.key} has no ranks")
    return fmean(ranks)


def _looped_language_model(evidence: Evidence) -> Finding:
    sites = _ranks(evidence, LANGUAGE)
    wide, hidden = sites[MLP], sites[HIDDEN_STATE]
    told = f"fidelity 0.95 takes rank {wide:.0f} at {MLP} and {hidden:.0f} at {HIDDEN_STATE}, of 64 that both can have"
    why = (
        "Table 2 has 128 and 500 of 512. The wide site's rank is bounded by the width of its layer's input, so that it "
        "is compared with that, not with its 384 columns. The hidden state is far from full rank here."
    )
    return Finding(holds(wide < hidden), told, why)


def _language_takes_rank(evidence: Evidence) -> Finding:
    language, mazes = _ranks(evidence, LANGUAGE), _ranks(evidence, SUITE)
    higher = [name for name in SITES if language[name] > mazes[name]]
    told = "rank at fidelity 0.95, language and mazes: "
    told += ", ".join(f"{name} {language[name]:.0f} and {mazes[name]:.0f}" for name in SITES)
    return Finding(holds(len(higher) == len(SITES)), told, f"{_count(higher)} Both models are 64 wide.")


def _language_has_outliers(evidence: Evidence) -> Finding:
    language, mazes = (_figures(evidence, "distribution", suite, "outliers_4_sigma") for suite in (LANGUAGE, SUITE))
    more = [name for name in SITES if language[name] > mazes[name]]
    told = "share beyond four standard deviations, language and mazes: "
    told += ", ".join(f"{name} {language[name]:.1e} and {mazes[name]:.1e}" for name in SITES)
    why = f"{_count(more)} Outliers of large language models come with a width and a training that this has not."
    return Finding(holds(len(more) >= _MOST), told, why)


def _ranks(evidence: Evidence, suite: str) -> Mapping[str, float]:
    return _figures(evidence, "spectrum", suite, "rank_at_fidelity_0.95")


def _figures(evidence: Evidence, name: str, suite: str, key: str) -> Mapping[str, float]:
    found: Mapping[str, Any] = summary(evidence, name, suite, "none")
    return {each: number(site(found, each), key) for each in SITES}


def _count(names: list[str]) -> str:
    where = f": {listed(names)}" if 0 < len(names) < len(SITES) else ""
    return f"Higher for language at {len(names)} of {len(SITES)} sites{where}."


CHAPTER = Chapter(
    "The cause of low rank, other models and other tasks (sections 3.1, 3.5 and 6)",
    [
        Claim(
            "G-sharing",
            "sections 3.1, 3.5 and 6",
            "Weight-sharing is what concentrates activations along few directions.",
            "reproduced if for every seed the mean rank that a fidelity of 0.95 takes is lower where all calls share "
            "weights than where none do",
            ("compbench run questions/recursion_or_width --jobs 2 --results results/questions",),
            "hidden 64, four calls, 4x4 sudokus, 600 steps",
            "Another width or depth, at which states converge; trainings to the end.",
            _sharing_concentrates,
            _KNOWN,
        ),
        Claim(
            "G-elsewhere",
            "section 6 (LoopLM, other architectures)",
            "The same structure, wide MLP sites of low rank beside hidden states of high rank, is expected in other "
            "looped models.",
            "reproduced if in a looped language model the output of gate and up takes a lower rank at fidelity 0.95 "
            "than the hidden state that goes into attention",
            (_analyse("spectrum", LANGUAGE),),
            _LOOPED,
            "Models of 1.4 to 2.6 billion parameters, which the paper means.",
            _looped_language_model,
            _KNOWN,
        ),
        Claim(
            "E-language-rank",
            "section 6 (LoopLM)",
            "Richer tasks, such as natural language, may take a higher rank at each site.",
            "reproduced if the rank at fidelity 0.95 is higher than on mazes at every site that both models have",
            (_analyse("spectrum", LANGUAGE), _analyse("spectrum", SUITE)),
            f"{_LOOPED}, beside the model of 7x7 mazes",
            "Words in the place of characters; a longer training.",
            _language_takes_rank,
            _KNOWN,
        ),
        Claim(
            "E-language-tails",
            "section 6 (LoopLM)",
            "Trained on natural language, activations have heavier tails and more frequent outliers than on mazes.",
            "reproduced if a larger share than on mazes lies beyond four standard deviations at "
            f"{_MOST} of {len(SITES)} sites or more",
            (_analyse("distribution", LANGUAGE), _analyse("distribution", SUITE)),
            f"{_LOOPED}, beside the model of 7x7 mazes",
            "Width, depth and training at which large language models have outliers.",
            _language_has_outliers,
            _KNOWN,
        ),
    ],
)
