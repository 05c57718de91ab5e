"""Strategies in a row: each compresses the coefficients that the one before it keeps, as ``[laser, int8]`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from pydantic import SerializeAsAny, model_validator
from torch import Tensor, nn

from compbench import seeds
from compbench.compressor import Codec, Compressor, Payload, Recomputation, Site, SiteUse
from compbench.errors import SettingsError

_TRIAL_SITE = Site(module="", role="trial", width=64)


class Chain(Compressor):
    """Strategies in a row.

    The first one that compresses encodes the rows, every further one the coefficients that are left. Strategies on the
    graph, such as checkpointing, all act on the model and are passed over where codecs are made.

    Raises:
        SettingsError: there are no members, or one that leaves no coefficients stands before another that needs them.
    """

    members: tuple[SerializeAsAny[Compressor], ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        """The members' names, such as ``laser+int8``."""
        return "+".join(member.name for member in self.members)

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether every member is."""
        return all(member.exact for member in self.members)

    @property
    def lossless(self) -> bool:  # type: ignore[override]
        """Whether all of them lose nothing but for rounding."""
        return all(member.exact or member.lossless for member in self.members)

    @model_validator(mode="after")
    def _members_fit(self) -> Self:
        if not self.members:
            raise SettingsError("a chain of strategies needs at least one; 'none' keeps everything")
        policies = [(member.name, member.recomputation()) for member in self.members]
        recomputing = [name for name, policy in policies if policy is not None and not policy.gives_way]
        if len(recomputing) > 1:
            raise SettingsError(
                f"a chain recomputes in one way, and both {' and '.join(recomputing)} are in it; leave one out"
            )
        try:
            self.codec(_TRIAL_SITE, torch.Generator().manual_seed(0))
        except SettingsError:
            raise
        except Exception:  # noqa: S110 - a plugin's own failure belongs to the cell that runs it
            pass
        return self

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        """Makes the codecs of a site.

        Raises:
            SettingsError: a member leaves no coefficients for the next.
        """
        links: list[Link] = []
        width: int | None = site.width
        for position, member in enumerate(self.members):
            link = Link(member, position, site, generator)
            codec = link.codec(site.width if width is None else width)
            if codec is None:
                continue
            if width is None:
                last = links[-1].member.name
                raise SettingsError(
                    f"{last} leaves no coefficients that {member.name} could compress (its codec's coefficient_width() "
                    f"is None), so {last} can only be last in a chain"
                )
            links.append(link)
            width = codec.coefficient_width()
        if not links:
            return None
        return ChainCodec(links, site.width)

    def coordinate(self, sites: Sequence[SiteUse]) -> None:
        """Lets every member coordinate its own codecs."""
        for position, member in enumerate(self.members):
            member.coordinate([own for use in sites for own in _uses_of(use, position)])

    def unmatched_message(self, sites: Sequence[Site]) -> str:
        """That of every member."""
        return "\n".join(filter(None, (member.unmatched_message(sites) for member in self.members)))

    def recomputation(self) -> Recomputation | None:
        """That of the one member that recomputes, if one does; one that gives way only if it is alone."""
        found = [policy for member in self.members if (policy := member.recomputation()) is not None]
        return min(found, key=lambda policy: policy.gives_way, default=None)

    def changes_the_graph(self) -> bool:
        """Whether a member does."""
        return any(member.changes_the_graph() for member in self.members)

    def wrap(self, model: nn.Module) -> AbstractContextManager[object]:
        """Enters what every member does to the model, in order, and leaves it in the opposite order."""
        return self._wrapped(model)

    @contextmanager
    def _wrapped(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.wrap(model))
            yield


def _uses_of(use: SiteUse, position: int) -> Iterator[SiteUse]:
    """What a site did for the member at a position of the chain, if that has a codec there."""
    if isinstance(use.codec, ChainCodec):
        for link in use.codec.links:
            for codec in link.current if link.position == position else ():
                yield replace(use, site=replace(use.site, width=link.width), codec=codec)


class Link:
    """One member of a chain at one site, and its codec for the width that reaches it."""

    def __init__(self, member: Compressor, position: int, site: Site, generator: torch.Generator) -> None:
        self.member = member
        self.position = position
        self.site = site
        self._names = ("chain", str(position), member.name)
        self._seed = generator.initial_seed()
        self._device = generator.device
        self.width = 0
        self._codec: Codec | None = None
        self.generator: torch.Generator | None = None

    def codec(self, width: int) -> Codec | None:
        """The codec for rows of ``width`` columns, made anew when the width is another one than before."""
        if width != self.width:
            self.generator = seeds.generator(self._seed, *self._names, str(width), device=self._device)
            self._codec = self.member.codec(replace(self.site, width=width), self.generator)
            self.width = width
        return self._codec

    def encode(self, rows: Tensor) -> Payload | None:
        """Compresses the rows that reach it; None where the member leaves them as they are."""
        codec = self.codec(rows.shape[1])
        return None if codec is None else codec.encode(rows)

    @property
    def current(self) -> Iterable[Codec]:
        """The codec in use, if there is one."""
        return () if self._codec is None else (self._codec,)


class ChainCodec(Codec):
    """The codecs of a chain at one site.

    A call that a member keeps as it is, for want of a basis say, is kept like that: no later member touches it.
    """

    def __init__(self, links: Sequence[Link], width: int) -> None:
        self.links = links
        self._width = width

    @property
    def watches_gradients(self) -> bool:  # type: ignore[override]
        """Whether a member's codec does."""
        return any(codec.watches_gradients for link in self.links for codec in link.current)

    @property
    def watches_operators(self) -> bool:  # type: ignore[override]
        """Whether the first member's codec does; the others never see an operator's rows."""
        return any(codec.watches_operators for link in self.links[:1] for codec in link.current)

    def observe_operator(self, payload: Payload, gradients_with: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        """Shows them to the first member's codec."""
        for codec in self.links[0].current:
            codec.observe_operator(payload.outer[0] if isinstance(payload, ChainPayload) else payload, gradients_with)

    def observe_gradient(self, payload: Payload, gradient: Tensor) -> None:
        """Shows it to the codecs that watch, each with its own payload."""
        payloads = (*payload.outer, payload.last) if isinstance(payload, ChainPayload) else (payload,)
        codecs = [codec for link in self.links for codec in link.current]
        for codec, own in zip(codecs, payloads, strict=False):
            if codec.watches_gradients:
                codec.observe_gradient(own, gradient)

    def encode(self, rows: Tensor) -> Payload:
        """Compresses rows ``(N, D)`` by the first codec, and what each leaves by the next."""
        payloads: list[Payload] = []
        left: Tensor | None = rows
        for link in self.links:
            if left is None:
                break
            payload = link.encode(left)
            if payload is not None:
                payloads.append(payload)
                left = payload.coefficients()
        if len(payloads) == 1:
            return payloads[0]
        return ChainPayload([payload.with_coefficients(None) for payload in payloads[:-1]], payloads[-1])

    def _codecs(self) -> Iterator[tuple[int, Codec]]:
        """The codecs as the next call will use them, each with the width of its rows."""
        width: int | None = self._width
        for link in self.links:
            codec = None if width is None else link.codec(width)
            if width is not None and codec is not None:
                yield width, codec
                width = codec.coefficient_width()

    def generators(self) -> Iterable[torch.Generator]:
        """Those of every member."""
        for link in self.links:
            if link.generator is not None:
                yield link.generator
            for codec in link.current:
                yield from codec.generators()

    def inner(self) -> Iterable[Codec]:
        """Those of every member."""
        return [codec for link in self.links for codec in link.current]

    def end_step(self) -> None:
        """Ends the step of every codec."""
        for link in self.links:
            for codec in link.current:
                codec.end_step()

    def skips_update(self) -> bool:
        """Whether a member's codec asks for it."""
        return any(codec.skips_update() for link in self.links for codec in link.current)

    def discard_step(self) -> None:
        """Discards the step of every codec."""
        for link in self.links:
            for codec in link.current:
                codec.discard_step()

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int | None:
        """What the first codec keeps, and each further one in the place of the coefficients that it takes."""
        total = 0
        for position, (width, codec) in enumerate(self._codecs()):
            kept = codec.kept_bytes(rows, calls, itemsize)
            if kept is None:
                return None
            total += kept - (calls * rows * width * itemsize if position else 0)
        return total

    def weight_gradient_operations(self, rows: int, outputs: int) -> int | None:
        """That of the first codec."""
        _, first = next(self._codecs())
        return first.weight_gradient_operations(rows, outputs)

    def coefficient_width(self) -> int | None:
        """That of the last codec."""
        *_, (_, last) = self._codecs()
        return last.coefficient_width()

    def state(self) -> Iterable[Tensor]:
        """What all codecs hold."""
        return [tensor for link in self.links for codec in link.current for tensor in codec.state()]

    def state_dict(self) -> dict[str, Any]:
        """The states of the members' codecs, each with the width that it is for."""
        return {
            "links": [
                {"width": link.width, "codecs": [codec.state_dict() for codec in link.current]} for link in self.links
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the members' codecs for the widths that they had, and gives them their states."""
        for link, saved in zip(self.links, state["links"], strict=True):
            link.codec(saved["width"])
            for codec, codec_state in zip(link.current, saved["codecs"], strict=True):
                codec.load_state_dict(codec_state)

    def statistics(self) -> dict[str, float]:
        """The figures of all members; one that an earlier member has too is called ``int8_rank``, after its member."""
        figures: dict[str, float] = {}
        for link in self.links:
            taken = set(figures)
            for codec in link.current:
                for name, value in codec.statistics().items():
                    while name in taken:
                        name = f"{link.member.name}_{name}"
                    figures[name] = value
        return figures


@dataclass(frozen=True)
class ChainPayload(Payload):
    """What a chain keeps of one call.

    Attributes:
        outer: the payloads without their coefficients, in the order of the chain.
        last: the coefficients of the last of them, as the last member keeps them.
    """

    outer: Sequence[Payload]
    last: Payload

    def _first(self) -> Payload:
        """The first member's payload, with its coefficients rebuilt."""
        payload = self.last
        for place in reversed(range(len(self.outer))):
            payload = self.outer[place].with_coefficients(self._rebuilt(place + 1, payload))
        return payload

    def _rebuilt(self, place: int, payload: Payload) -> Tensor:
        """What the payload at a place in the chain stands for, whole: the coefficients of the one before it."""
        return payload.decode()

    def decode(self) -> Tensor:
        """The rows, ``(N, D)``, rebuilt from the last member to the first."""
        return self._rebuilt(0, self._first())

    def weight_gradient(self, grad_output: Tensor) -> Tensor:
        """``dY^T X``, ``(M, D)``, in the way of the first member."""
        return self._first().weight_gradient(grad_output)

    def rank(self) -> int | None:
        """That of the first member."""
        return self.outer[0].rank()

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Those of the first member, with its coefficients rebuilt."""
        return self._first().factors() if self.outer[0].rank() is not None else None

    def tensors(self) -> tuple[Tensor, ...]:
        """What all members keep."""
        return tuple(tensor for payload in (*self.outer, self.last) for tensor in payload.tensors())

    def opaque_bytes(self) -> int:
        """What all members keep outside tensors."""
        return sum(payload.opaque_bytes() for payload in (*self.outer, self.last))

    def coefficients(self) -> Tensor | None:
        """Those of the last member."""
        return self.last.coefficients()

    def with_coefficients(self, coefficients: Tensor | None) -> Payload:
        """The same with others for the last member."""
        return replace(self, last=self.last.with_coefficients(coefficients))
