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
- The random numbers of rounding are a byte an element, and an offset for each group that makes rounding with them
  unbiased (``_noise``); the source draws 32 bits an element.
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

from compbench import Codec, Compressor, Payload, Site, SiteUse, hookimpl
from compbench.errors import SettingsError

from ._bits import code_bytes, pack_codes, unpack_codes
from ._blocks import blocks_of, joined, scales_of
from ._kernels import KERNELS, Kernels, run
from ._noise import NOISE, add_noise, rounding_noise
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
    kernels: Kernels = Field("eager", description=KERNELS)

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
        kernels, full = self.settings.kernels, bits[0] == _MOST_BITS
        generator = self._stream.next()
        # Widened first: a compiled kernel of many types is several times slower, and so is an operator on two.
        wide = torch.promote_types(X.dtype, torch.float32)
        blocks = [x.to(wide) for x in blocks_of(X, S, _GROUP)]
        noise = [rounding_noise(x.shape, generator) for x in blocks]
        bounds = [stored(*run(kernels, least_and_greatest, x)) for x in blocks]
        Z, R = (joined(part, S) for part in zip(*bounds, strict=True))  # (S, G) each
        order = self._ranked(R) if self.settings.allocate else None
        if bits[0] == bits[-1]:
            order = None
        B = by_sample(greatest_codes(bits, X.device), order).repeat_interleave(Z.shape[1]).view(Z.shape)
        constants_of = ((Z.to(wide), R.to(wide)) for Z, R in bounds)
        of_groups = zip(blocks, constants_of, noise, scales_of(B, blocks), strict=True)
        codes = joined([run(kernels, quantise, x, *zr, *drawn, b, full) for x, zr, drawn, b in of_groups], S)  # (S, n)
        if order is not None:
            # It is codes that are put in order, a quarter of the bytes that elements have.
            codes, Z, R = (of_samples.index_select(0, order) for of_samples in (codes, Z, R))
            order = order.to(_INDEX)
        packed = tuple(pack_codes(codes[ranks].reshape(-1), b) for b, ranks in runs(bits))
        return Quantised(packed, tuple(bits), Z, R, order, X.shape, X.dtype, kernels)

    def _ranked(self, R: Tensor) -> Tensor:
        """Adds up the samples' sums of ``R^2``, the largest first, and tells their order, ``(S,)``."""
        ranked, order = R.float().square().sum(dim=1).sort(descending=True)
        known = self._R_squared
        self._R_squared = ranked if known is None or known.shape != ranked.shape else known + ranked
        return order

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

    def readings(self) -> Iterable[Tensor]:
        return self.state() if self._R_squared is not None else ()

    def end_step(self) -> None:
        figures, gradients, calls = self.read(), self._gradients, self._calls
        self._forget()
        self._stream.end_step()
        if not figures:
            return
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


def greatest_codes(bits: Sequence[int], device: torch.device) -> Tensor:
    """``2^b - 1`` for each of the bits, ``(S,)``, fp32."""
    greatest = torch.empty(len(bits), device=device)
    for b, ranks in runs(bits):
        greatest[ranks] = 2**b - 1
    return greatest


def by_sample(ranked: Tensor, order: Tensor | None) -> Tensor:
    """What samples have by rank, ``(S, ...)``, in their own order."""
    return ranked if order is None else torch.empty_like(ranked).index_copy_(0, order.long(), ranked)


