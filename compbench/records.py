"""The small records that plugins hand over beside strategies and workloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor

if TYPE_CHECKING:
    from compbench.compressor import Compressor, Site
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


def _no_extremes(strategy: Any, site: Site) -> None:
    return None


@dataclass(frozen=True)
class Foresight:
    """What is known of a strategy's memory before a training: for strategies whose memory depends on values.

    It stands beside the strategy and not in it, since results are kept by the hash of the strategy's source, and what
    is foretold changes no result.

    Attributes:
        name: the strategy's.
        settled: ``settled(strategy, statistics, steps)`` gives the strategy as it is at a site after a training of so
            many steps, but from the first step on: a calibration that comes late comes at once, and a rank that follows
            from values is that of the ``statistics``, which are those of the site's codec, or empty where nothing
            is known. Raises :class:`compbench.errors.UnsupportedError` where nothing can be told.
        extremes: ``extremes(strategy, site)`` gives statistics with which a site keeps least and most; None if values
            make no difference there.
    """

    name: str
    settled: Callable[[Any, Mapping[str, float], int], Compressor]
    extremes: Callable[[Any, Site], tuple[Mapping[str, float], Mapping[str, float]] | None] = _no_extremes


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
