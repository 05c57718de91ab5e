"""``actnn``: codes of a few bits, rounded at random, with a minimum and a range for every 256 elements.

Keeps codes of 1 to 8 bits in a dense row of bytes, and for each group of 256 elements its minimum and its range in
bf16: at 2 bits 2 + 2 * 16 / 256 = 2.125 bits an element. Rounding is stochastic, so that the rebuild ``h`` is on
average ``x``. In a group of range ``R``, with ``b`` bits, its variance is at most ``R^2 / (4 (2^b - 1)^2)``.

Which elements get how many bits (``allocate``) is decided once a step, for all sites together: the bits ``b_i`` of
each site and sample that minimise ``sum_i C_i / (2^b_i - 1)^2`` at an average of ``bits`` an element, found greedily
from 8 bits downwards. The sensitivity ``C_i`` is the sum of ``R^2`` over the groups of a sample, times the site's mean
squared gradient of a row. A sample is one of ``samples`` equal parts of a call's rows.

Error: unbiased, of a size that the bits set.

Source: ActNN (Chen and others, ICML 2021, arXiv 2104.14129) and its code, whose level L3 this is: groups of 256, an
average of 2 bits, the greedy search from 8. It departs from the source thus:

- The source allocates in every forward pass, on the CPU: the host waits for ``C`` at every layer. Here a step's
  sensitivities allocate the bits of the next. How many samples get how many bits is fixed through a step, so that no
  shape depends on values; which of them, the device decides at each call: the largest sum of ``R^2`` gets most bits,
  and so on downwards.
- A layer of the source keeps the sensitivity of its last call alone, and would allocate anew in the middle of a
  backward pass that comes by it 25 times. Here they add up over the calls of a step; the gradients' are averaged over
  calls, and halved from step to step (the source does this where it has gradients for each sample).
- Until the first step has ended, and where no sensitivity is known, every sample has ``bits``, rounded down. A site
  where no gradient can be seen (attention) counts with the mean of the others.
- The engine hands over rows and not samples: with ``samples`` the batch size, where a call's rows come example by
  example, they are the source's. A number that does not divide the rows is replaced by the largest that divides both.
- Codes are made with the minimum and range as they are stored, rounded outwards to bf16. The source rounds them after
  it has made the codes, which shifts a group by up to 1/256 of its minimum: at 8 bits as much as the rounding itself.
- The last group of a sample is padded with its last element; the source pads with zeros, which widens its range.
- Constants are bf16 whatever the rows are; the source keeps those of fp16 activations in fp16.

A group with an element that is not finite is rebuilt as NaN.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from compbench import Codec, Compressor, Payload, Site, SiteUse, hookimpl
from compbench.errors import SettingsError

from ._bits import code_bytes, pack_codes, unpack_codes
from ._streams import CallStream

_GROUP = 256
_MOST_BITS = 8
_CONSTANTS_BYTES = 2 * torch.bfloat16.itemsize  # of a group: minimum and range
_INDEX = torch.int32
_DECAY = 0.5
"""Of what earlier steps' gradients count."""


