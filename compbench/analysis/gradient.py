"""``gradient``: Theorem 1's bound beside the measured error, and how well gradients are aligned.

Source: A.2 of arXiv 2604.17224; :mod:`compbench.analysis.theorem` says what of it is measured, and how.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from compbench.analysis.projecting import Projection
from compbench.analysis.result import Analysis, Row, SiteSettings, number
from compbench.analysis.subspaces import principal_components
from compbench.analysis.theorem import AtOperator, Found, measure
from compbench.analysis.trained import Trained, default_ranks
from compbench.capture import Session
from compbench.errors import SettingsError
from compbench.measure.fidelity import cosine
from compbench.measure.step import Step
from compbench.records import Batch
from compbench.run.preparing import prepare

_ROUNDING = 1e-5
"""Of a gradient's own size: by so much a measured error may be above its bound."""


class Gradient(SiteSettings):
    """Options of ``gradient``."""

    rank: int | None = Field(
        None, ge=1, description="rank of the fixed projection; null: a quarter of the recurring state's width"
    )
    depths: tuple[int, ...] = Field(
        (), description="recursion depths at which the same weights are run; empty: 2, half, one and two of the cell's"
    )


def analyse(trained: Trained, settings: Gradient) -> Analysis:
    """Looks at the last snapshot; the alignment at the cell's own depth at every one.

    Raises:
        SettingsError: A pattern matches no site, or there is no such depth.
    """
    last = trained.steps[-1]
    examples = settings.examples or trained.cell.training.batch_size
    batch = trained.held_out(examples)
    trained.at(last)
    grams = trained.grams(batch, settings.sites)
    rank = settings.rank or default_ranks(trained.hidden_width, [found for found, _ in grams.values()])[-2:][0]
    bases = {name: leading(C, rank) for name, (found, C) in grams.items() if rank < found.site.width}
    # The constants that can't be proved come from other examples than those on which the bound is looked at.
    seen, _ = measure(trained.step, trained.cell.capture, trained.training_batch(examples), bases)
    found, propagating = measure(trained.step, trained.cell.capture, batch, bases)
    rows: list[Row] = []
    sites: dict[str, dict[str, Any]] = {}
    for name, (site, C) in grams.items():
        if name in bases:
            Q = bases[name]
            lost = 1 - float((Q * (C @ Q)).sum()) / float(C.diagonal().sum())
            operators = {op: describe(at, _seen_ratio(seen, name, op)) for op, at in found.get(name, {}).items()}
            error = max(0.0, lost) ** 0.5
            sites[name] = site.record() | {"propagating": name in propagating, "relative_error": error}
            sites[name]["operators"] = operators
            for op, numbers in operators.items():
                where: Row = {"step": last, "site": name, "operator": op}
                values = [(key, value) for key, value in numbers.items() if not isinstance(value, str)]
                rows += [{**where, "quantity": key, "value": value} for key, value in values]
    proved = [of for site in sites.values() for of in site["operators"].values() if of["constant"] != "estimated"]
    summary: dict[str, Any] = {
        "rank": rank,
        "last_step": last,
        "strategy": "+".join(member.name for member in trained.cell.strategy),
        "proved_units": sum(of["units"] for of in proved),
        "bound_violations": sum(round(of["units"] * (1 - of["within_bound"])) for of in proved),
        "sites": sites,
    }
    parameters, over_training = alignment_over_training(trained, batch, settings, rank)
    depths, by_depth = alignment_by_depth(trained, batch, settings, rank)
    return Analysis(summary | {"parameters": parameters, "depths": depths}, [*rows, *over_training, *by_depth])


def leading(C: Tensor, rank: int) -> Tensor:
    """The ``rank`` leading eigenvectors of a Gram matrix, ``(D, rank)``."""
    return principal_components(C)[1][:, :rank]


def describe(at: AtOperator, ratio: float | None) -> dict[str, Any]:
    """What is said of one operator.

    Args:
        at: What was measured.
        ratio: The largest ratio on other examples, which stands in for an unknown constant.
    """
    found: dict[str, Any] = {"constant": at.constant, "unit": at.unit, "lipschitz": None, "units": 0}
    found |= dict.fromkeys(("median_bound_ratio", "largest_bound_ratio", "within_bound", "cosine_bound"))
    found |= dict.fromkeys(("gradient_relative_error", "gradient_cosine"))
    if at.errors:
        errors, lengths, sizes = (torch.cat(each) for each in (at.errors, at.lengths, at.gradients))
        constants = torch.cat(at.constants) if at.constants else torch.full_like(errors, ratio or 0.0)
        if at.constant == "zero":
            constants = torch.zeros_like(errors)
        bounds = constants * lengths
        some = bounds > 0
        found["units"] = len(errors)
        found["lipschitz"] = number(float(constants.max()))
        found["within_bound"] = float((errors <= bounds * (1 + _ROUNDING) + _ROUNDING * sizes).double().mean())
        if bool(some.any()):
            shares = errors[some] / bounds[some]
            found["median_bound_ratio"] = number(float(shares.median()))
            found["largest_bound_ratio"] = number(float(shares.max()))
        whole = sizes > 0
        if bool(whole.any()):
            found["cosine_bound"] = number(float((1 - 2 * bounds[whole] / sizes[whole]).median()))
        if at.energy > 0 and at.rebuilt_energy > 0:
            found["gradient_relative_error"] = (at.error_energy / at.energy) ** 0.5
            found["gradient_cosine"] = at.inner / (at.energy * at.rebuilt_energy) ** 0.5
    else:
        found["within_bound"] = 1.0
    found |= {"weight_gradient_relative_error": None, "weight_gradient_cosine": None}
    if at.weight:
        exact, rebuilt = (torch.cat([weight.flatten() for weight in each]) for each in (at.weight, at.rebuilt_weight))
        if exact.any():
            found["weight_gradient_relative_error"] = float((rebuilt - exact).norm() / exact.norm())
            found["weight_gradient_cosine"] = cosine(exact, rebuilt)
    return found


