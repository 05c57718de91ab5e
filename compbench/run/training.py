"""The training of one cell: an optimiser over a fixed order of examples, inside a session."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from compbench.capture import Session
from compbench.capture.sites import SiteReport
from compbench.errors import PluginError, SettingsError
from compbench.measure.step import Step
from compbench.records import Batch, Metric
from compbench.run.averaging import WeightAverage
from compbench.run.carrying import Carried
from compbench.seeds import generator
from compbench.suite.cell import Training

PROBED_STEP = 3
"""The step after which gradients are first compared: by then every basis has been initialised and has moved."""

CURVE_POINTS = 100
"""About how many points a curve of the strategy's figures has."""

SITE_CURVE_POINTS = 50
"""The same of each site's."""

_OF_SITES = ("rank", "fidelity")
"""The figures that are kept for each site."""


class DivergedError(Exception):
    """The loss is not finite."""


@dataclass
class Record:
    """What a training leaves behind, filled as it goes on."""

    loss_curve: list[float] = field(default_factory=list)
    peak_saved_bytes: int = 0
    statistics: list[dict[str, float]] = field(default_factory=list)
    skipped_batches: int = 0
    validation: list[dict[str, float]] = field(default_factory=list)
    sites: dict[str, dict[str, list[tuple[int, float]]]] = field(default_factory=dict)

    def add_sites(self, step: int, reports: Iterable[SiteReport]) -> None:
        """Takes down the rank and fidelity of each site that was compressed in a step, to six digits."""
        for report in reports:
            for name in _OF_SITES:
                if name in report.statistics:
                    curve = self.sites.setdefault(report.name, {}).setdefault(name, [])
                    curve.append((step, float(f"{report.statistics[name]:.6g}")))


def learning_rate_factor(
    step: int, warmup_steps: int, steps: int, schedule: Literal["cosine", "constant"] = "cosine"
) -> float:
    """The share of the peak learning rate at a step, from 0: linear warm-up, then a cosine to zero, or all of it.

    The first step after the warm-up has the whole rate, and a cosine would be zero one step after the last.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def example_order(examples: int, settings: Training, seed: int) -> Tensor:
    """The training examples of every step, ``(steps, batch_size)``: epoch after epoch, each in a new order.

    Raises:
        SettingsError: a batch is larger than the training set.
    """
    if settings.batch_size > examples:
        raise SettingsError(f"batch_size is {settings.batch_size}, but there are only {examples} training examples")
    stream = generator(seed, "order")
    batches = examples // settings.batch_size
    epochs = [
        torch.randperm(examples, generator=stream)[: batches * settings.batch_size]
        for _ in range(math.ceil(settings.steps / batches))
    ]
    return torch.cat(epochs)[: settings.steps * settings.batch_size].view(settings.steps, settings.batch_size)


def train(
    step: Step,
    session: Session | None,
    data: Batch,
    order: Tensor,
    optimizer: torch.optim.Optimizer,
    settings: Training,
    record: Record,
    probe: Callable[[int], None],
    carried: Carried | None = None,
    average: WeightAverage | None = None,
) -> None:
    """Trains the model; ``record`` is filled step by step, so that it is there whatever happens.

    Steps whose loss the record has already are not done again: model, optimiser and session are as they left them.

    Args:
        step: the model.
        session: the strategy's session, open; None trains without any hook.
        data: training examples.
        order: what :func:`example_order` gave.
        optimizer: the optimiser; its learning rate is zero afterwards.
        settings: the training settings.
        record: where the loss curve goes.
        probe: called after each step with the number of steps done.
        carried: what one step hands on to the next; None: nothing.
        average: the moving average of the weights, brought up to date after each step; None: there is none.

    Raises:
        DivergedError: a loss that is not finite.
    """
    for number in range(len(record.loss_curve), len(order)):
        factor = learning_rate_factor(number, settings.warmup_steps, settings.steps, settings.schedule)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        batch = step.batch(data, order[number])
        if carried is not None:
            batch = carried.enter(batch)
        optimizer.zero_grad(set_to_none=True)
        skipped = session is not None and session.skips_update
        with session.step() if session is not None else nullcontext():
            loss = step.loss(batch, None if carried is None else partial(carried.leave, batch=batch))
            loss.backward()
        if session is not None:
            record.peak_saved_bytes = max(record.peak_saved_bytes, session.peak_saved_bytes)
            if _is_point(number, settings.steps, CURVE_POINTS):
                record.statistics.append({"step": number + 1, **session.statistics()})
            if _is_point(number, settings.steps, SITE_CURVE_POINTS):
                record.add_sites(number + 1, session.sites())
        value = loss.item()
        record.loss_curve.append(value)
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value} at step {number + 1} of {settings.steps}")
        if skipped:
            record.skipped_batches += 1
        else:
            if settings.gradient_clip is not None:
                torch.nn.utils.clip_grad_norm_(step.model.parameters(), settings.gradient_clip)
            optimizer.step()
            if average is not None:
                average.update()
        probe(number + 1)
    for group in optimizer.param_groups:
        group["lr"] = 0.0


def _is_point(number: int, steps: int, points: int) -> bool:
    """Whether a curve of about so many points has one after step ``number``, counted from 0; the last one has."""
    return number % math.ceil(steps / points) == 0 or number + 1 == steps


def evaluate(step: Step, data: Batch, batch_size: int, extra: list[Metric]) -> dict[str, float]:
    """Means over all held-out examples of the workload's metrics and of those that plugins add.

    Raises:
        PluginError: they have other names from one batch to the next.
    """
    examples = len(next(iter(data.values())))
    sums: dict[str, float] = {}
    with torch.no_grad():
        for start in range(0, examples, batch_size):
            batch = step.batch(data, slice(start, start + batch_size))
            output = step.prediction(batch)
            values = dict(step.workload.metrics(output, batch))
            values |= {metric.name: metric.compute(step.workload, output, batch) for metric in extra}
            if start and values.keys() != sums.keys():
                raise PluginError(
                    f"the metrics of examples {start} and on are {', '.join(values)} "
                    f"(expected: {', '.join(sums)}, as of those before)"
                )
            for name, per_example in values.items():
                sums[name] = sums.get(name, 0.0) + per_example.double().sum().item()
    return {name: total / examples for name, total in sums.items()}


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
