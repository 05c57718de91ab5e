"""The geometry of activations (sections 3.1, 3.3 and 6, Figure 4)."""

from __future__ import annotations

from compbench.ledger.analyses import command, number, site, summary
from compbench.ledger.claim import Chapter, Claim, Finding, NotRunError, holds
from compbench.ledger.evidence import Evidence

SUITE = "small/table1"
TRAINED = "hidden 64, four calls, 7x7 mazes, a model trained without compression; ranks in proportion to the width"
FIGURE_4 = "small/figure4"
FIGURE_4_COMMAND = "compbench run suites/small/figure4.yaml --jobs 2 --results results/small"
FIGURE_4_SCALE = "hidden 64, four calls, 600 steps, one seed, trained through the basis"

MLP = "block.mlp/mlp_384"
ATTENTION = "block.attn.out/attn_64"
WIDE = (MLP, "block.mlp.down/mlp_192", "block.attn/attn_192", ATTENTION)
"""The sites inside the MLP and attention. The paper does not say which are its "MLP" and "attention" sites."""
RANKS = (8, 16, 32)
"""64, 128 and 256 of 512, in proportion to the width."""


HIGH = 0.975
DIP = 0.005
PRECISION = 0.005
GAIN = 0.05
SMOOTH = 0.5


def _spectrum_of_mlp(evidence: Evidence) -> Finding:
    entry = site(summary(evidence, "spectrum", SUITE, "none"), MLP)
    lowest = number(entry, "lowest_cosine_rank_16_bits_32")
    told = f"{MLP}: fidelity of the best rank 16 at least {lowest:.4f} over the training"
    return Finding(
        holds(lowest > HIGH), told, "PCA made anew at every snapshot, uncentred, over the rows of all calls."
    )


def _fidelity_of_oracle(evidence: Evidence) -> Finding:
    curve = _curve(evidence, "svd_quarter", MLP)
    step, lowest = min(curve.items(), key=lambda point: point[1])
    told = f"{MLP}: at rank 16 fidelity is at least {lowest:.4f} (step {step})"
    return Finding(holds(lowest > HIGH), told, "The best basis of every call, in a training that goes through it.")


def _dip(evidence: Evidence) -> Finding:
    told, dips = [], []
    for arm in ("svd_eighth", "svd_quarter"):
        for name in (MLP, ATTENTION):
            curve = _curve(evidence, arm, name)
            last = max(curve)
            step, lowest = min(curve.items(), key=lambda point: point[1])
            dips.append(0.05 * last < step < 0.95 * last and curve[last] - lowest >= DIP)
            told.append(
                f"{name} at rank {8 if arm == 'svd_eighth' else 16}: {lowest:.4f} at step {step}, {curve[last]:.4f} "
                "last"
            )
    why = "A dip is a minimum inside the training from which fidelity recovers; a steady fall is none."
    return Finding(holds(all(dips)), "; ".join(told), f"{sum(dips)} of {len(dips)} curves have one. {why}")


def _dip_without_compression(evidence: Evidence) -> Finding:
    found = summary(evidence, "spectrum", SUITE, "none")
    last_step = number(found, "last_step")
    told, dips = [], []
    for rank in RANKS[:2]:
        for name in (MLP, ATTENTION):
            entry = site(found, name)
            last = number(entry, f"cosine_rank_{rank}_bits_32")
            lowest, step = (number(entry, f"lowest_cosine{at}_rank_{rank}_bits_32") for at in ("", "_step"))
            dips.append(0.05 * last_step < step < 0.95 * last_step and last - lowest >= DIP)
            told.append(f"{name} at rank {rank}: {lowest:.4f} at step {step:.0f}, {last:.4f} last")
    why = f"{sum(dips)} of {len(dips)} curves have one, of PCA made anew at every snapshot."
    return Finding(holds(all(dips)), "; ".join(told), why)


def _curve(evidence: Evidence, arm: str, name: str) -> dict[int, float]:
    (result, *_) = evidence.results(FIGURE_4).of(arm)
    points = result.site_curves.get(name, {}).get("fidelity", [])
    if len(points) < 3:
        raise NotRunError(f"the record of arm '{arm}' has no curve of fidelity at {name}")
    return {int(step): float(value) for step, value in points}


def _rank_bound(evidence: Evidence) -> Finding:
    hidden, width, rank = 512, 3072, 128
    told = (
        f"rank at most {hidden} of {width} columns: {rank} directions are {hidden // rank} times fewer, not "
        f"{width // rank}"
    )
    why = (
        f"mlp_3072 is the output of a linear layer without bias whose input is {hidden} wide (Table 3, 3.4 million "
        f"parameters), so that it has rank {hidden} at most whatever is learnt. attn_1536 likewise."
    )
    try:
        entry = site(summary(evidence, "spectrum", SUITE, "none"), MLP)
        largest, columns = number(entry, "largest_numerical_rank"), number(entry, "width")
        why += f" In small, {MLP} has numerical rank {largest:.0f} of {columns:.0f}."
    except NotRunError:
        why += " In small: not looked at yet (compbench analyse spectrum)."
    return Finding("can't be right as printed", told, why)


def _nonlinear(evidence: Evidence) -> Finding:
    found = summary(evidence, "linearity", SUITE, "none")
    gain, where, code = (
        number(found, "largest_gain"),
        found.get("largest_gain_site"),
        number(found, "largest_gain_code"),
    )
    entry = site(found, MLP)
    plain = min(number(entry, "pca_error_code_16"), number(entry, "centred_pca_error_code_16"))
    told = (
        f"the largest gain is {gain:+.1%} of the error, at {where} with {code:.0f} numbers a row; {MLP} with 16: error "
        f"{number(entry, 'autoencoder_error_code_16'):.3f} instead of {plain:.3f}"
    )
    why = (
        "On held-out rows, against the better of PCA with and without the mean. An autoencoder that begins at random, "
        f"not at PCA, has {number(entry, 'random_autoencoder_error_code_16'):.3f} there."
    )
    return Finding(holds(gain <= GAIN), told, why)


