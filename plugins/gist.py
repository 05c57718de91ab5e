"""``gist``: shorter floating-point numbers, and zeros for one bit where a site has many.

Every site's rows are kept in the form that GIST has for it:

- Delayed precision reduction, anywhere: floating-point numbers of 16, 10 or 8 bits without a scale, kept for the
  backward pass alone. Three numbers of 10 bits make a word of 32. A magnitude above the format's largest number becomes
  that number, one below its smallest becomes zero.
- The sparse form (the source's sparse storage, dense compute), where many elements are exactly zero as behind ReLU: one
  bit for each element that says whether it is zero, and the others in their order, in the same format or, with
  ``precision: full``, as they are and exact.
- One bit an element (the source's binarisation), at the sites that ``binarize`` names: rebuilt as 1 where the element
  was positive and 0 elsewhere.

On a model without ReLU only the first applies; then the name stands for FP16, FP10 or FP8 storage. FP16 saves nothing
of bf16 or fp16 rows: where a format is no shorter than the rows they are left as they are.

Error: small, and relative to the magnitude of each element; none with ``precision: full``.

Source: Gist (Jain et al., ISCA 2018). No code of its authors is public. It departs from the paper thus:

- The paper reads off the graph which tensor is a ReLU's output and which layer comes next. A codec sees rows. It counts
  on the device how many elements are not zero, and once a step, in ``end_step``, looks at the count: where the sparse
  form is the smaller one the site takes it in the next step. So does whatever else has zeros, such as dropout.
- The paper's sparse form is CSR with column numbers of one byte, whose size depends on the values: a GPU would have to
  be waited for. Here a call has room for a share of its elements that is fixed for the step: the largest that a call of
  the step before took, and ``headroom`` more. One bit an element is also the smaller index, unless seven elements of
  eight are zero.
- A call that does not fit is kept in the same memory as FP8, all of it, and counted (``overflows``). The room is
  therefore never less than one byte an element, and with ``precision: fp8`` there is no sparse form.
- Which consumers need the sign alone can't be told from rows either, so that ``binarize`` is the user's word. It is
  exact for ReLU's own gradient, and for max-pooling behind it: torch's backward of the pooling takes the shape of its
  saved input, and the positions (64-bit integers, left raw, where the paper has 4 bits) from elsewhere. It is wrong
  where a convolution or linear layer saves the same tensor.
- Numbers are those of torch's float16 and float8_e4m3fn (largest 448), subnormal ones included; FP10 is float16 with
  4 bits of mantissa, rounded by way of float16. Rounding is to nearest.

In a shorter format NaN and infinity become NaN; under ``binarize`` they make NaN of all of their call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from compbench import Codec, Compressor, Dense, Payload, Site, hookimpl
from compbench.errors import SettingsError
from compbench.site_patterns import SitePatterns

from ._bitmask import pack_bits, packed_bytes, unpack_bits

Precision = Literal["full", "fp16", "fp10", "fp8"]

_LARGEST = {"fp16": 65504.0, "fp10": 63488.0, "fp8": 448.0}
_ITEM_BITS = {"fp16": 16, "fp10": 32 / 3, "fp8": 8}


class Gist(Compressor):
    """Shorter floating-point numbers, and masks of one bit an element where a site has zeros."""

    name: ClassVar[str] = "gist"

    precision: Precision = Field(
        "fp10", description="format of what is kept; full: only what is exact, zeros and the sites of binarize"
    )
    headroom: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of a call's elements by which the sparse form has more room than the last step's calls took",
    )
    binarize: tuple[str | int, ...] = Field(
        (),
        description=(
            "patterns of sites whose consumers need the sign alone (ReLU's own gradient, max-pooling), as in a suite's "
            "sites; kept as one bit an element; empty: none"
        ),
    )

    @field_validator("binarize", mode="before")
    @classmethod
    def _listed(cls, binarize: object) -> object:
        """A single pattern stands for the list of it; a list is what JSON has for a tuple."""
        if isinstance(binarize, (str, int)) and not isinstance(binarize, bool):
            return (binarize,)
        return tuple(binarize) if isinstance(binarize, list) else binarize

    @field_validator("binarize")
    @classmethod
    def _readable(cls, binarize: tuple[str | int, ...]) -> tuple[str | int, ...]:
        try:
            SitePatterns(binarize)
        except SettingsError as error:  # pydantic gathers ValueErrors, with the field they belong to
            raise ValueError(str(error)) from error
        return binarize

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        if self.binarize and SitePatterns(self.binarize).selects(site):
            return BinarizeCodec(site.width)
        return GistCodec(self, site.width)


class GistCodec(Codec):
    """What the last step's calls had of elements that are not zero."""

    def __init__(self, settings: Gist, width: int) -> None:
        self.settings = settings
        self.D = width
        self.nonzero: float | None = None  # the largest share of a call in the last step; None: not known yet
        self.overflows = 0  # calls that did not fit the sparse form, in all steps
        self._nonzero: Tensor | None = None  # the same of this step, a scalar on the device; -1: no call was finite
        self._overflows: Tensor | None = None  # of this step

    def encode(self, X: Tensor) -> Payload:
        precision = _shorter(self.settings.precision, X.itemsize)
        x = X.reshape(-1)
        if self.settings.precision == "fp8":  # there is no sparse form that needs the count
            return Reduced(reduce(x, precision), precision, X.shape, X.dtype)
        self._look_at(x)
        if self._is_sparse(len(x), X.itemsize):
            payload = sparse(x, self._room(len(x)), precision, X.shape)
            self._overflows = payload.overflowed + (0 if self._overflows is None else self._overflows)
            return payload
        if precision == "full":
            return Dense(X)
        return Reduced(reduce(x, precision), precision, X.shape, X.dtype)

    def _look_at(self, x: Tensor) -> None:
        wide = torch.promote_types(x.dtype, torch.float32)
        share = torch.where(x.sum(dtype=wide).isfinite(), torch.count_nonzero(x) / len(x), -1.0)
        self._nonzero = share if self._nonzero is None else torch.maximum(self._nonzero, share)

    def _room(self, elements: int) -> int:
        """Elements that the sparse form of a call has room for."""
        share = 1.0 if self.nonzero is None else min(1.0, self.nonzero + self.settings.headroom)
        return max(1, math.ceil(share * elements))

    def _is_sparse(self, elements: int, itemsize: int) -> bool:
        """Whether a call takes the sparse form: if it is the smaller one."""
        if self.nonzero is None or self.settings.precision == "fp8":
            return False
        precision = _shorter(self.settings.precision, itemsize)
        room = self._room(elements)
        return sparse_bytes(elements, room, precision, itemsize) < reduced_bytes(elements, precision, itemsize)

    def readings(self) -> Iterable[Tensor]:
        return self.state()

    def end_step(self) -> None:
        numbers = iter(self.read())
        if self._nonzero is not None and (share := next(numbers)) >= 0:
            self.nonzero = share
        if self._overflows is not None:
            self.overflows += int(next(numbers))
        self.discard_step()

    def discard_step(self) -> None:
        self._nonzero = self._overflows = None

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int | None:
        elements, precision = rows * self.D, _shorter(self.settings.precision, itemsize)
        if self.nonzero is None and precision == "full":
            return None  # whether the site has zeros is seen by encoding it once
        if self._is_sparse(elements, itemsize):
            return calls * sparse_bytes(elements, self._room(elements), precision, itemsize)
        return calls * reduced_bytes(elements, precision, itemsize)

    def state(self) -> Iterable[Tensor]:
        return [tensor for tensor in (self._nonzero, self._overflows) if tensor is not None]

    def statistics(self) -> dict[str, float]:
        return {"overflows": self.overflows} | ({} if self.nonzero is None else {"nonzero": self.nonzero})


