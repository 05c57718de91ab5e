"""Algorithm 1, its costs, and memory as recursion deepens (sections 3.3 and 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from compbench.ledger.claim import Chapter, Claim, Finding, NotRunError, holds
from compbench.ledger.claims.table_1 import PAPER
from compbench.ledger.evidence import Evidence, numbers, saved_bytes, uncompressed_bytes
from compbench.measure.paper_accounting import PAPER_ROWS, Accounting, paper_sites

SUITE = "small/depth"
COMMAND = "compbench run suites/small/depth.yaml --jobs 2 --results results/small"
SCALE = "hidden 64, 2 to 50 calls, batch 64, 7x7 mazes, fp32, CPU; three steps at a fixed rank"
LINEAR = 0.01
"""The largest deviation from a straight line, relative to the figure, that counts as one."""


def _line_21(_: Evidence) -> Finding:
    kept, turned = _cosines()
    number = (
        f"in the plane, one column: cosine {kept:+.2f} with the basis that encoded, {turned:+.2f} with the updated one "
        "if its sign is turned, which the orthonormalisation is free to do"
    )
    why = (
        "Z is X times the basis of the step before (line 4), and line 21 multiplies it by the transpose of the new "
        "one: that is no projection, Proposition 1 does not hold for it, and after an expansion (line 17) N x k meets "
        "(k + m) x D and there is no product. Our LASER rebuilds with the basis that encoded; rebuild: updated is the "
        "printed line."
    )
    return Finding("can't be right as printed", number, why)


def _cosines() -> tuple[float, float]:
    """Cosines of rows along one direction with their rebuilds by lines 4 and 21, for either sign of the new basis."""
    rows = np.array([[3.0, 4.0], [6.0, 8.0]])
    before = np.array([[1.0], [0.0]])
    Z = rows @ before
    after = rows.T @ Z
    after = -after / np.linalg.norm(after)

    def cosine(rebuilt: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        return float((rows * rebuilt).sum() / np.linalg.norm(rows) / np.linalg.norm(rebuilt))

    return cosine(Z @ before.T), cosine(Z @ after.T)


def _complexity_or_table(_: Evidence) -> Finding:
    sites = paper_sites()
    per_call, shared = Accounting().total(sites), Accounting("shared").total(sites)
    number = (
        f"{shared.compressed_bytes / 1e9:.3f} GB with one basis for all calls, {per_call.compressed_bytes / 1e9:.3f} "
        "GB with one for each; 1.14 GB is printed"
    )
    why = (
        "The text has one basis for all calls, O(nBk + Dk), and Table 1 is met only with one for each, O(nBk + nDk). "
        f"Both can't be. At the same ranks the text's own algorithm saves {shared.saving:.1%} instead of "
        f"{per_call.saving:.1%}: the table is the less favourable to it."
    )
    fits = f"{shared.compressed_bytes / 1e9:.2f}" == "1.14"
    return Finding("reproduced" if fits else "can't be right as printed", number, why)


def _covariance_cost(_: Evidence) -> Finding:
    width, rank = 3072, 128
    covariance, iteration = 2 * PAPER_ROWS * width**2, 4 * PAPER_ROWS * width * rank
    number = (
        f"at mlp_3072 with k = {rank}: {covariance / 1e9:.0f} billion operations for the covariance of a call, "
        f"{iteration / 1e9:.1f} for X^T (X Q), {covariance / iteration:.0f} times fewer"
    )
    why = (
        "Forming X^T X takes O(B D^2) operations; O(D^2) is its size. The conclusion stands: the power iteration's O(B "
        "D k) is cheaper by D / 2k."
    )
    return Finding("can't be right as printed", number, why)


def straightness(depths: Sequence[int], figures: Sequence[float]) -> tuple[float, float, float]:
    """Slope and intercept of the least-squares line, and the largest deviation from it.

    The deviation is relative to the figure itself, and 0 where all figures are 0.
    """
    slope, intercept = np.polyfit(depths, figures, 1)
    off = np.abs(np.polyval([slope, intercept], depths) - figures)
    sizes = np.abs(np.asarray(figures, dtype=float))
    deviation = 0.0 if not sizes.any() else float(np.max(off / np.where(sizes, sizes, sizes.max())))
    return float(slope), float(intercept), deviation


def _by_depth(evidence: Evidence, arm: str) -> dict[int, tuple[float, float]]:
    """Bytes that a step holds without the strategy and with it, by depth."""
    own = evidence.results(SUITE).of(arm)
    plain, kept = numbers(own, uncompressed_bytes, "bytes"), numbers(own, saved_bytes, "saved bytes")
    found = {result.cell.depth: pair for result, *pair in zip(own, plain, kept, strict=True)}
    if len(found) < 3:
        raise NotRunError(f"suite 'depth' has fewer than three finished depths of arm '{arm}' yet")
    return {depth: (found[depth][0], found[depth][1]) for depth in sorted(found)}


def _depths(found: Mapping[int, object]) -> str:
    return f"at {len(found)} depths from {min(found)} to {max(found)}"


def _full_is_linear(evidence: Evidence) -> Finding:
    found = _by_depth(evidence, "none")
    slope, _, deviation = straightness(list(found), [kept for _, kept in found.values()])
    number = f"{slope / 1e6:.2f} MB a call, {deviation:.2%} from a straight line at most, {_depths(found)}"
    return Finding(holds(deviation <= LINEAR), number, "Bytes that a step holds for its backward pass, measured.")


def _laser_is_linear(evidence: Evidence) -> Finding:
    found = _by_depth(evidence, "laser")
    kept = [bytes_ for _, bytes_ in found.values()]
    slope, intercept, deviation = straightness(list(found), kept)
    saved, _, saved_deviation = straightness(list(found), [plain - k for plain, k in found.values()])
    number = (
        f"{slope / 1e6:.3f} MB a call and {intercept / 1e6:.2f} MB once, {deviation:.2%} from a straight line at most; "
        f"what is saved grows by {saved / 1e6:.2f} MB a call ({saved_deviation:.2%}), {_depths(found)}"
    )
    why = "With one basis for all calls of a step, which is part of what is held once, beside what is never compressed."
    return Finding(holds(max(deviation, saved_deviation) <= LINEAR), number, why)


def _share_grows(evidence: Evidence) -> Finding:
    shared, per_call = _by_depth(evidence, "laser"), _by_depth(evidence, "laser_per_call")
    shares = {depth: 1 - kept / plain for depth, (plain, kept) in shared.items()}
    other = {depth: 1 - kept / plain for depth, (plain, kept) in per_call.items()}
    first, last = min(shares), max(shares)
    number = (
        f"{shares[first]:.1%} saved at {first} calls and {shares[last]:.1%} at {last}; with a basis for each call "
        f"{other[min(other)]:.1%} and {other[max(other)]:.1%}"
    )
    why = "The share is bounded by 1 - k / D at each site: what grows without bound is the number of bytes saved."
    ordered = [shares[depth] for depth in sorted(shares)]
    grows = all(later >= earlier - 1e-6 for earlier, later in pairwise(ordered))
    return Finding(holds(grows and ordered[-1] > ordered[0]), number, why)


CHAPTER = Chapter(
    "Algorithm 1, its costs, and recursion depth (sections 3.3 and 3.4)",
    [
        Claim(
            "A-line-21",
            "Algorithm 1, lines 4, 17 and 21",
            "Activations are rebuilt as the stored coefficients times the transpose of the updated basis.",
            "can't be right as printed if the shapes do not fit, or the rebuild is no projection of X",
            ("by algebra, and a case that can be worked out by hand",),
            "any",
            "An index: the basis of step t-1 in line 21.",
            _line_21,
        ),
        Claim(
            "C-memory",
            "Figure 1, sections 3.3 and 3.4, with Table 1",
            "LASER stores coefficients for each call and one shared basis, O(nBk + Dk), and takes 1.14 GB.",
            "reproduced if one shared basis at the printed ranks gives 1.14 GB, else the two can't both be right",
            ("compbench accounting",),
            PAPER,
            "A statement by the authors of which of the two was run.",
            _complexity_or_table,
        ),
        Claim(
            "C-covariance",
            "section 3.3",
            "The covariance is an O(D^2) operation and the power iteration O(BDk), significantly faster.",
            "can't be right as printed if the operations of the covariance depend on the number of rows",
            ("by counting operations",),
            PAPER,
            "Nothing: it is arithmetic. The conclusion that is drawn from it holds.",
            _covariance_cost,
        ),
        Claim(
            "D-full",
            "section 3.4",
            "Without compression memory grows in proportion to the recursion's depth.",
            f"reproduced if no depth is further than {LINEAR:.0%} from a straight line",
            (COMMAND,),
            SCALE,
            "Memory that is not of activations.",
            _full_is_linear,
        ),
        Claim(
            "D-laser",
            "section 3.4",
            "LASER's memory and its savings grow linearly with depth, and the basis is paid for once.",
            f"reproduced if neither is further than {LINEAR:.0%} from a straight line at any depth",
            (COMMAND,),
            SCALE,
            "Ranks that grow with depth.",
            _laser_is_linear,
        ),
        Claim(
            "D-share",
            "sections 1 and 3.4",
            "LASER's advantage becomes larger as recursion deepens.",
            "reproduced if the share that is saved grows from depth to depth",
            (COMMAND,),
            SCALE,
            "A basis for each call, as Table 1 is charged.",
            _share_grows,
        ),
    ],
)