class ActNN(Compressor):
    """Codes of 1 to 8 bits with stochastic rounding, and bits that go where they matter most."""

    name: ClassVar[str] = "actnn"

    bits: float = Field(2, ge=1, le=_MOST_BITS, description="bits of an element's code; their average with allocate")
    allocate: bool = Field(True, description="choose the bits of each site and sample by sensitivity, once a step")
    samples: int = Field(
        1, ge=1, description="equal parts of a call's rows that have bits of their own; the batch size, for samples"
    )
    budget_bytes: int | None = Field(
        None, ge=1, description="bytes of all payloads of a step, in the place of an average of bits; from step 2 on"
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if not self.allocate and self.bits != int(self.bits):
            raise ValueError(f"bits is {self.bits} with allocate: false (allowed: a whole number, or allocate: true)")
        if not self.allocate and self.budget_bytes is not None:
            raise ValueError("budget_bytes is set with allocate: false (allowed: with allocate: true)")
        return self

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return ActNNCodec(self, site.width, generator)

    def coordinate(self, sites: Sequence[SiteUse]) -> None:
        """Allocates the bits of the next step.

        Raises:
            SettingsError: ``budget_bytes`` is less than what the sites keep at 1 bit.
        """
        shares = [
            (use, use.codec, use.codec.sensitivities)
            for use in sites
            if isinstance(use.codec, ActNNCodec) and use.codec.sensitivities
        ]
        if not self.allocate or not shares:
            return
        gradients = [codec.gradient for _, codec, _ in shares if codec.gradient is not None]
        usual = math.fsum(gradients) / len(gradients) if gradients else 1.0
        C: list[float] = []
        elements: list[int] = []  # that share a choice of bits: those of one sample in each call
        for use, codec, R_squared in shares:
            gradient = usual if codec.gradient is None else codec.gradient
            C += [gradient * R for R in R_squared]
            elements += len(R_squared) * [use.calls * use.rows * codec.D // len(R_squared)]
        b = iter(fewest_bits(C, elements, self._bits_to_spend(shares, sum(elements))))
        for _, codec, R_squared in shares:
            codec.bits = sorted((next(b) for _ in R_squared), reverse=True)

    def _bits_to_spend(self, shares: Iterable[tuple[SiteUse, ActNNCodec, Sequence[float]]], elements: int) -> float:
        """Bits of all codes of a step."""
        if self.budget_bytes is None:
            return self.bits * elements
        beside = sum(use.calls * codec.bytes_beside_codes(use.rows) for use, codec, _ in shares)
        least, most = (beside + math.ceil(elements * bits / 8) for bits in (1, _MOST_BITS))
        if self.budget_bytes < least:
            raise SettingsError(
                f"actnn: budget_bytes is {self.budget_bytes}, and a step keeps {least} bytes at 1 bit an element "
                f"(allowed: {least} or more; {most} is {_MOST_BITS} bits everywhere)"
            )
        return 8.0 * (self.budget_bytes - beside)


def fewest_bits(C: Sequence[float], elements: Sequence[int], spend: float) -> list[int]:
    """Bits ``b_i`` from 1 to 8 that make ``sum_i C_i / (2^b_i - 1)^2`` small with ``sum_i elements_i b_i <= spend``.

    All begin with 8, and where a bit less costs least for each bit that it saves, there is one less, until it fits.
    With equal ``elements`` this is the optimum; else up to the last bit that was taken away may be left unspent.
    """

    def loss(i: int) -> tuple[float, int, int]:
        """What a bit less costs at ``i``; of equal ones those with more bits go first."""
        b = bits[i]
        more = C[i] / (2 ** (b - 1) - 1) ** 2 - C[i] / (2**b - 1) ** 2
        return more / elements[i], -b, i

    bits = [_MOST_BITS] * len(C)
    spent = _MOST_BITS * sum(elements)
    losses = [loss(i) for i in range(len(C))]
    heapq.heapify(losses)
    while spent > spend and losses:
        *_, i = heapq.heappop(losses)
        bits[i] -= 1
        spent -= elements[i]
        if bits[i] > 1:
            heapq.heappush(losses, loss(i))
    return bits


class ActNNCodec(Codec):
    """The bits of one site, and what is known of its sensitivity."""

    def __init__(self, settings: ActNN, width: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.D = width
        self.bits: list[int] = []  # of each sample, the most sensitive first; set by coordinate()
        self.sensitivities: list[float] = []  # of the last step: R^2 of each sample, over all calls, the largest first
        self.gradient: float | None = None  # mean squared gradient of a row
        self._R_squared: Tensor | None = None  # of this step, (S,)
        self._gradients: Tensor | None = None  # of this step, summed over its calls, ()
        self._calls = 0
        self._stream = CallStream(generator)

    @property
    def watches_gradients(self) -> bool:  # type: ignore[override]
        """Whether bits are allocated: by gradients among others."""
        return self.settings.allocate

    def encode(self, X: Tensor) -> Payload:
        self._calls += 1
        S = self._samples(len(X))
        bits = self._bits_of(S)
        x = to_groups(X.reshape(S, -1))  # (S, G, 256)
        Z, R = constants(x)  # (S, G) each
        order = None
        if self.settings.allocate:
            ranked, order = R.float().square().sum(dim=1).sort(descending=True)  # (S,)
            known = self._R_squared
            self._R_squared = ranked if known is None or known.shape != ranked.shape else known + ranked
            if bits[0] == bits[-1]:
                order = None
            else:
                x, Z, R = (of_samples.index_select(0, order) for of_samples in (x, Z, R))
        generator = self._stream.next()
        elements = X.numel() // S
        codes = []
        for b, ranks in runs(bits):
            quantised = quantise(x[ranks], Z[ranks], R[ranks], b, generator)  # (samples, G, 256)
            codes.append(pack_codes(quantised.flatten(1)[:, :elements].reshape(-1), b))
        return Quantised(tuple(codes), tuple(bits), Z, R, None if order is None else order.to(_INDEX), X.shape, X.dtype)

    def _samples(self, rows: int) -> int:
        """The number ``S`` of parts of so many rows."""
        return math.gcd(rows, self.settings.samples)

    def _bits_of(self, S: int) -> list[int]:
        """The bits of ``S`` samples, the most sensitive first."""
        if len(self.bits) == S:
            return self.bits
        # Not allocated yet, or for a call of other rows: then what the site had on average, rounded down.
        return [int(self._average_bits())] * S

    def _average_bits(self) -> float:
        return sum(self.bits) / len(self.bits) if self.bits else self.settings.bits

    def observe_gradient(self, payload: Payload, gradient: Tensor) -> None:
        """Adds the mean squared gradient of a row, of ``(N, M)``."""
        squared = torch.linalg.vector_norm(gradient, dtype=torch.float32).square() / len(gradient)
        self._gradients = squared if self._gradients is None else self._gradients + squared

    def end_step(self) -> None:
        R_squared, gradients, calls = self._R_squared, self._gradients, self._calls
        self._forget()
        self._stream.end_step()
        if R_squared is None:
            return
        gathered = R_squared if gradients is None else torch.cat([R_squared, gradients.reshape(1)])
        figures: list[float] = gathered.tolist()
        if not all(map(math.isfinite, figures)):
            return  # what is known of earlier steps is as good a guess as any
        if gradients is not None:
            mean = figures.pop() / calls
            self.gradient = mean if self.gradient is None else _DECAY * self.gradient + (1 - _DECAY) * mean
        self.sensitivities = figures

    def discard_step(self) -> None:
        self._forget()
        self._stream.discard_step()

    def _forget(self) -> None:
        self._R_squared = self._gradients = None
        self._calls = 0

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        S = self._samples(rows)
        bits = self._bits_of(S)
        kept = S * self._groups(rows) * _CONSTANTS_BYTES + (S * _INDEX.itemsize if bits[0] != bits[-1] else 0)
        for b, ranks in runs(bits):
            kept += code_bytes((ranks.stop - ranks.start) * rows * self.D // S, b)
        return calls * kept

    def bytes_beside_codes(self, rows: int) -> int:
        """Bytes of a call beside its codes' bits, at most: constants, an order, and bytes that are not full."""
        S = self._samples(rows)
        order = S * _INDEX.itemsize if S > 1 else 0
        full = rows * self.D // S % 8 == 0
        return S * self._groups(rows) * _CONSTANTS_BYTES + order + (0 if full else 3 * min(S, _MOST_BITS))

    def _groups(self, rows: int) -> int:
        """The groups ``G`` of a sample of so many rows."""
        return math.ceil(rows * self.D / self._samples(rows) / _GROUP)

    def state(self) -> Iterable[Tensor]:
        return [tensor for tensor in (self._R_squared, self._gradients) if tensor is not None]

    def statistics(self) -> dict[str, float]:
        return {"bits": float(self._average_bits())}


def runs(bits: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Samples with the same bits, one after the other: the bits, and which of the samples."""
    start = 0
    for b, same in groupby(bits):
        stop = start + len(list(same))
        yield b, slice(start, stop)
        start = stop


def to_groups(samples: Tensor) -> Tensor:
    """Samples ``(S, n)`` as groups ``(S, G, 256)``, the last one filled up with the sample's last element."""
    S, n = samples.shape
    missing = -n % _GROUP
    if missing:
        samples = torch.cat([samples, samples[:, -1:].expand(S, missing)], dim=1)
    return samples.view(S, -1, _GROUP)


def constants(x: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum ``Z`` and range ``R`` of groups ``(..., 256)``, bf16, so that ``[Z, Z + R]`` holds every element.

    ``R`` is NaN where an element is not finite.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    least, greatest = x.amin(dim=-1).to(wide), x.amax(dim=-1).to(wide)
    # bf16 has 8 bits of mantissa: a 256th of a number is between half a unit in its last place and a whole one.
    Z = least.bfloat16()
    Z = torch.where(Z.to(wide) > least, (least - least.abs() / 256).bfloat16(), Z)
    span = greatest - Z.to(wide)
    R = span.bfloat16()
    R = torch.where(R.to(wide) < span, (span + span / 256).bfloat16(), R)
    return Z, R.masked_fill(~R.isfinite(), math.nan)


def quantise(x: Tensor, Z: Tensor, R: Tensor, b: int, generator: torch.Generator) -> Tensor:
    """Codes ``(..., 256)``, uint8: ``(x - Z) / R * (2^b - 1)``, rounded up or down at random.

    Where a range is zero or NaN, codes are arbitrary.
    """
    B = 2**b - 1
    wide = torch.promote_types(x.dtype, torch.float32)
    Z, R = Z.to(wide).unsqueeze(-1), R.to(wide).unsqueeze(-1)
    codes = (x - Z).div_(R / B)
    codes += torch.rand(codes.shape, dtype=wide, device=x.device, generator=generator)
    return codes.floor_().clamp_(0, B).to(torch.uint8)


@dataclass(frozen=True)
class Quantised(Payload):
    """Codes, and the constants of their groups.

    Attributes:
        codes: of each run of samples with the same bits, dense rows of bytes.
        bits: of each sample, in the order in which they are kept.
        Z: minima of the groups, ``(S, G)``, bf16.
        R: their ranges, ``(S, G)``, bf16.
        order: which sample of the call each one is, ``(S,)``; None where they are in their own order.
        shape: of the rows, ``(N, D)``.
        dtype: of the rows.
    """

    codes: tuple[Tensor, ...]
    bits: tuple[int, ...]
    Z: Tensor
    R: Tensor
    order: Tensor | None
    shape: torch.Size
    dtype: torch.dtype

    def decode(self) -> Tensor:
        S, G = self.Z.shape
        n = self.shape.numel() // S
        samples = torch.empty(S, n, dtype=self.dtype, device=self.Z.device)
        for codes, (b, ranks) in zip(self.codes, runs(self.bits), strict=True):
            each = unpack_codes(codes, b, (ranks.stop - ranks.start) * n).view(-1, n)
            values = self._values(functional.pad(each, (0, G * _GROUP - n)).view(-1, G, _GROUP), ranks, 2**b - 1)
            samples[ranks] = values.flatten(1)[:, :n]
        if self.order is not None:
            samples = torch.empty_like(samples).index_copy_(0, self.order.long(), samples)
        return samples.view(self.shape)

    def _values(self, codes: Tensor, ranks: slice, B: int) -> Tensor:
        """``Z + codes R / B``, ``(samples, G, 256)``."""
        wide = torch.promote_types(self.dtype, torch.float32)
        step = self.R[ranks].to(wide).unsqueeze(-1) / B
        values = codes.to(wide).mul_(step).add_(self.Z[ranks].to(wide).unsqueeze(-1))
        if wide != self.dtype:  # the end of a range that was rounded outwards may be beyond the largest number
            largest = torch.finfo(self.dtype).max
            values.clamp_(-largest, largest)
        return values

    def tensors(self) -> tuple[Tensor, ...]:
        kept = (*self.codes, self.Z, self.R)
        return kept if self.order is None else (*kept, self.order)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``actnn``."""
    return [ActNN]