def _shorter(precision: Precision, itemsize: int) -> Precision:
    """The format, unless it is no shorter than the elements of the rows."""
    return "full" if precision != "full" and _ITEM_BITS[precision] >= 8 * itemsize else precision


def reduce(x: Tensor, precision: Precision) -> Tensor:
    """The numbers ``(n,)`` in a shorter format; fp10 as ``(ceil(n / 3),)`` words of three."""
    if precision == "full":
        return x
    largest = _LARGEST[precision]
    x = x.clamp(-largest, largest).masked_fill_(~x.isfinite(), math.nan)
    if precision == "fp8":
        return x.to(torch.float8_e4m3fn)
    x = x.to(torch.float16)
    if precision == "fp16":
        return x
    bits = x.view(torch.int16).to(torch.int32).bitwise_and_(0xFFFF)
    odd = bits.bitwise_right_shift(6).bitwise_and_(1)
    bits = bits.add_(31).add_(odd).bitwise_right_shift_(6)  # six bits of mantissa less: to nearest, ties to even
    del x, odd
    words = functional.pad(bits, (0, -len(bits) % 3)).view(-1, 3)
    return words[:, 0] | words[:, 1] << 10 | words[:, 2] << 20


def widen(codes: Tensor, precision: Precision, elements: int, dtype: torch.dtype) -> Tensor:
    """The inverse of :func:`reduce`: numbers ``(elements,)`` in ``dtype``."""
    if precision == "fp10":
        words = torch.stack([codes & 1023, codes >> 10 & 1023, codes >> 20 & 1023], dim=1)
        codes = (words.view(-1)[:elements] << 6).to(torch.int16).view(torch.float16)
    return codes.to(dtype)


