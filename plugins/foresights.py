"""What is known beforehand of the memory of the strategies that ship, where it depends on values (``compbench plan``).

Each entry says how a strategy is at a site after a training, given the figures of that site in results, and between
which figures it may be where there are no results. It stands apart from the strategies: a record is kept by the hash of
its strategy's source, and no record depends on this.

What runs is the strategy's own code. Where it would choose by values it is held to what is known: ``laser`` by its
settings, the others by codecs that differ from theirs in that choice alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from pydantic import PrivateAttr
from torch import Tensor

from compbench import Codec, Compressor, Foresight, Site, hookimpl
from compbench.errors import UnsupportedError

from .actnn import ActNN, ActNNCodec
from .auto import Auto, AutoCodec
from .hosvd import Hosvd, HosvdCodec
from .lance import Lance, LanceCodec
from .lance_tucker import LanceTucker, LanceTuckerCodec
from .laser import Laser
from .memory_budget import MemoryBudget

Statistics = Mapping[str, float]
Extremes = tuple[Statistics, Statistics] | None


def _ranks(least: float, most: float) -> Extremes:
    return ({"rank": least}, {"rank": most}) if least < most else None


# ---------------------------------------------------------------- laser


def settled_laser(strategy: Laser, statistics: Statistics, steps: int) -> Compressor:
    """At the rank that a site has reached: a step without values neither widens nor resets a basis."""
    if "rank" not in statistics:
        return strategy
    rank = round(statistics["rank"])
    return strategy.model_copy(update={"rank": rank, "max_rank": max(strategy.max_rank, rank)})


def extremes_of_laser(strategy: Laser, site: Site) -> Extremes:
    """From the first rank to the largest."""
    return _ranks(min(strategy.rank, site.width), min(strategy.max_rank, site.width))


# ---------------------------------------------------------------- hosvd


class HeldHosvd(Hosvd):
    """Every call at one of the whole numbers about a mean rank."""

    _mean: float = PrivateAttr(1.0)

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return _HosvdCodec(self, site.width, self._mean)


class _HosvdCodec(HosvdCodec):
    def __init__(self, settings: Hosvd, width: int, mean: float) -> None:
        super().__init__(settings, width)
        self.mean = mean
        self.largest = min(self.largest, math.ceil(mean))  # of the first step, too

    def expected(self, readings: Sequence[Tensor]) -> Iterable[float]:
        """Ranks of the calls whose sum is that of the mean, as alike as they can be."""
        calls = len(self._needed)
        up_to = [math.floor(self.mean * call + 0.5) for call in range(calls + 1)]
        others = sum(reading.numel() for reading in readings[: len(readings) - calls])
        return [1.0] * others + [float(after - before) for before, after in pairwise(up_to)]


def settled_hosvd(strategy: Hosvd, statistics: Statistics, steps: int) -> Compressor:
    """At the mean rank that a site's calls have reached."""
    held = HeldHosvd(**strategy.model_dump())
    held._mean = statistics.get("rank", 1.0)
    return held


def extremes_of_hosvd(strategy: Hosvd, site: Site) -> Extremes:
    """From rank 1 to the largest."""
    return _ranks(1, min(strategy.max_rank, site.width))


# ---------------------------------------------------------------- lance, lance_tucker


class HeldLance(Lance):
    """A given rank in the place of the one that ``energy`` leads to."""

    _held_rank: float = PrivateAttr(1.0)

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return _LanceCodec(self, site.width, self._held_rank)


class _LanceCodec(LanceCodec):
    def __init__(self, settings: Lance, width: int, held_rank: float) -> None:
        super().__init__(settings, width)
        self._held_rank = held_rank

    def _rank(self, C: Tensor) -> int:
        return round(min(self.k, self._held_rank))


def settled_lance(strategy: Lance, statistics: Statistics, steps: int) -> Compressor:
    """Calibrated in the first step, if the training comes to it, and at the rank that ``energy`` has led to."""
    if steps <= strategy.warmup:
        return strategy
    at_once = strategy.model_copy(update={"warmup": 0})
    if strategy.energy is None:
        return at_once
    held = HeldLance(**at_once.model_dump())
    held._held_rank = statistics.get("rank", strategy.rank)
    return held


def extremes_of_lance(strategy: Lance, site: Site) -> Extremes:
    """With ``energy``, from rank 1 to the limit."""
    return None if strategy.energy is None else _ranks(1, min(strategy.rank, site.width))


_MODES = {"rank_of_examples": 0, "rank_of_positions": 1, "rank": 2}


class HeldLanceTucker(LanceTucker):
    """Factors of given ranks."""

    _by_mode: dict[int, float] = PrivateAttr(default_factory=dict)

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return _LanceTuckerCodec(self, site.width, self._by_mode)


