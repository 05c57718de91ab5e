"""``trajectory``: the latent states that the recurring module gives, call after call, on held-out examples.

What a strategy compresses is kept for the backward pass alone: the forward pass is exact under all of them. That is
checked by the cosine of the states under the strategy and without it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from compbench.analysis.result import Analysis, Row, Settings, number
from compbench.analysis.spectrum import FIDELITY
from compbench.analysis.subspaces import (
    participation_ratio,
    principal_components,
    rank_at_fidelity,
)
from compbench.analysis.trained import Trained, recurrent_states
from compbench.records import Batch


class Trajectory(Settings):
    """Options of ``trajectory``."""

    drawn: int = Field(6, ge=1, description="positions whose paths are drawn, evenly spread over the rows")


def analyse(trained: Trained, settings: Trajectory) -> Analysis:
    """Looks at the first and the last snapshot.

    Raises:
        UnsupportedError: No module recurs, or one gives something else than a tensor.
    """
    batch = trained.held_out(settings.examples or trained.cell.training.batch_size)
    modules: dict[str, dict[str, Any]] = {}
    rows: list[Row] = []
    for step in dict.fromkeys((trained.steps[0], trained.steps[-1])):
        trained.at(step)
        prefix = "" if step == trained.steps[-1] else "initial_"
        under = states_under_strategy(trained, step, batch)
        for path, states in trained.states(batch).items():
            summary = modules.setdefault(path, {})
            numbers, measured = follow([state.double() for state in states], settings.drawn)
            numbers["strategy_forward_cosine"] = None if under is None else cosine(states, under[path])
            summary |= {f"{prefix}{name}": value for name, value in numbers.items()}
            rows += [{"step": step, "module": path, **row} for row in measured]
    ordered = {
        path: dict(sorted(summary.items(), key=lambda item: item[0].startswith("initial_")))
        for path, summary in modules.items()
    }
    return Analysis({"last_step": trained.steps[-1], "modules": ordered}, rows)


def follow(states: list[Tensor], drawn: int = 6) -> tuple[dict[str, float | int | None], list[Row]]:
    """What is said of the states of one module, ``(N, D)`` a call, in float64.

    Args:
        states: One a call.
        drawn: How many rows' paths in the plane of the two leading directions are among the measurements.
    """
    z, calls = states, len(states)
    last = z[-1]
    rows: list[Row] = []
    norms = [state.norm(dim=1) for state in z]
    relative = [float((b - a).norm() / a.norm()) for a, b in pairwise(z)]
    cosines = [_mean_cosine(a, b) for a, b in pairwise(z)]
    spread = [participation_ratio(principal_components(state.T @ state)[0]) for state in z]
    for call in range(calls):
        measured: dict[str, float] = {
            "norm": float(norms[call].mean()),
            "cosine_to_last": _mean_cosine(z[call], last),
            "participation_ratio": spread[call],
        }
        if call:
            measured |= {"relative_step": relative[call - 1], "cosine_to_previous": cosines[call - 1]}
        rows += [{"call": call + 1, "quantity": name, "value": value} for name, value in measured.items()]
    everything = torch.cat(z)
    values, _ = principal_components(everything.T @ everything)
    centre = everything.mean(0)
    centred = everything - centre
    energies, directions = principal_components(centred.T @ centred)
    plane = directions[:, :2]
    for row in range(0, len(last), max(1, -(-len(last) // drawn))):
        for call, state in enumerate(z):
            point = (state[row] - centre) @ plane
            for axis, value in enumerate(point.tolist(), start=1):
                quantity = f"plane_{axis}"
                rows.append({"call": call + 1, "quantity": quantity, "row": row, "value": value})
    total = float(energies.sum())
    return {
        "calls": calls,
        "width": last.shape[1],
        "positions": len(last),
        "norm_first": float(norms[0].mean()),
        "norm_last": float(norms[-1].mean()),
        "relative_step_first": relative[0] if relative else None,
        "relative_step_last": relative[-1] if relative else None,
        "relative_step_last_reasoning": relative[-2] if len(relative) > 1 else None,
        "cosine_successive_first": cosines[0] if cosines else None,
        "cosine_successive_last": cosines[-1] if cosines else None,
        "cosine_first_to_last": _mean_cosine(z[0], last),
        "participation_ratio_first": number(spread[0]),
        "participation_ratio_last": number(spread[-1]),
        "participation_ratio_all": number(participation_ratio(values)),
        f"rank_at_fidelity_{FIDELITY}_all": rank_at_fidelity(values, FIDELITY),
        "plane_share": float(energies[:2].sum()) / total if total > 0 else None,
    }, rows


def states_under_strategy(trained: Trained, step: int, batch: Batch) -> dict[str, list[Tensor]] | None:
    """The states in a pass under the strategy as it was at a snapshot; None where that could not be saved."""
    session = trained.session_at(step)
    if session is None:
        return None
    with session, session.probe():
        return recurrent_states(trained.step, trained.recurrent_modules, batch)


def cosine(states: list[Tensor], others: list[Tensor]) -> float:
    """The cosine of all states together."""
    a, b = (torch.cat([state.flatten().double() for state in each]) for each in (states, others))
    return float(a @ b / (a.norm() * b.norm()))


def _mean_cosine(a: Tensor, b: Tensor) -> float:
    lengths = a.norm(dim=1) * b.norm(dim=1)
    return float(((a * b).sum(1) / lengths.clamp(min=torch.finfo(a.dtype).tiny)).mean())
