"""Deep supervision: several optimiser steps on one example, each from the states that the one before it left.

As in the reference implementation of arXiv 2510.04871: an example is left when its steps are used up or when the model
says that its answer is right; a new one then takes its place in the batch. So that halting can't settle too early, some
examples, drawn anew at every step, are not left before a random number of steps.
"""

from __future__ import annotations

import torch
from torch import nn

from compbench.records import Batch
from compbench.workloads.blocks import Answer

FEWEST_EXPLORED = 2
"""The fewest steps that an example gets which halting must not end early."""


def carried_targets(output: Answer, batch: Batch) -> Batch:
    """The same examples with the states that an answer has left, without its graph."""
    states = {"z_H": output.z_H, "z_L": output.z_L}
    return batch | {name: state.detach() for name, state in states.items() if state is not None}


def next_state(output: Answer, batch: Batch, steps: int, exploration: float) -> Batch:
    """What a step hands on: its batch with the states reached, ``steps`` ``(B,)`` and ``halted`` ``(B,)``.

    Args:
        output: the answer.
        batch: what it is the answer to.
        steps: the most that an example gets.
        exploration: the share of examples that get a random number of steps at least; drawn from torch's global stream.
    """
    examples, device = len(batch["inputs"]), batch["inputs"].device
    done = batch.get("steps", torch.zeros(examples, dtype=torch.int64, device=device)) + 1  # (B,)
    halted = done >= steps
    if output.halt is not None:
        # Drawn on the CPU, so that every device draws the same.
        explored = torch.rand(examples) < exploration
        fewest = torch.where(explored, torch.randint(FEWEST_EXPLORED, steps + 1, (examples,)), 0).to(device)
        halted = (halted | (output.halt.detach() > 0)) & (done >= fewest)
    return {**carried_targets(output, batch), "steps": done, "halted": halted}


def with_new_examples(model: nn.Module, carried: Batch, fresh: Batch) -> Batch:
    """The carried batch, in which new examples with the model's own states have replaced those that were left.

    Args:
        model: has the buffers ``z_H`` and ``z_L``, ``(D,)``.
        carried: what :func:`next_state` gave.
        fresh: as many new examples.
    """
    halted = carried["halted"]
    begin = {name: model.get_buffer(name) for name in ("z_H", "z_L")} | {"steps": torch.zeros_like(carried["steps"])}
    entered: Batch = {}
    for name, old in carried.items():
        if name != "halted":
            new = fresh[name] if name in fresh else begin[name]
            # States are computed in bf16 under autocast; the model's own are fp32.
            entered[name] = torch.where(halted.view(-1, *[1] * (old.ndim - 1)), new.to(old.dtype), old)
    return entered
