"""Section 6.1 (and 2): what the paper expects of other methods and did not run."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from compbench.ledger.analyses import command, number, site, summary
from compbench.ledger.claim import Chapter, Claim, Finding, NotRunError, holds
from compbench.ledger.claims.geometry import MLP
from compbench.ledger.claims.method import COMMAND as DEPTH_COMMAND
from compbench.ledger.claims.method import LINEAR, straightness
from compbench.ledger.claims.method import SCALE as DEPTH_SCALE
from compbench.ledger.claims.method import SUITE as DEPTH
from compbench.ledger.claims.table_1 import COMMAND as TABLE_1_COMMAND
from compbench.ledger.claims.table_1 import SMALL
from compbench.ledger.claims.table_1 import SUITE as TABLE_1
from compbench.ledger.evidence import Evidence, fidelity, gradient_cosine, numbers, saved_bytes, uncompressed_bytes
from compbench.measure.paper_accounting import sites_of_record
from compbench.run.result import CellResult

SUITE = "small/predictions"
COMMAND = "compbench run suites/small/predictions.yaml --jobs 2 --results results/small"
SCALE = "hidden 64, four calls, rank 16, 7x7 mazes, 400 steps, three seeds, fp32, CPU"
DRIFT = "basis_drift"
DRIFT_COMMAND = "compbench run suites/basis_drift.yaml --jobs 2"
DRIFT_SCALE = "hidden 64, four calls, rank 16, 7x7 mazes, 600 steps, two seeds, fp32, CPU"

_EARLIER = "the results are older than the rule"

LOWER = 0.01
"""By how much a fidelity has to be lower to be called lower."""
STRUCTURE = 0.05
SAME = 0.02
CONSTANT = 0.05
NEGLIGIBLE = 0.01
ALIGNED = 0.95
TWELVE = 12.0
LITTLE = 0.5


def _graceful(evidence: Evidence) -> Finding:
    results = evidence.results(TABLE_1)
    told, means = [], []
    for arm in ("laser_quarter", "laser_half"):
        own = results.of(arm)
        cosines, kept = numbers(own, gradient_cosine, "gradient cosine"), numbers(own, fidelity, "fidelity")
        means.append(fmean(cosines))
        told.append(f"{arm}: cosine {fmean(cosines):.3f} at a fidelity of {fmean(kept):.3f} ({results.seeds(own)})")
    why = (
        "Of all parameters' gradients after training, against the exact ones on the same batch. Fidelity is a mean "
        "over sites and the error is compounded over calls, which Theorem 1 leaves out."
    )
    return Finding(holds(min(means) >= ALIGNED), "; ".join(told), why)


def _lance_is_stale(evidence: Evidence) -> Finding:
    kept, stale, told = _beside_laser(evidence, "lance", "LANCE")
    lower = all(a - b >= LOWER for a, b in zip(kept, stale, strict=True))
    why = "The basis comes from the first step and never moves. LANCE as published calibrates on a pretrained model."
    return Finding(holds(lower), told.replace("fidelity", "fidelity at the end", 1), why)


def _lance_below_oracle(evidence: Evidence) -> Finding:
    results = evidence.results(DRIFT)
    pairs = results.paired("oracle_svd", "lance")
    falls = [[_fall(result) for result in pair] for pair in pairs]
    last = [[_fidelities(result)[-1] for result in pair] for pair in pairs]
    number_ = (
        f"fidelity {fmean(b for _, b in last):.3f} at the end, the best basis {fmean(a for a, _ in last):.3f}; it fell "
        f"by {fmean(b for _, b in falls):.3f} from its highest, the best basis' by {fmean(a for a, _ in falls):.3f}, "
        f"{results.seeds(pairs)}"
    )
    both = all(a - b >= LOWER for a, b in last) and all(b > a for a, b in falls)
    return Finding(holds(both), number_, "Both in trainings of their own, at the same rank and seed.")


def _epoch_0_is_unlike(evidence: Evidence) -> Finding:
    entry = site(summary(evidence, "drift", "small/table1", "none"), MLP)
    overlap = number(entry, "pca_overlap_first_last")
    stale, own = number(entry, "pca_stale_fidelity"), number(entry, "pca_fidelity")
    told = (
        f"{MLP}: first and last subspace overlap by {overlap:.0%}; the last rows have fidelity {stale:.3f} in the "
        f"first basis and {own:.3f} in their own"
    )
    return Finding(holds(overlap <= LITTLE), told, "PCA of the initial weights' activations and of the trained ones'.")


def _loract_is_fresh(evidence: Evidence) -> Finding:
    kept, fresh, told = _beside_laser(evidence, "loract", "LoRAct")
    not_lower = all(b >= a - LOWER for a, b in zip(kept, fresh, strict=True))
    why = "A basis made from the call that it encodes can't be stale; sampled columns may still make a worse one."
    return Finding(holds(not_lower), told, why)


def _beside_laser(evidence: Evidence, arm: str, called: str) -> tuple[list[float], list[float], str]:
    """Fidelities of LASER and of another arm, paired by seed, and both with gradient cosines in words."""
    results = evidence.results(SUITE)
    pairs = results.paired("laser", arm)
    ours, theirs = _columns(pairs)
    kept, other = numbers(ours, fidelity, "fidelity"), numbers(theirs, fidelity, "fidelity")
    cosines = [fmean(numbers(column, gradient_cosine, "gradient cosine")) for column in (ours, theirs)]
    told = (
        f"fidelity {fmean(other):.3f} ({called}) and {fmean(kept):.3f} (LASER), gradient cosine {cosines[1]:.3f} and "
        f"{cosines[0]:.3f}, {results.seeds(pairs)}"
    )
    return kept, other, told


def _one_subspace(evidence: Evidence) -> Finding:
    results = evidence.results(DRIFT)
    pairs = results.paired("oracle_svd", "laser_fixed")
    gaps = [_fidelities(oracle)[-1] - _fidelities(shared)[-1] for oracle, shared in pairs]
    told = (
        f"fidelity is {fmean(gaps):.3f} lower with one tracked basis than with the best of every call, "
        f"{results.seeds(pairs)}"
    )
    why = "If calls had different leading subspaces one basis of the same rank could not serve them all."
    return Finding(holds(max(gaps) <= SAME), told, why)


def _loract_costs_grow(evidence: Evidence) -> Finding:
    results = evidence.results(DEPTH)
    own = {arm: {result.cell.depth: result for result in results.of(arm)} for arm in ("laser", "loract")}
    depths = sorted(own["laser"].keys() & own["loract"].keys())
    if len(depths) < 3:
        raise NotRunError("suite 'depth' has fewer than three depths that are finished for both LASER and LoRAct")
    products = [_operations(own["loract"][d]) - _operations(own["laser"][d]) for d in depths]
    decompositions = [_decompositions(own["loract"][d], True) - _decompositions(own["laser"][d], False) for d in depths]
    memory = [_saved(own["loract"][d]) - _saved(own["laser"][d]) for d in depths]
    slope, _, deviation = straightness(depths, [a + b for a, b in zip(products, decompositions, strict=True)])
    deepest = own["loract"][depths[-1]]
    told = (
        f"LoRAct takes {slope / 1e6:+.1f} million operations and {straightness(depths, memory)[0] / 1e3:+.1f} kB a "
        f"call more than LASER, {deviation:.2%} from a straight line at most; at depth {depths[-1]} it is "
        f"{(products[-1] + decompositions[-1]) / _operations(deepest):.2%} of LoRAct's matrix products"
    )
    why = (
        "QR decompositions by their textbook count, 4 D k^2 - 4 k^3 / 3: LoRAct has one for each call and site, LASER "
        f"one for each step and site. Matrix products, counted, differ by {max(map(abs, products)) / 1e6:.1f} million "
        "at most: both form X^T times a narrow matrix at every call."
    )
    return Finding(holds(slope > 0 and deviation <= LINEAR), told, why)


def _decompositions(result: CellResult, at_each_call: bool) -> float:
    """Operations of the QR decompositions of a step, by their textbook count."""
    sites = sites_of_record(result.memory.sites) if result.memory else []
    single = {site: 4 * site.width * site.rank**2 - 4 * site.rank**3 / 3 for site in sites if site.rank}
    return sum(operations * (site.matrices if at_each_call else 1) for site, operations in single.items())


def _not_gale(_: Evidence) -> Finding:
    why = (
        "By its abstract and reviews (OpenReview D9Oq3c5iHn) GALE is GaLore with a randomised sketch and QR in the "
        "place of the SVD: it projects gradients in the optimiser step, looks at them to do so, and stores no "
        "activation smaller. What is described is nearer to CompAct (2410.15352) and RAD (2007.10412)."
    )
    return Finding("can't be right as printed", "0 bytes of activations are saved by the published GALE", why)


def _sketch_ignores_structure(evidence: Evidence) -> Finding:
    results = evidence.results(SUITE)
    pairs = results.paired("laser", "gale", "random_projection")
    laser, gale, unbiased = _columns(pairs)
    kept, sketch = numbers(laser, fidelity, "fidelity"), numbers(gale, fidelity, "fidelity")
    cosines = [fmean(numbers(column, gradient_cosine, "gradient cosine")) for column in (laser, gale, unbiased)]
    told = (
        f"fidelity {fmean(sketch):.3f} (a random subspace) and {fmean(kept):.3f} (LASER); gradient cosine "
        f"{cosines[1]:.3f}, {cosines[2]:.3f} (the unbiased sketch) and {cosines[0]:.3f} (LASER), {results.seeds(pairs)}"
    )
    return Finding(
        holds(all(a - b >= STRUCTURE for a, b in zip(kept, sketch, strict=True))),
        told,
        "A random subspace of k of D dimensions keeps sqrt(k / D) of the norm on average, whatever the rows are.",
    )


def _sketch_is_constant(evidence: Evidence) -> Finding:
    results = evidence.results(SUITE)
    ranges = {}
    for arm in ("gale", "laser", "lance"):
        own = results.of(arm)
        ranges[arm] = fmean(max(values) - min(values) for values in map(_fidelities, own))
    told = (
        f"fidelity moves by {ranges['gale']:.3f} over the training; LASER's by {ranges['laser']:.3f}, LANCE's by "
        f"{ranges['lance']:.3f}"
    )
    return Finding(holds(ranges["gale"] <= CONSTANT), told, "Highest less lowest, the mean over seeds.")


def _sketch_costs_more(evidence: Evidence) -> Finding:
    results = evidence.results(SUITE)
    pairs = results.paired("laser", "gale")
    extra = [fmean(_ratio(result) - 1 for result in column) for column in _columns(pairs)]
    told = f"{extra[1]:+.1%} operations a step for the sketch, {extra[0]:+.1%} for LASER, {results.seeds(pairs)}"
    why = "Matrix products alone, of a whole step; a sketch needs no X^T (X Q). Drawing random numbers is not counted."
    return Finding(holds(extra[1] > extra[0]), told, why)


def _quantisation_composes(evidence: Evidence) -> Finding:
    results = evidence.results(SUITE)
    pairs = results.paired("laser", "laser_int8", "laser_actnn")
    plain, int8, actnn = _columns(pairs)
    base = numbers(plain, gradient_cosine, "gradient cosine")
    start = [fmean(r.fidelity.gradient_cosine_start for r in column if r.fidelity) for column in (plain, int8, actnn)]
    gaps = [abs(a - b) for a, b in zip(base, numbers(int8, gradient_cosine, "gradient cosine"), strict=True)]
    means = [fmean(numbers(column, gradient_cosine, "gradient cosine")) for column in (plain, int8, actnn)]
    told = (
        f"gradient cosine after the third step {start[0]:.4f} (LASER), {start[1]:.4f} (with INT8), {start[2]:.4f} "
        f"(with ActNN's 4 bits); after training {means[0]:.3f}, {means[1]:.3f} and {means[2]:.3f}, "
        f"{results.seeds(pairs)}"
    )
    why = (
        "Judged after the third step, where the weights are still nearly the same; after training each arm has weights "
        f"of its own, whose cosines differ by up to {max(gaps):.3f} between LASER with and without INT8."
    )
    return Finding(holds(abs(start[0] - start[1]) <= NEGLIGIBLE), told, why)


def _together_is_less(evidence: Evidence) -> Finding:
    results = evidence.results(SUITE)
    pairs = results.paired("laser", "int8", "laser_int8")
    kept = [median(numbers(column, saved_bytes, "saved bytes")) for column in _columns(pairs)]
    told = ", ".join(
        f"{bytes_ / 1e6:.2f} MB ({name})" for name, bytes_ in zip(("LASER", "INT8", "both"), kept, strict=True)
    )
    return Finding(holds(kept[2] < min(kept[:2])), told, f"Bytes held for the backward pass, {results.seeds(pairs)}.")


def _actnn_twelvefold(evidence: Evidence) -> Finding:
    own = evidence.results(SUITE).of("actnn")
    kept, plain = numbers(own, saved_bytes, "saved bytes"), numbers(own, uncompressed_bytes, "bytes")
    ratio = median(a / b for a, b in zip(plain, kept, strict=True))
    cosine = fmean(numbers(own, gradient_cosine, "gradient cosine"))
    told = (
        f"{ratio:.1f} times fewer bytes at 2 bits, gradient cosine {cosine:.3f}, {evidence.results(SUITE).seeds(own)}"
    )
    why = "Against fp32 activations, as in ActNN; against bf16 it is half of that. Codes' constants are included."
    return Finding(holds(ratio >= TWELVE), told, why)


def _columns(pairs: Sequence[tuple[CellResult, ...]]) -> list[list[CellResult]]:
    return [list(column) for column in zip(*pairs, strict=True)]


def _fidelities(result: CellResult) -> list[float]:
    """Fidelity over the training, the mean over sites."""
    found = [point["fidelity"] for point in result.statistics_curve if "fidelity" in point]
    if len(found) < 3:
        raise NotRunError(f"record {result.key} has no curve of fidelity")
    return found


def _fall(result: CellResult) -> float:
    values = _fidelities(result)
    return max(values) - values[-1]


def _operations(result: CellResult) -> float:
    if result.arithmetic is None:
        raise NotRunError(f"record {result.key} has no count of operations")
    return result.arithmetic.flops.total


def _ratio(result: CellResult) -> float:
    ratio = result.arithmetic.ratio if result.arithmetic else None
    if ratio is None:
        raise NotRunError(f"record {result.key} has no count of operations")
    return ratio


def _saved(result: CellResult) -> float:
    return numbers([result], saved_bytes, "saved bytes")[0]


CHAPTER = Chapter(
    "What the paper expects of other methods (sections 2 and 6.1), and of gradients",
    [
        Claim(
            "6.1-LANCE-stale",
            "sections 2.2.1 and 6.1",
            "A basis fixed at initialisation goes stale in training from scratch; LASER's does not.",
            f"reproduced if LANCE's fidelity at the end is at least {LOWER} below LASER's for every seed",
            (COMMAND,),
            SCALE,
            "Calibration after some training; fine-tuning, which LANCE is for.",
            _lance_is_stale,
        ),
        Claim(
            "6.1-LANCE-oracle",
            "section 6.1",
            "The best basis of every batch is a generous upper bound of LANCE's fidelity, which falls further.",
            f"reproduced if LANCE ends at least {LOWER} below the best basis and fell by more, for every seed",
            (DRIFT_COMMAND,),
            DRIFT_SCALE,
            "A rank at which the oracle itself keeps little.",
            _lance_below_oracle,
            _EARLIER,
        ),
        Claim(
            "6.1-LANCE-epoch-0",
            "section 6.1",
            "The activation subspace at epoch 0 bears little resemblance to the converged one.",
            f"reproduced if the leading subspaces of a quarter of the width overlap by at most {LITTLE:.0%}",
            (command("drift", "small/table1", "none"),),
            "hidden 64, four calls, a model trained without compression",
            "Another site or rank.",
            _epoch_0_is_unlike,
        ),
        Claim(
            "6.1-LoRAct-fresh",
            "section 6.1",
            "LoRAct, which decomposes every call anew, avoids staleness.",
            f"reproduced if its fidelity at the end is at most {LOWER} below LASER's for every seed",
            (COMMAND,),
            SCALE,
            "More power iterations or oversampling in LoRAct's decomposition.",
            _loract_is_fresh,
        ),
        Claim(
            "6.1-LoRAct-same",
            "section 6.1",
            "The decompositions of all calls would converge to about the same subspace, so that one basis does.",
            f"reproduced if the fidelity of one tracked basis is at most {SAME} below that of the best basis of every "
            "call",
            (DRIFT_COMMAND,),
            DRIFT_SCALE,
            "More calls; sites whose calls differ.",
            _one_subspace,
            _EARLIER,
        ),
        Claim(
            "6.1-LoRAct-cost",
            "section 6.1",
            "LASER's computational advantage over LoRAct grows linearly with depth.",
            "reproduced if LoRAct's operations, matrix products as counted and decompositions by formula, exceed "
            f"LASER's by an amount that grows linearly with the calls, within {LINEAR:.0%}",
            (DEPTH_COMMAND,),
            DEPTH_SCALE,
            "Times on a GPU, where decompositions are slow.",
            _loract_costs_grow,
            "it was of matrix products alone at first, which turned out to be equal",
        ),
        Claim(
            "6.1-GALE-what",
            "sections 2.2.1 and 6.1",
            "GALE compresses activations by data-independent random sketches.",
            "can't be right as printed if the method that is cited does something else",
            ("GALE's abstract and reviews",),
            "-",
            "A part of GALE's text that we have not read.",
            _not_gale,
        ),
        Claim(
            "6.1-GALE-structure",
            "section 6.1",
            "A data-independent sketch can't exploit the low-rank structure.",
            f"reproduced if its fidelity is at least {STRUCTURE} below LASER's for every seed, at equal rank",
            (COMMAND,),
            SCALE,
            "Sketches that are reweighted by the data.",
            _sketch_ignores_structure,
        ),
        Claim(
            "6.1-GALE-immune",
            "section 6.1",
            "It is immune to drift: its quality stays constant.",
            f"reproduced if its fidelity moves by at most {CONSTANT} over the training",
            (COMMAND,),
            SCALE,
            "Nothing: it holds for any random subspace on average.",
            _sketch_is_constant,
        ),
        Claim(
            "6.1-GALE-cost",
            "sections 2.2.1 and 6.1",
            "Sketching costs more in a step than LASER's power iteration.",
            "reproduced if its counted operations are more than LASER's at equal rank",
            (COMMAND,),
            SCALE,
            "Times on a GPU, where drawing random numbers may count.",
            _sketch_costs_more,
        ),
        Claim(
            "6.1-INT8-after",
            "sections 3.2 and 6.1 (ActNN)",
            "INT8 after the projection adds negligible distortion.",
            f"reproduced if the gradient's cosine after the third step is within {NEGLIGIBLE} of LASER's alone, the "
            "mean over seeds",
            (COMMAND,),
            SCALE,
            "Fewer bits; one scale for a whole tensor.",
            _quantisation_composes,
        ),
        Claim(
            "6.1-compose",
            "section 2.1",
            "Quantising LASER's coefficients compresses more than either method alone.",
            "reproduced if both together keep fewer bytes than each",
            (COMMAND,),
            SCALE,
            "Nothing at these ranks.",
            _together_is_less,
        ),
        Claim(
            "6.1-ActNN-12",
            "section 6.1",
            "ActNN reduces activation memory up to 12 times.",
            f"reproduced if our ActNN, at its default of 2 bits, keeps at least {TWELVE:g} times fewer bytes",
            (COMMAND,),
            SCALE,
            "The precision that is compared with.",
            _actnn_twelvefold,
        ),
        Claim(
            "3.5-graceful",
            "section 3.5.2, A.2.4",
            "With the reconstruction good, gradients stay close to the exact ones.",
            f"reproduced if the mean cosine of all parameters' gradients after training is at least {ALIGNED}, the "
            "fidelity that LASER asks for",
            (TABLE_1_COMMAND,),
            SMALL,
            "Queries and keys left raw, which suite trm_attention has tried; a higher threshold; fewer calls.",
            _graceful,
            "one record's cosine was known",
        ),
    ],
)