def constants(x: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum ``Z`` and range ``R`` of groups ``(..., 256)``, bf16, so that ``[Z, Z + R]`` holds every element.

    ``R`` is NaN where an element is not finite.
    """
    return stored(*least_and_greatest(x))


def least_and_greatest(x: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest element of each group ``(..., 256)``, at least fp32."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # a minimum of bf16 is slow on CPU
    return x.amin(dim=-1), x.amax(dim=-1)


def stored(least: Tensor, greatest: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and range as they are kept, rounded outwards; never compiled, as compilers leave out such roundings."""
    wide = least.dtype
    # bf16 has 8 bits of mantissa: a 256th of a number is between half a unit in its last place and a whole one.
    Z = least.bfloat16()
    Z = torch.where(Z.to(wide) > least, (least - least.abs() / 256).bfloat16(), Z)
    span = greatest - Z.to(wide)
    R = span.bfloat16()
    R = torch.where(R.to(wide) < span, (span + span / 256).bfloat16(), R)
    return Z, R.masked_fill(~R.isfinite(), math.nan)


def quantise(x: Tensor, Z: Tensor, R: Tensor, noise: Tensor, offsets: Tensor, B: Tensor, full: bool) -> Tensor:
    """Codes ``(x - Z) / R * B`` of groups ``x (M, 256)``, uint8, rounded up or down at random.

    Where a range is zero or NaN, codes are arbitrary, and may be greater than ``B``.

    Args:
        x: the groups, at least fp32.
        Z: their minima, ``(M,)``, in the same dtype.
        R: their ranges, ``(M,)``, in the same dtype.
        noise: uint8, ``(M, 256)``.
        offsets: beside it, ``(M,)``.
        B: their greatest codes, ``2^b - 1``, ``(M,)``.
        full: whether one of these is 255.
    """
    # In 256ths of a code, which take the byte of noise as integers. With it they fit in 16 bits, without a sign up to 7
    # bits of code; with 8 bits half of the range is below zero, and the uppermost bit of a code is turned in the end.
    greatest = NOISE * B
    x = (x - Z.unsqueeze(-1)).mul_((greatest / R).unsqueeze(-1))
    x = x.add_(offsets.unsqueeze(-1)).clamp_(max=greatest.unsqueeze(-1))
    if full:
        x = x.sub_(2**15).floor_()
    codes = add_noise(x, noise).to(torch.uint8)
    return codes.bitwise_xor_(2**7) if full else codes


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
        kernels: whether decoding is compiled.
    """

    codes: tuple[Tensor, ...]
    bits: tuple[int, ...]
    Z: Tensor
    R: Tensor
    order: Tensor | None
    shape: torch.Size
    dtype: torch.dtype
    kernels: Kernels

    def decode(self) -> Tensor:
        S = len(self.Z)
        n = self.shape.numel() // S
        parts = [
            unpack_codes(packed, b, (ranks.stop - ranks.start) * n).view(-1, n)
            for packed, (b, ranks) in zip(self.codes, runs(self.bits), strict=True)
        ]
        codes = parts[0] if len(parts) == 1 else torch.cat(parts)
        wide = torch.promote_types(self.dtype, torch.float32)
        Z, step = self.Z.to(wide), self.R.to(wide) / greatest_codes(self.bits, self.Z.device).unsqueeze(1)
        codes, Z, step = (by_sample(each, self.order) for each in (codes, Z, step))
        blocks = blocks_of(codes, S, _GROUP)
        of_blocks = zip(blocks, scales_of(Z, blocks), scales_of(step, blocks), strict=True)
        return joined([run(self.kernels, rebuild, *each, self.dtype) for each in of_blocks], S).reshape(self.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        kept = (*self.codes, self.Z, self.R)
        return kept if self.order is None else (*kept, self.order)


def rebuild(codes: Tensor, Z: Tensor, step: Tensor, dtype: torch.dtype) -> Tensor:
    """Groups ``(M, 256)`` of their codes, minima and steps between codes ``(M,)``: ``Z + codes * step``."""
    values = codes.to(step.dtype).mul_(step.unsqueeze(-1)).add_(Z.unsqueeze(-1))
    if dtype != step.dtype:  # the end of a range that was rounded outwards may be beyond the largest number
        largest = torch.finfo(dtype).max
        values = values.clamp_(-largest, largest)
    return values.to(dtype)


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``actnn``."""
    return [ActNN]
