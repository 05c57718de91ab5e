"""A strategy on trial: codecs, activations and steps for the properties that it is held to.

Everything is deterministic: activations come from seeds, on the CPU, and go to the device from there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from compbench import seeds
from compbench.by_site import BySite
from compbench.chain import Chain
from compbench.compressor import Codec, Compressor, Payload, Site

SITE = Site(module="block.mlp", role="mlp_192", width=192)
"""Wide enough that a default rank of 128 compresses."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CALLS = 25
"""Calls of one step: those of a recursive model, whose block runs many times before the backward pass."""

FEW = 24
"""Rows of a call where nothing depends on their number: fewer than columns."""

MANY = 512
"""Rows of a call where compression is to save something, also with a basis of rank 128 for each call."""

_SUBSPACE = 24
"""Directions near which activations lie."""


Made = TypeVar("Made")


class Violation(AssertionError):  # noqa: N818 - an outcome, as is the next
    """A property does not hold; the message says what was found and what is allowed."""


class NotApplicable(Exception):  # noqa: N818
    """A property says nothing of this strategy; the message says why."""


@dataclass(frozen=True)
class Property:
    """One thing that every strategy must hold to.

    Attributes:
        name: short name, as in the identifier of a test.
        description: the property in one line, as a statement about the strategy.
        check: raises :class:`Violation` or :class:`NotApplicable`; anything else that it raises is a failure too.
        needs: names of properties without which this one says nothing new.
    """

    name: str
    description: str
    check: Callable[[Trial], None]
    needs: tuple[str, ...] = ()


def conformance(*needs: Property) -> Callable[[Callable[[Trial], None]], Property]:
    """Makes a property of a function: its name, and as description the first line of its docstring."""

    def made(check: Callable[[Trial], None]) -> Property:
        description = inspect.cleandoc(check.__doc__ or "").partition("\n")[0].removesuffix(".")
        names = dict.fromkeys(name for need in needs for name in (*need.needs, need.name))
        return Property(check.__name__, description, check, tuple(names))

    return made


@dataclass(frozen=True)
class Trial:
    """One strategy, and where it is tried.

    Attributes:
        compressor: the strategy; a chain is one too.
        device: where rows are.
        site: the site that codecs are made for.
        warm_steps: steps after which bases are made and bytes are as ``kept_bytes`` says.
    """

    compressor: Compressor
    device: torch.device
    site: Site = SITE
    warm_steps: int = 3
    _made: dict[object, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, make: Callable[[Trial], Made]) -> Made:
        """What a function makes of the trial, made at the first call for all properties that look at it."""
        if make not in self._made:
            self._made[make] = make(self)
        made: Made = self._made[make]
        return made

    @property
    def members(self) -> tuple[Compressor, ...]:
        """The strategy, or those of a chain or by site."""
        return tuple(_leaves(self.compressor))

    def generator(self) -> torch.Generator:
        """The generator that a codec is given; every time the same."""
        return seeds.generator(0, "conformance", device=self.device)

    def codec(self, width: int | None = None) -> Codec:
        """A codec that was just made.

        Raises:
            NotApplicable: the strategy leaves the site to autograd.
        """
        return self.codec_and_streams(width)[0]

    def codec_and_streams(self, width: int | None = None) -> tuple[Codec, Callable[[], list[torch.Generator]]]:
        """A codec that was just made, and a function that lists its generators as they are then.

        Raises:
            NotApplicable: the strategy leaves the site to autograd.
        """
        site = self.site if width is None else replace(self.site, width=width)
        generator = self.generator()
        codec = self.compressor.codec(site, generator)
        if codec is None:
            raise NotApplicable(f"codec() is None: the strategy leaves site {site.name} to autograd")
        return codec, lambda: [generator, *codec.generators()]

    def rows(self, seed: int, rows: int = FEW, dtype: torch.dtype = torch.float32, width: int | None = None) -> Tensor:
        """Activations ``(N, D)`` near a subspace that is the same for all seeds, in memory of their own."""
        width = self.site.width if width is None else width
        shared = torch.Generator().manual_seed(77)
        subspace = torch.randn(min(_SUBSPACE, width), width, generator=shared)
        own = torch.Generator().manual_seed(1000 + seed)
        near = torch.randn(rows, len(subspace), generator=own) @ subspace
        near += 0.1 * torch.randn(rows, width, generator=own)
        return near.to(self.device, dtype)

    def step(
        self,
        codec: Codec,
        seed: int,
        calls: int = 2,
        rows: int = FEW,
        dtype: torch.dtype = torch.float32,
        width: int | None = None,
    ) -> list[Payload]:
        """The payloads of one step, which has ended."""
        payloads = [codec.encode(self.rows(100 * seed + call, rows, dtype, width)) for call in range(calls)]
        codec.end_step()
        return payloads

    def warm(self, dtype: torch.dtype = torch.float32) -> Codec:
        """A codec after the steps in which bases are made."""
        codec = self.codec()
        for step in range(self.warm_steps):
            self.step(codec, step, dtype=dtype)
        return codec

    def cold_and_warm(self, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Codec]]:
        """A codec that was just made and one after some steps, each with the words for it."""
        yield "in the first step", self.codec()
        yield f"after {self.warm_steps} steps", self.warm(dtype)


def _leaves(compressor: Compressor) -> Iterator[Compressor]:
    """The strategies that plugins made, within chains and by site."""
    parts: Sequence[Compressor] = ()
    if isinstance(compressor, Chain):
        parts = compressor.members
    elif isinstance(compressor, BySite):
        parts = [strategy for _, strategy in compressor.choices]
    else:
        yield compressor
    for part in parts:
        yield from _leaves(part)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal bit for bit, NaN included."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.itemsize]
    return torch.equal(one.contiguous().view(integers), other.contiguous().view(integers))


def unique_bytes(payloads: list[Payload]) -> int:
    """Bytes that payloads keep, storages that they share counted once."""
    tensors = [tensor for payload in payloads for tensor in payload.tensors()]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values()) + sum(payload.opaque_bytes() for payload in payloads)


def of_dtype(dtype: torch.dtype) -> str:
    """A dtype in words, such as ``float32``."""
    return str(dtype).removeprefix("torch.")
