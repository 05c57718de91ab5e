"""Proposition 1, Theorem 1 and Corollary 1 (sections 3.5, A.1 and A.2)."""

from __future__ import annotations

import math

import numpy as np

from compbench.ledger.analyses import command, number, summary
from compbench.ledger.claim import Chapter, Claim, Finding, holds
from compbench.ledger.evidence import Evidence

SUITE = "small/table1"
TRIALS = 200
ROUNDING = 1e-10


def _proposition_1(_: Evidence) -> Finding:
    source = np.random.default_rng(1)
    worst = 0.0
    for _trial in range(TRIALS):
        rows, width = source.integers(1, 40, size=2)
        rank = source.integers(1, width + 1)
        X = source.normal(size=(rows, width))
        Q, _triangle = np.linalg.qr(source.normal(size=(width, rank)))
        Z = X @ Q
        rebuilt = Z @ Q.T
        cosine = (X * rebuilt).sum() / np.linalg.norm(X) / np.linalg.norm(rebuilt)
        worst = max(worst, float(abs(np.linalg.norm(Z) / np.linalg.norm(X) - cosine)))
    found = f"the two differ by less than {ROUNDING:g} in {TRIALS} random cases"
    why = (
        "The proof is right, for X rebuilt with the orthonormal basis that made Z; line 21 of Algorithm 1 rebuilds "
        f"with another. Fidelity 0.95 is a relative error of sqrt(1 - 0.95^2) = {math.sqrt(1 - 0.95**2):.0%}. |X| "
        "takes O(ND) itself; what is avoided is the rebuild's O(NDk)."
    )
    return Finding(holds(worst < ROUNDING), found, why)


def _theorem_1(evidence: Evidence) -> Finding:
    found = summary(evidence, "gradient", SUITE, "laser_quarter")
    violations, units = number(found, "bound_violations"), number(found, "proved_units")
    told = f"{violations:.0f} of {units:.0f} measured errors are above a bound whose constant is proved"
    why = (
        "It is about one operator with its exact upstream gradient. Across calls the upstream gradient is itself "
        "computed from what was rebuilt, which the theorem leaves out; and about gradients of weights it says nothing."
    )
    return Finding(holds(violations == 0 and units > 0), told, why)


def _corollary_1(_: Evidence) -> Finding:
    """With ``|d| <= r |g|``: cos(g, g + d) is least sqrt(1 - r^2) for r < 1, and 1 - 2r <= -1 for r >= 1."""
    source = np.random.default_rng(2)
    worst, sharp = math.inf, math.inf
    for _trial in range(TRIALS):
        g = source.normal(size=source.integers(1, 20))
        d = source.normal(size=g.shape) * source.uniform(0, 1.5)
        r = float(np.linalg.norm(d) / np.linalg.norm(g))
        cosine = float(g @ (g + d) / np.linalg.norm(g) / np.linalg.norm(g + d))
        worst = min(worst, cosine - (1 - 2 * r))
        if r < 1:
            sharp = min(sharp, cosine - math.sqrt(1 - r * r))
    told = (
        f"no violation in {TRIALS} random cases; at r = 0.25 it gives {1 - 2 * 0.25:.2f}, the best bound "
        f"{math.sqrt(1 - 0.25**2):.2f}"
    )
    why = (
        "It follows from Theorem 1, though the proof is not printed: with r the relative error of the gradient the "
        "cosine is at least sqrt(1 - r^2) for r < 1, which is never less than 1 - 2r, and for r of 1 and more 1 - 2r "
        "says nothing. It is loose: from r = 0.5 on it allows a cosine of 0 or less."
    )
    return Finding(holds(min(worst, sharp) > -ROUNDING), told, why)


CHAPTER = Chapter(
    "Proposition 1, Theorem 1 and Corollary 1 (sections 3.5, A.1 and A.2)",
    [
        Claim(
            "P1-fidelity",
            "section 3.5.1, A.1, Proposition 1",
            "Fidelity |Z| / |X| equals the cosine of the activations and their rebuild.",
            f"reproduced if they differ by less than {ROUNDING:g} in every random case, and the proof holds",
            (f"computed, {TRIALS} random matrices",),
            "any",
            "A basis that is not orthonormal.",
            _proposition_1,
        ),
        Claim(
            "Th1-bound",
            "section 3.5.2, A.2, Theorem 1",
            "The gradient's error is at most L_J |lambda| epsilon.",
            "reproduced if no measured error is above a bound whose constant is known by a closed form",
            (command("gradient", SUITE, "laser_quarter"),),
            "hidden 64, four calls, a trained model",
            "An operator whose Jacobian is not Lipschitz.",
            _theorem_1,
        ),
        Claim(
            "Co1-cosine",
            "section 3.5.2, A.2, Corollary 1",
            "The gradients' cosine is at least 1 - 2 L_J |lambda| epsilon / |g|.",
            "reproduced if it follows from Theorem 1 and no random case violates it",
            (f"derived, and computed in {TRIALS} random cases",),
            "any",
            "Nothing: it is proved above.",
            _corollary_1,
        ),
    ],
)