class _LanceTuckerCodec(LanceTuckerCodec):
    def __init__(self, settings: LanceTucker, width: int, ranks: Mapping[int, float]) -> None:
        super().__init__(settings, width)
        self._ranks = dict(ranks)

    def end_step(self) -> None:
        self._waiting = [self._ranks.get(mode, 1.0) for mode in self.modes]
        super().end_step()

    def _factor(self, C: Tensor) -> Tensor:
        r = round(min(len(C), self._waiting.pop(0)))  # one mode after the other
        vectors: Tensor = torch.linalg.eigh(C).eigenvectors[:, -r:]
        return vectors.flip(1).contiguous()


def settled_lance_tucker(strategy: LanceTucker, statistics: Statistics, steps: int) -> Compressor:
    """Calibrated in the first step, if the training comes to it, at the ranks that a site has reached."""
    held = HeldLanceTucker(**strategy.model_dump())
    if steps >= strategy.calibration_steps:
        held = held.model_copy(update={"calibration_steps": 1})
    held._by_mode = {_MODES[name]: value for name, value in statistics.items() if name in _MODES}
    return held


def extremes_of_lance_tucker(strategy: LanceTucker, site: Site) -> Extremes:
    """From rank 1 in every mode to all of it."""
    return dict.fromkeys(_MODES, 1.0), dict.fromkeys(_MODES, math.inf)


# ---------------------------------------------------------------- actnn


class HeldActNN(ActNN):
    """Bits of a given average at every site, spread evenly over samples."""

    _average: float = PrivateAttr(2.0)

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return _ActNNCodec(self, site.width, generator, self._average)


class _ActNNCodec(ActNNCodec):
    def __init__(self, settings: ActNN, width: int, generator: torch.Generator, average: float) -> None:
        super().__init__(settings, width, generator)
        self.average = average

    def _bits_of(self, S: int) -> list[int]:
        total = round(self.average * S)
        return [total // S + (sample < total % S) for sample in range(S)]

    def _average_bits(self) -> float:
        return self.average


def settled_actnn(strategy: ActNN, statistics: Statistics, steps: int) -> Compressor:
    """With the average of bits that a site has come to; else with that of all sites.

    Raises:
        UnsupportedError: a budget in bytes decides over bits, and nothing is known of what it led to.
    """
    if not strategy.allocate:
        return strategy
    if "bits" not in statistics and strategy.budget_bytes is not None:
        raise UnsupportedError("it spreads budget_bytes by sensitivities; results tell what came of it")
    held = HeldActNN(**strategy.model_dump())
    held._average = statistics.get("bits", strategy.bits)
    return held


def extremes_of_actnn(strategy: ActNN, site: Site) -> Extremes:
    """The average itself: where a site gets more bits, another gets less."""
    return ({"bits": strategy.bits}, {"bits": strategy.bits}) if strategy.allocate else None


# ---------------------------------------------------------------- auto, memory_budget

_CHOSEN = "chosen "


class HeldAuto(Auto):
    """The candidate with a given label, as it is after a training."""

    _held: tuple[str, Statistics, int] = PrivateAttr(("", {}, 0))

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        codec = AutoCodec(self, site, generator)
        label, statistics, steps = self._held
        for number in range(-1, len(self.candidates)):
            if codec._label(number) == label:
                codec._take(codec._trial(number))
        if codec.chosen is not None and codec._generator is not None:
            foresight = _BY_STRATEGY.get(type(codec.chosen))
            if foresight is not None:
                codec.chosen = foresight.settled(codec.chosen, statistics, steps)
                codec.codec = codec.chosen.codec(site, codec._generator)
        return codec


def settled_auto(strategy: Auto, statistics: Statistics, steps: int) -> Compressor:
    """With what it has chosen at a site.

    Raises:
        UnsupportedError: nothing is known of that.
    """
    labels = [name.removeprefix(_CHOSEN) for name in statistics if name.startswith(_CHOSEN)]
    if not labels:
        raise UnsupportedError("it chooses by measured errors of gradients; results tell what it chose")
    held = HeldAuto(**strategy.model_dump())
    held._held = labels[0], statistics, steps
    return held


def settled_memory_budget(strategy: MemoryBudget, statistics: Statistics, steps: int) -> Compressor:
    """Nothing is known of it.

    Raises:
        UnsupportedError: in any case.
    """
    raise UnsupportedError("it compiles the model, and torch's compiler passes over tensors without values")


_Settled = Callable[[Any, Statistics, int], Compressor]
_ALL: tuple[tuple[type[Compressor], _Settled, Callable[[Any, Site], Extremes] | None], ...] = (
    (Laser, settled_laser, extremes_of_laser),
    (Hosvd, settled_hosvd, extremes_of_hosvd),
    (Lance, settled_lance, extremes_of_lance),
    (LanceTucker, settled_lance_tucker, extremes_of_lance_tucker),
    (ActNN, settled_actnn, extremes_of_actnn),
    (Auto, settled_auto, None),
    (MemoryBudget, settled_memory_budget, None),
)
_BY_STRATEGY = {
    kind: Foresight(kind.name, settled) if extremes is None else Foresight(kind.name, settled, extremes)
    for kind, settled, extremes in _ALL
}


@hookimpl
def compbench_foresights() -> Iterable[Foresight]:
    """Those of the strategies that ship."""
    return list(_BY_STRATEGY.values())
