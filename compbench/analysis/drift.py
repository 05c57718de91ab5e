"""``drift``: how bases turn over training, exact ones and the strategy's own, and how often that one changes its rank.

Source: 3.3 of arXiv 2604.17224. The strategy's basis at a snapshot is the ``Q`` of the payload that its codec, put back
to its state then, makes of held-out rows. Before the first step it has none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pydantic import Field
from torch import Tensor

from compbench.analysis.result import Analysis, Row, SiteSettings
from compbench.analysis.rows import SiteRows, choose_sites
from compbench.analysis.subspaces import (
    fidelity_at,
    fidelity_in,
    overlap,
    principal_angles,
    principal_components,
)
from compbench.analysis.trained import Trained, default_ranks
from compbench.analysis.watching import OwnSite, watch

_COUNTS = ("expansions", "resets")
_TURNS = (
    "largest_angle_successive_median",
    "largest_angle_successive_max",
    "mean_angle_successive_median",
    "overlap_successive_min",
    "overlap_first_last",
    "mean_angle_first_last",
    "largest_angle_first_last",
    "stale_fidelity",
    "fidelity",
)


class Drift(SiteSettings):
    """Options of ``drift``."""

    rank: int | None = Field(
        None, ge=1, description="rank of exact PCA; null: a quarter of the recurring state's width"
    )


@dataclass
class Bases:
    """One site's bases, ``(D, k)`` each, orthonormal, by the steps of snapshots."""

    exact: dict[int, Tensor] = field(default_factory=dict)
    own: dict[int, Tensor] = field(default_factory=dict)


def analyse(trained: Trained, settings: Drift) -> Analysis:
    """Looks at every snapshot.

    Raises:
        SettingsError: A pattern matches no site.
    """
    batch = trained.held_out(settings.examples or trained.cell.training.batch_size)
    rank = settings.rank
    bases: dict[str, Bases] = {}
    rows: list[Row] = []
    grams: dict[str, tuple[SiteRows, Tensor]] = {}
    components: dict[str, tuple[Tensor, Tensor]] = {}
    own: dict[str, OwnSite] = {}
    hooks = trained.cell.capture.routes == "hooks"
    for step in trained.steps:
        trained.at(step)
        state = trained.snapshots.load(step)["session"]
        own = {} if state is None else watch(trained, state, batch)
        if (
            own and not hooks
        ):  # under other routes a name may stand for another tensor: the strategy's own are looked at
            chosen = choose_sites({name: of.rows for name, of in own.items()}, settings.sites)
            grams = {name: (found, own[name].gram) for name, found in chosen.items()}
        else:
            grams = trained.grams(batch, settings.sites)
        rank = rank or default_ranks(trained.hidden_width, [found for found, _ in grams.values()])[-2:][0]
        components = {name: principal_components(C) for name, (_, C) in grams.items()}
        for name, (values, V) in components.items():
            known = bases.setdefault(name, Bases())
            known.exact[step] = V[:, :rank]
            rows.append(_row(step, name, "pca", "fidelity", fidelity_at(values, rank)))
            Q = own[name].basis if name in own else None
            if Q is not None:
                known.own[step] = Q
                rows.append(_row(step, name, "strategy", "rank", Q.shape[1]))
                rows.append(_row(step, name, "strategy", "fidelity", fidelity_in(grams[name][1], Q)))
                rows.append(_row(step, name, "strategy", "overlap_with_pca", overlap(Q, V[:, : Q.shape[1]])))
    sites: dict[str, dict[str, Any]] = {}
    for name, (found, C) in grams.items():
        rows += [_row(step, name, whose, what, value) for step, whose, what, value in _turning(bases[name])]
        sites[name] = found.record() | _summary(bases[name], C, components[name][1])
        figures = own[name].statistics if name in own else None
        sites[name] |= {count: _count(figures, count) for count in _COUNTS}
    curve = trained.snapshots.training.statistics_curve
    for point in curve:
        rows += [_row(int(point["step"]), "", "strategy", count, point[count]) for count in _COUNTS if count in point]
    totals = {count: _count(curve[-1] if curve else None, count) for count in _COUNTS}
    summary = {
        "rank": rank,
        "first_step": trained.steps[0],
        "last_step": trained.steps[-1],
        "strategy_has_basis": any(known.own for known in bases.values()),
        **totals,
        "skipped_batches": trained.snapshots.training.skipped_batches,
        "sites": sites,
    }
    return Analysis(summary, rows)


def _turning(bases: Bases) -> list[tuple[int, str, str, float]]:
    """Angles to the snapshot before, and to the first one, in degrees, as ``(step, whose, quantity, value)``."""
    found: list[tuple[int, str, str, float]] = []
    for whose, by_step in (("pca", bases.exact), ("strategy", bases.own)):
        steps = sorted(by_step)
        for before, step in pairwise(steps):
            for against, other in (("successive", before), ("first", steps[0])):
                angles = _angles(by_step[other], by_step[step])
                found.append((step, whose, f"largest_angle_{against}", angles[-1]))
                found.append((step, whose, f"mean_angle_{against}", statistics.fmean(angles)))
                found.append((step, whose, f"overlap_{against}", overlap(by_step[other], by_step[step])))
    return found


def _summary(bases: Bases, C: Tensor, V: Tensor) -> dict[str, float | int | None]:
    found: dict[str, float | int | None] = {}
    for whose, by_step in (("pca", bases.exact), ("strategy", bases.own)):
        turns = _turns(by_step, C) if by_step else {}
        found |= {f"{whose}_{name}": turns.get(name) for name in _TURNS}
    own = [bases.own[step] for step in sorted(bases.own)]
    found["strategy_pca_overlap_last"] = overlap(own[-1], V[:, : own[-1].shape[1]]) if own else None
    found["strategy_rank_first"] = own[0].shape[1] if own else None
    found["strategy_rank_last"] = own[-1].shape[1] if own else None
    return found


def _turns(by_step: Mapping[int, Tensor], C: Tensor) -> dict[str, float]:
    """What is said of a series of bases; ``C`` is the last snapshot's Gram matrix."""
    series = [by_step[step] for step in sorted(by_step)]
    first, last = series[0], series[-1]
    found = {"stale_fidelity": fidelity_in(C, first), "fidelity": fidelity_in(C, last)}
    successive = [(_angles(a, b), overlap(a, b)) for a, b in pairwise(series)]
    if not successive:
        return found
    largest = [angles[-1] for angles, _ in successive]
    whole = _angles(first, last)
    return found | {
        "largest_angle_successive_median": statistics.median(largest),
        "largest_angle_successive_max": max(largest),
        "mean_angle_successive_median": statistics.median(statistics.fmean(angles) for angles, _ in successive),
        "overlap_successive_min": min(shared for _, shared in successive),
        "overlap_first_last": overlap(first, last),
        "mean_angle_first_last": statistics.fmean(whole),
        "largest_angle_first_last": whole[-1],
    }


def _angles(first: Tensor, second: Tensor) -> list[float]:
    return [math.degrees(angle) for angle in principal_angles(first, second).tolist()]


def _count(figures: Mapping[str, float] | None, name: str) -> int | None:
    return None if figures is None or name not in figures else int(figures[name])


def _row(step: int, site: str, whose: str, quantity: str, value: float) -> Row:
    return {"step": step, "site": site, "basis": whose, "quantity": quantity, "value": value}
