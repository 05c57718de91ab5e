"""``spectrum``: how many directions the activations of each site fill, over training.

The basis is recomputed exactly for each batch, from the Gram matrix over all its calls, uncentred: an upper bound of
what a projection of a fixed rank can do (Figure 4 of arXiv 2604.17224).
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from compbench.analysis.quantising import BITS, at_bits
from compbench.analysis.result import Analysis, Row, SiteSettings, number
from compbench.analysis.rows import SiteRows
from compbench.analysis.subspaces import (
    fidelity_at,
    numerical_rank,
    participation_ratio,
    principal_components,
    rank_at_fidelity,
)
from compbench.analysis.trained import Trained, default_ranks
from compbench.compressor import Site
from compbench.records import Batch

FIDELITY = 0.95
"""At which ranks are told: the threshold of the LASER paper, a relative error of 31 %."""

_POINTS = 32
"""Of the curve of singular values in the CSV, at most."""


class Spectrum(SiteSettings):
    """Options of ``spectrum``."""

    ranks: tuple[int, ...] = Field(
        (), description="ranks of PCA; empty: 1/16, 1/8, 1/4 and 1/2 of the recurring state's width"
    )


def analyse(trained: Trained, settings: Spectrum) -> Analysis:
    """Looks at every snapshot.

    Raises:
        SettingsError: A pattern matches no site.
    """
    batch = trained.held_out(settings.examples or trained.cell.training.batch_size)
    ranks: tuple[int, ...] = settings.ranks
    sites: dict[str, dict[str, Any]] = {}
    rows: list[Row] = []
    for step in trained.steps:
        trained.at(step)
        grams = trained.grams(batch, settings.sites)
        ranks = ranks or default_ranks(trained.hidden_width, [found for found, _ in grams.values()])
        components = {name: (found, *principal_components(C)) for name, (found, C) in grams.items()}
        cosines = quantised_cosines(trained, batch, {name: V for name, (_, _, V) in components.items()}, ranks)
        for name, (found, values, _) in components.items():
            shape = _shape(found, values)
            summary = sites.setdefault(name, found.record())
            _keep_extremes(summary, shape, found)
            for quantity, value in shape.items():
                rows.append({"step": step, "site": name, "quantity": quantity, "value": value})
            for (rank, bits, when), cosine in cosines[name].items():
                _keep_cosine(summary, step, rank, bits, when, cosine)
                where: Row = {"step": step, "site": name, "quantity": "cosine", "rank": rank, "bits": bits}
                rows.append({**where, "quantised": when, "value": cosine})
            rows += _decay(step, name, values)
    summary = {
        "hidden_width": trained.hidden_width,
        "ranks": list(ranks),
        "bits": list(BITS),
        "last_step": trained.steps[-1],
        "sites": sites,
    }
    return Analysis(summary, rows)


Key = tuple[int, int, str]
"""Rank, bits, and whether values are quantised ``before`` or ``after`` the projection."""


def quantised_cosines(
    trained: Trained, batch: Batch, bases: dict[str, Tensor], ranks: tuple[int, ...]
) -> dict[str, dict[Key, float]]:
    """The cosine of rows and their rebuilds, over all calls of a batch, at the model's weights.

    Args:
        trained: The cell.
        batch: The examples.
        bases: Orthonormal columns by site, ``(D, D)``; the first ``k`` are the basis of rank ``k``.
        ranks: Those that are taken, where they are below the width.
    """
    # Sums over calls of <X, X'>, |X'|^2 and |X|^2. With orthonormal Q all three are those of the coefficients: in
    # <X, Z' Q^T> = <X Q, Z'>.
    sums: dict[str, dict[Key, list[float]]] = {name: defaultdict(lambda: [0.0, 0.0]) for name in bases}
    energy: dict[str, float] = dict.fromkeys(bases, 0.0)

    def visit(site: Site, call: int, X: Tensor) -> None:
        if site.name not in bases:
            return
        Q = bases[site.name][:, : max(ranks)].to(torch.promote_types(X.dtype, torch.float32))
        X = X.to(Q.dtype)
        Z = X @ Q
        energy[site.name] += float(X.double().square().sum())
        for bits in BITS:
            coarse = at_bits(X, bits) @ Q
            for rank in ranks:
                if rank < site.width:
                    exact = Z[:, :rank]
                    for when, rebuilt in (("after", at_bits(exact, bits)), ("before", coarse[:, :rank])):
                        of = sums[site.name][rank, bits, when]
                        of[0] += float((exact.double() * rebuilt.double()).sum())
                        of[1] += float(rebuilt.double().square().sum())

    trained.visit(batch, visit)
    return {
        name: {key: inner / math.sqrt(energy[name] * square) for key, (inner, square) in found.items() if square > 0}
        for name, found in sums.items()
    }


def _shape(found: SiteRows, values: Tensor) -> dict[str, float]:
    return {
        "numerical_rank": numerical_rank(values, found.dtype),
        f"rank_at_fidelity_{FIDELITY}": rank_at_fidelity(values, FIDELITY),
        "effective_rank": participation_ratio(values),
    }


def _keep_extremes(summary: dict[str, Any], shape: dict[str, float], found: SiteRows) -> None:
    """The last snapshot's shape, with the largest of all snapshots."""
    for name, value in shape.items():
        summary[name] = value if isinstance(value, int) else number(value)
        if name != "effective_rank":
            summary[f"largest_{name}"] = max(value, summary.get(f"largest_{name}", 0))
    summary["rank_bound"] = found.rank_bound
    within = None if found.rank_bound is None else summary["largest_numerical_rank"] <= found.rank_bound
    summary["rank_bound_holds"] = within


def _keep_cosine(summary: dict[str, Any], step: int, rank: int, bits: int, when: str, cosine: float) -> None:
    name = f"cosine_rank_{rank}_bits_{bits}"
    if when == "before":
        summary[f"{name}_before"] = cosine
        return
    summary[name] = cosine
    lowest = f"lowest_{name}"
    if lowest not in summary or cosine < summary[lowest]:
        summary[lowest] = cosine
        summary[f"lowest_cosine_step_rank_{rank}_bits_{bits}"] = step


def _decay(step: int, name: str, values: Tensor) -> list[Row]:
    """Singular values by number, over the largest, and the fidelity that they reach together."""
    D, largest = len(values), float(values[0])
    numbers = sorted({min(D, max(1, round(D ** (i / (_POINTS - 1))))) for i in range(_POINTS)})
    found: list[Row] = []
    for rank in numbers:
        where = {"step": step, "site": name, "rank": rank}
        relative = math.sqrt(float(values[rank - 1]) / largest) if largest > 0 else 0.0
        found.append({**where, "quantity": "singular_value", "value": relative})
        found.append({**where, "quantity": "fidelity", "value": fidelity_at(values, rank)})
    return found