def _outperforms(evidence: Evidence) -> Finding:
    gain = number(summary(evidence, "linearity", SUITE, "none"), "largest_gain")
    why = "A linear autoencoder contains PCA, so that a nonlinear one that is worse is one that was fitted less well."
    return Finding(holds(gain <= 0), f"the autoencoders' largest gain is {gain:+.1%}", why)


def _precision(evidence: Evidence) -> Finding:
    found = summary(evidence, "spectrum", SUITE, "none")
    gaps = {}
    for name in WIDE:
        entry = site(found, name)
        for rank in RANKS:
            full = number(entry, f"cosine_rank_{rank}_bits_32")
            gaps[name, rank] = max(abs(number(entry, f"cosine_rank_{rank}_bits_{bits}") - full) for bits in (8, 16))
    (name, rank), gap = max(gaps.items(), key=lambda found: found[1])
    told = f"fidelity changes by {gap:.5f} at most ({name}, rank {rank})"
    return Finding(holds(gap <= PRECISION), told, "Coefficients in 8, 16 and 32 bits, last snapshot.")


def _smooth(evidence: Evidence) -> Finding:
    entry = site(summary(evidence, "drift", SUITE, "none"), MLP)
    least = number(entry, "pca_overlap_successive_min")
    told = f"{MLP}: successive snapshots share at least {least:.0%} of their leading subspace"
    return Finding(holds(least >= SMOOTH), told, "Exact PCA of a quarter of the width; snapshots are evenly spread.")


CHAPTER = Chapter(
    "The geometry of activations (sections 3.1, 3.3 and 6, Figure 4)",
    [
        Claim(
            "G-rank-24",
            "sections 3.1 and 6",
            "128 of 3072 dimensions suffice: the trajectory lives in a subspace 24 times smaller.",
            "can't be right as printed if the site's rank is bounded below its width whatever is learnt",
            ("by algebra", command("spectrum", SUITE, "none")),
            "the paper's own sizes",
            "Nothing: 128 of 512 remains a fourfold reduction.",
            _rank_bound,
        ),
        Claim(
            "F4-spectrum",
            "section 3.1, Figure 4",
            "At the MLP a quarter of the width (k = 128) keeps a fidelity above 0.975 throughout training.",
            f"reproduced if PCA of rank 16 of 64 has a fidelity above {HIGH} at every snapshot",
            (command("spectrum", SUITE, "none"),),
            TRAINED,
            "The paper's width and task.",
            _spectrum_of_mlp,
        ),
        Claim(
            "F4-oracle",
            "section 3.1, Figure 4",
            "The same, with the basis made anew for each batch of a training.",
            f"reproduced if the fidelity of the best rank 16 of 64 is above {HIGH} at every recorded step",
            (FIGURE_4_COMMAND,),
            FIGURE_4_SCALE,
            "The paper's width and task; a training that is not compressed.",
            _fidelity_of_oracle,
        ),
        Claim(
            "F4-dip",
            "Figure 4, section 6.1 (LANCE)",
            "Lower ranks have a pronounced dip of fidelity in mid-training, as more directions come into use.",
            "reproduced if at ranks 8 and 16, at the MLP and at attention, the lowest fidelity lies between 5 and 95 "
            f"% of the training and the last is at least {DIP} above it",
            (FIGURE_4_COMMAND,),
            FIGURE_4_SCALE,
            "A longer training; more seeds.",
            _dip,
        ),
        Claim(
            "F4-dip-plain",
            "Figure 4, section 6.1 (LANCE)",
            "The same, in a training that is not compressed, as the paper has it.",
            f"reproduced if all four curves have a lowest fidelity inside the training and end at least {DIP} above it",
            (command("spectrum", SUITE, "none"),),
            TRAINED,
            "A longer training; more snapshots; another seed.",
            _dip_without_compression,
            "the numbers of the MLP were known",
        ),
        Claim(
            "F4-precision",
            "Figure 4",
            "8, 16 or 32 bits make hardly a difference to the rebuild.",
            f"reproduced if fidelity differs by at most {PRECISION} at every site and rank",
            (command("spectrum", SUITE, "none"),),
            TRAINED,
            "Coefficients with outliers.",
            _precision,
        ),
        Claim(
            "G-linear",
            "section 3.1",
            "Nonlinear autoencoders rebuild activations no better than a linear projection.",
            f"reproduced if the largest gain at any site and code size is at most {GAIN:.0%} of the error",
            (command("linearity", SUITE, "none"),),
            TRAINED,
            "Larger autoencoders, fitted longer.",
            _nonlinear,
        ),
        Claim(
            "G-outperforms",
            "A.2.4",
            "LASER outperforms autoencoders despite their greater capacity.",
            "reproduced if no autoencoder is better than the projection",
            (command("linearity", SUITE, "none"),),
            TRAINED,
            "Larger autoencoders, fitted longer.",
            _outperforms,
        ),
        Claim(
            "G-smooth",
            "sections 3.3 and 6",
            "The subspace evolves smoothly enough over training for one power iteration a step.",
            f"reproduced if the leading subspaces of successive snapshots overlap by at least {SMOOTH:.0%}",
            (command("drift", SUITE, "none"),),
            TRAINED,
            "Snapshots that are closer together.",
            _smooth,
        ),
    ],
)
