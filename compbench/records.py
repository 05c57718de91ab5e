"""The small records that plugins hand over beside strategies and workloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor

if TYPE_CHECKING:
    from compbench.workloads.base import Workload

Better = Literal["higher", "lower"]
"""Which way a metric is better."""

BETTER: tuple[Better, ...] = get_args(Better)

Batch = dict[str, Tensor]
"""Tensors that share their first dimension, one row an example."""


@dataclass(frozen=True)
class Metric:
    """A figure of merit of any workload: ``compute(workload, output, batch)`` gives one value an example, ``(B,)``.

    ``better`` says which way it is better. Left at None, it is the higher the better unless a suite says otherwise.
    """

    name: str
    compute: Callable[[Workload, Any, Batch], Tensor]
    better: Better | None = None


@dataclass(frozen=True)
class Observer:
    """Something that follows a run when it is asked for: ``compbench run SUITE --observer NAME``.

    ``start()`` is called once, before anything runs, and gives an object whose methods are observer hooks. What it
    raises ends the command before it has begun: :class:`compbench.errors.SettingsError` for what the user can mend.
    """

    name: str
    start: Callable[[], object]


@dataclass(frozen=True)
class Reporter:
    """A table format: ``render(rows)`` turns rows of raw numbers, keyed by the CSV's column names, into text."""

    name: str
    render: Callable[[Sequence[Mapping[str, Any]]], str]