def reduced_bytes(elements: int, precision: Precision, itemsize: int) -> int:
    """Bytes of so many numbers in a format."""
    if precision == "fp10":
        return 4 * math.ceil(elements / 3)
    return elements * {"full": itemsize, "fp16": 2, "fp8": 1}[precision]


def sparse_bytes(elements: int, room: int, precision: Precision, itemsize: int) -> int:
    """Bytes of the sparse form of a call: never less than what it takes as FP8, and one for the flag."""
    return max(reduced_bytes(room, precision, itemsize) + packed_bytes(elements), elements) + 1


@dataclass(frozen=True)
class Reduced(Payload):
    """All elements in a shorter format."""

    codes: Tensor
    precision: Precision
    shape: torch.Size
    dtype: torch.dtype

    def decode(self) -> Tensor:
        return widen(self.codes, self.precision, self.shape.numel(), self.dtype).view(self.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.codes,)


def sparse(x: Tensor, room: int, precision: Precision, shape: torch.Size) -> Sparse:
    """The sparse form of elements ``x (n,)``, with room for so many that are not zero.

    One buffer of bytes has either the elements that are not zero and the mask, or, if they are more than there is room
    for, all elements as FP8. Both are made, since which it is only the device knows.
    """
    mask = x != 0
    overflowed = mask.sum() > room
    # What is left of the room has element 0 again: the mask asks for no more than there are.
    where = torch.nonzero_static(mask, size=room, fill_value=0).squeeze(1)  # (room,)
    parts = [reduce(x[where], precision).view(torch.uint8), pack_bits(mask)]
    elements = reduce(x, "fp8").view(torch.uint8)
    size = max(sum(map(len, parts)), len(elements))
    buffer = torch.where(overflowed, _padded(elements, size), _padded(torch.cat(parts), size))
    return Sparse(buffer, overflowed, room, precision, shape, x.dtype)


def _padded(x: Tensor, size: int) -> Tensor:
    return functional.pad(x, (0, size - len(x)))


@dataclass(frozen=True)
class Sparse(Payload):
    """The elements that are not zero and a mask, or all elements as FP8, in one buffer of bytes."""

    buffer: Tensor
    overflowed: Tensor
    room: int
    precision: Precision
    shape: torch.Size
    dtype: torch.dtype

    def decode(self) -> Tensor:
        n = self.shape.numel()
        kept = reduced_bytes(self.room, self.precision, self.dtype.itemsize)
        stored = {"full": self.dtype, "fp16": torch.float16, "fp10": torch.int32, "fp8": torch.float8_e4m3fn}
        values = widen(self.buffer[:kept].view(stored[self.precision]), self.precision, self.room, self.dtype)
        mask = unpack_bits(self.buffer[kept : kept + packed_bytes(n)], n)
        # After an overflow the mask is anything, and may ask for every element: hence the padding.
        x = torch.zeros_like(mask, dtype=self.dtype).masked_scatter_(mask, _padded(values, n))
        every = widen(self.buffer[:n].view(torch.float8_e4m3fn), "fp8", n, self.dtype)
        return torch.where(self.overflowed, every, x).view(self.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.buffer, self.overflowed


class BinarizeCodec(Codec):
    """Holds nothing."""

    def __init__(self, width: int) -> None:
        self.D = width

    def encode(self, X: Tensor) -> Payload:
        one = torch.ones((), dtype=X.dtype, device=X.device)
        return Positive(pack_bits(X > 0), one.masked_fill_(~X.isfinite().all(), math.nan), X.shape)

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
        return calls * (packed_bytes(rows * self.D) + itemsize)


@dataclass(frozen=True)
class Positive(Payload):
    """Which elements are positive, one bit each, and the number 1: NaN if an element was not finite."""

    mask: Tensor
    one: Tensor
    shape: torch.Size

    def decode(self) -> Tensor:
        return (unpack_bits(self.mask, self.shape.numel()).to(self.one.dtype) * self.one).view(self.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.mask, self.one


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``gist``."""
    return [Gist]