def _seen_ratio(seen: Found, site: str, operator: str) -> float | None:
    at = seen.get(site, {}).get(operator)
    return None if at is None else at.ratios


def gradients_under(step: Step, session: Session | None, batch: Batch) -> list[Tensor]:
    """The gradient of every parameter under a strategy; None for plain autograd. Random streams are put back."""
    devices = [step.device] if step.device.type == "cuda" else []
    with torch.random.fork_rng(devices), session or nullcontext(), session.probe() if session else nullcontext():
        return step.gradients(batch)


def _both(exact: Sequence[Tensor], other: Sequence[Tensor] | None) -> tuple[float | None, list[float | None]]:
    """The cosine of all gradients as one vector, and of each that is not zero."""
    if other is None:
        return None, [None] * len(exact)
    whole = cosine(*(torch.cat([gradient.flatten() for gradient in each]) for each in (exact, other)))
    return whole, [cosine(a, b) if a.any() else None for a, b in zip(exact, other, strict=True)]


def alignment(
    trained: Trained, step: Step, state: dict[str, Any], batch: Batch, settings: Gradient, rank: int
) -> dict[str, tuple[float | None, list[float | None]]]:
    """The cosines with exact gradients, ``strategy``'s and those of a fixed projection, ``pca``.

    Args:
        trained: The cell.
        step: A model with the weights of the snapshot, of whatever depth.
        state: The snapshot.
        batch: The examples.
        settings: Which sites are projected.
        rank: Of the projection.
    """
    cell = trained.cell
    exact = gradients_under(step, None, batch)
    other = None
    if state["session"] is not None:
        session = Session(step.model, trained.prepared.session.compressor, cell.capture, cell.seed)
        session.load_state_dict(state["session"])
        other = gradients_under(step, session, batch)
    grams = trained.grams(batch, settings.sites, step)
    bases = {name: leading(C, rank) for name, (found, C) in grams.items() if rank < found.site.width}
    everything = cell.capture.model_copy(update={"routes": "hooks", "sites": ()})
    projecting = Session(step.model, Projection.onto(bases), everything, cell.seed)
    return {"strategy": _both(exact, other), "pca": _both(exact, gradients_under(step, projecting, batch))}


def alignment_over_training(
    trained: Trained, batch: Batch, settings: Gradient, rank: int
) -> tuple[dict[str, dict[str, float | None]], list[Row]]:
    """At the cell's own depth: for each parameter at the last snapshot; a row for each snapshot and parameter."""
    model = trained.step.model
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    parameters: dict[str, dict[str, float | None]] = {}
    rows: list[Row] = []
    for step in trained.steps:
        trained.at(step)
        found = alignment(trained, trained.step, trained.snapshots.load(step), batch, settings, rank)
        for whose, (whole, each) in found.items():
            rows.append(_cosine_row(step, whose, trained.cell.depth, "", whole))
            for name, value in zip(names, each, strict=True):
                rows.append(_cosine_row(step, whose, trained.cell.depth, name, value))
                parameters.setdefault(name, {})[f"{whose}_cosine"] = value
    return parameters, rows


def alignment_by_depth(
    trained: Trained, batch: Batch, settings: Gradient, rank: int
) -> tuple[dict[str, dict[str, float | None]], list[Row]]:
    """The same weights at several depths, the last snapshot's.

    Raises:
        SettingsError: The workload has no such depth, or other weights there.
    """
    last = trained.steps[-1]
    state = trained.snapshots.load(last)
    own = trained.cell.depth
    summary: dict[str, dict[str, float | None]] = {}
    rows: list[Row] = []
    for depth in settings.depths or sorted({2, max(2, own // 2), own, 2 * own}):
        try:
            prepared = prepare(trained.cell.model_copy(update={"depth": depth}))
        except SettingsError:
            if settings.depths:
                raise
            continue  # one of the default depths, which this workload need not have
        try:
            prepared.step.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise SettingsError(
                f"workload '{trained.cell.workload.name}' has other weights at depth {depth} than at {own}, so that "
                "those of this cell can't be run there (allowed: --set depths=[" + str(own) + "])"
            ) from error
        found = alignment(trained, prepared.step, state, batch, settings, rank)
        summary[str(depth)] = {}
        for whose, (whole, each) in found.items():
            known = [value for value in each if value is not None]
            smallest = None if whole is None else min(known, default=None)
            summary[str(depth)] |= {f"{whose}_cosine": whole, f"{whose}_smallest_cosine": smallest}
            rows.append(_cosine_row(last, whose, depth, "", whole))
            if known:
                median = statistics.median(known)
                rows.append({**_cosine_row(last, whose, depth, "", median), "quantity": "median_cosine"})
    return summary, rows


def _cosine_row(step: int, whose: str, depth: int, parameter: str, value: float | None) -> Row:
    where: Row = {"step": step, "gradient": whose, "depth": depth, "parameter": parameter}
    return {**where, "quantity": "cosine", "value": value}
