"""A strategy that keeps the contract, and for each property one that breaks it and nothing else."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from compbench import Codec, Compressor, Dense, Payload, Site


def means(rows: Tensor) -> Tensor:
    """The mean of each pair of columns: ``(N, D)`` to ``(N, D / 2)``."""
    return rows.unflatten(1, (-1, 2)).mean(dim=2)


class Pairs(Payload):
    """The mean of each pair of columns, ``(N, D / 2)``, which are coefficients too."""

    def __init__(self, Z: Tensor | None) -> None:
        self.Z = Z

    def decode(self) -> Tensor:
        if self.Z is None:
            raise TypeError("kept elsewhere")
        return self.Z.repeat_interleave(2, dim=1)

    def tensors(self) -> tuple[Tensor, ...]:
        return () if self.Z is None else (self.Z,)

    def coefficients(self) -> Tensor | None:
        return self.Z

    def with_coefficients(self, coefficients: Tensor | None) -> Payload:
        return type(self)(coefficients)


class SoundCodec(Codec):
    def __init__(self, width: int, generator: torch.Generator) -> None:
        self.D, self.generator = width, generator
        self.steps = 0

    def encode(self, rows: Tensor) -> Payload:
        return Pairs(means(rows))

    def end_step(self) -> None:
        self.steps += 1

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int | None:
        return calls * rows * self.D // 2 * itemsize

    def coefficient_width(self) -> int | None:
        return self.D // 2

    def statistics(self) -> dict[str, float]:
        return {"steps": self.steps}


class Sound(Compressor):
    """Keeps the contract."""

    name: ClassVar[str] = "sound"
    made: ClassVar[type[SoundCodec]] = SoundCodec

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return self.made(site.width, generator)


class OpaqueCodec(SoundCodec):
    """For payloads of other kinds: says nothing of bytes and coefficients."""

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int | None:
        return None

    def coefficient_width(self) -> int | None:
        return None


# ---------------------------------------------------------------- settings


class Undescribed(Sound):
    """Has a field without a description."""

    bits: int = 16


class NotWrittenDown(Sound):
    """Has a field that is left out where settings are written."""

    bits: int = Field(16, exclude=True, description="bits")


# ---------------------------------------------------------------- payloads


class ForgetsDtypeCodec(OpaqueCodec):
    def encode(self, rows: Tensor) -> Payload:
        return Same(torch.float32, rows.clone())


class ForgetsDtype(Sound):
    """Gives back float32, whatever it was given."""

    made = ForgetsDtypeCodec


class WritesCodec(SoundCodec):
    def encode(self, rows: Tensor) -> Payload:
        rows.mul_(1.5)
        return super().encode(rows)


class Writes(Sound):
    """Scales the rows in place."""

    made = WritesCodec


class Same(Payload):
    """Some tensors, of which the first decodes to the rows."""

    def __init__(self, dtype: torch.dtype, *kept: Tensor) -> None:
        self.dtype, self.kept = dtype, kept

    def decode(self) -> Tensor:
        return self.kept[0].to(self.dtype, copy=True)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.kept


class OverwritesCodec(OpaqueCodec):
    buffer: Tensor | None = None

    def encode(self, rows: Tensor) -> Payload:
        if self.buffer is None or self.buffer.shape != rows.shape:
            self.buffer = torch.empty_like(rows, dtype=torch.bfloat16)
        self.buffer.copy_(rows)
        return Same(rows.dtype, self.buffer)

    def state(self) -> Iterable[Tensor]:
        return () if self.buffer is None else (self.buffer,)


class Overwrites(Sound):
    """Has one buffer for all calls."""

    made = OverwritesCodec


class HidesCodec(SoundCodec):
    def encode(self, rows: Tensor) -> Payload:
        payload = super().encode(rows)
        copy = rows.clone()
        payload.exact = lambda: copy
        return payload


class Hides(Sound):
    """Keeps a copy of the rows in a closure."""

    made = HidesCodec


class KeepsRowsCodec(OpaqueCodec):
    def encode(self, rows: Tensor) -> Payload:
        return Dense(rows)


class KeepsRows(Sound):
    """Keeps the rows, and does not say that it is exact."""

    made = KeepsRowsCodec


class BoastsCodec(SoundCodec):
    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int | None:
        return calls * rows * self.D // 4 * itemsize


class Boasts(Sound):
    """Says that it keeps half of what it keeps."""

    made = BoastsCodec


class Doubled(Pairs):
    def weight_gradient(self, grad_output: Tensor) -> Tensor:
        return 2 * super().weight_gradient(grad_output)


class Factored(Pairs):
    """Pairs of columns as a product, of which the second factor belongs to other rows."""

    def rank(self) -> int:
        return self.factors()[1].shape[1]

    def factors(self) -> tuple[Tensor, Tensor]:
        Z = self.coefficients()
        assert Z is not None
        pairs = torch.eye(Z.shape[1], dtype=torch.float32).repeat_interleave(2, dim=0)
        return Z, pairs.flip(0)


class SwapsCodec(SoundCodec):
    def encode(self, rows: Tensor) -> Payload:
        return Factored(means(rows))


class Swaps(Sound):
    """Gives the factors of other rows."""

    made = SwapsCodec


class DoublesCodec(SoundCodec):
    def encode(self, rows: Tensor) -> Payload:
        return Doubled(means(rows))


class Doubles(Sound):
    """Forms twice the weight gradient."""

    made = DoublesCodec


class MiscountsCodec(SoundCodec):
    def coefficient_width(self) -> int | None:
        return self.D


class Miscounts(Sound):
    """Says that its coefficients are wider than they are."""

    made = MiscountsCodec


class Inexact(Sound):
    """Says that it is exact."""

    exact: ClassVar[bool] = True


class DividesCodec(OpaqueCodec):
    def encode(self, rows: Tensor) -> Payload:
        scale = rows.abs().amax().to(torch.promote_types(rows.dtype, torch.float32))
        return Scaled(rows.dtype, rows / scale, scale)


class Scaled(Same):
    def decode(self) -> Tensor:
        codes, scale = self.kept
        return (codes * scale).to(self.dtype)


class Divides(Sound):
    """Divides by the largest magnitude, also where it is zero."""

    made = DividesCodec


class CleansCodec(SoundCodec):
    def encode(self, rows: Tensor) -> Payload:
        return super().encode(rows.nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0))


class Cleans(Sound):
    """Replaces what is not finite."""

    made = CleansCodec


# ---------------------------------------------------------------- codecs


class HoardsCodec(SoundCodec):
    last: dict[str, Tensor] | None = None

    def encode(self, rows: Tensor) -> Payload:
        self.last = {"rows": rows.clone()}
        return super().encode(rows)


class Hoards(Sound):
    """Holds the last rows, and does not declare them."""

    made = HoardsCodec


class DrawsGloballyCodec(SoundCodec):
    def encode(self, rows: Tensor) -> Payload:
        torch.rand(1)
        return super().encode(rows)


class DrawsGlobally(Sound):
    """Advances torch's global generator."""

    made = DrawsGloballyCodec


_SEEDS = itertools.count()


class SeedsItselfCodec(SoundCodec):
    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__(width, torch.Generator().manual_seed(next(_SEEDS)))

    def generators(self) -> Iterable[torch.Generator]:
        return (self.generator,)

    def encode(self, rows: Tensor) -> Payload:
        return super().encode(rows * (1 + 0.1 * torch.rand(rows.shape, generator=self.generator).to(rows.dtype)))


class SeedsItself(Sound):
    """Has a seed of its own."""

    made = SeedsItselfCodec


class CountsCodec(SoundCodec):
    calls = 0

    def encode(self, rows: Tensor) -> Payload:
        self.calls += 1
        return super().encode(rows)

    def statistics(self) -> dict[str, float]:
        return {"calls": self.calls}


class Counts(Sound):
    """Counts calls of discarded steps too."""

    made = CountsCodec


class FollowsCodec(OpaqueCodec):
    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__(width, generator)
        self.scale = torch.ones(())
        self.largest: Tensor | None = None

    def encode(self, rows: Tensor) -> Payload:
        largest = rows.abs().amax().float()
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)
        return Scaled(rows.dtype, rows / self.scale, self.scale)

    def end_step(self) -> None:
        super().end_step()
        if self.largest is not None:
            self.scale = 0.9 * self.scale + 0.1 * self.largest
            self.largest = None

    def discard_step(self) -> None:
        self.largest = None

    def state(self) -> Iterable[Tensor]:
        return (self.scale,) if self.largest is None else (self.scale, self.largest)


class Follows(Sound):
    """Has a scale that follows the rows, and stays NaN once it was."""

    made = FollowsCodec


class AsksCodec(SoundCodec):
    def encode(self, rows: Tensor) -> Payload:
        return super().encode(rows if rows.any() else torch.zeros_like(rows))


class Asks(Sound):
    """Branches on values."""

    made = AsksCodec


class ForgetsFirstCodec(SoundCodec):
    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__(width, generator)
        self.largest = torch.zeros((), device=generator.device)
        self.last = 0.0

    def encode(self, rows: Tensor) -> Payload:
        self.largest = torch.maximum(self.largest, rows.abs().amax().nan_to_num().float())
        return super().encode(rows)

    def readings(self) -> Iterable[Tensor]:
        return (self.largest,)

    def end_step(self) -> None:
        super().end_step()
        self.discard_step()
        (self.last,) = self.read()

    def discard_step(self) -> None:
        self.largest = torch.zeros_like(self.largest)

    def state(self) -> Iterable[Tensor]:
        return (self.largest,)

    def statistics(self) -> dict[str, float]:
        return {**super().statistics(), "last": self.last}


class ForgetsFirst(Sound):
    """Asks for its readings when it has forgotten the step."""

    made = ForgetsFirstCodec


class PilesCodec(SoundCodec):
    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__(width, generator)
        self.history: list[float] = []

    def end_step(self) -> None:
        super().end_step()
        self.history.append(self.steps / 7)


class Piles(Sound):
    """Remembers a figure of each step for ever."""

    made = PilesCodec


class UnsavedCodec(SoundCodec):
    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: object) -> None:
        pass


class Unsaved(Sound):
    """Leaves its counter out of what is saved."""

    made = UnsavedCodec


class TellsTensorsCodec(SoundCodec):
    def statistics(self) -> dict[str, float]:
        return {"steps": torch.tensor(self.steps)}


class TellsTensors(Sound):
    """Has a tensor among its figures."""

    made = TellsTensorsCodec


# ---------------------------------------------------------------- trainings


class SpoilsGradients(Sound):
    """Makes every gradient NaN."""

    @contextmanager
    def wrap(self, model: nn.Module) -> Iterator[None]:
        handles = [parameter.register_hook(lambda grad: grad * math.nan) for parameter in model.parameters()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


_ELSEWHERE: dict[int, Tensor] = {}


class Elsewhere(Pairs):
    """Keeps the rows in a dictionary of the module."""

    def __init__(self, Z: Tensor | None) -> None:
        super().__init__(Z)
        if Z is not None:
            _ELSEWHERE[id(self)] = Z.clone()

    def __del__(self) -> None:
        _ELSEWHERE.pop(id(self), None)


class KeepsElsewhereCodec(SoundCodec):
    def encode(self, rows: Tensor) -> Payload:
        return Elsewhere(means(rows))


class KeepsElsewhere(Sound):
    """Keeps more than it declares, where no object leads to."""

    made = KeepsElsewhereCodec


_DECODED: list[Tensor] = []


class Remembered(Pairs):
    def decode(self) -> Tensor:
        _DECODED.append(super().decode())
        return _DECODED[-1].clone()


class RemembersCodec(SoundCodec):
    def encode(self, rows: Tensor) -> Payload:
        _DECODED.clear()
        return Remembered(means(rows))


class Remembers(Sound):
    """Keeps what it decoded until the next forward pass."""

    made = RemembersCodec


class StaysWrapped(Sound):
    """Leaves its hook in the model."""

    @contextmanager
    def wrap(self, model: nn.Module) -> Iterator[None]:
        model.register_forward_pre_hook(lambda module, inputs: None)
        yield


BROKEN: dict[str, Compressor] = {
    "describes_itself": Undescribed(),
    "can_be_made_again": NotWrittenDown(bits=8),
    "comes_back": ForgetsDtype(),
    "rows_are_not_changed": Writes(),
    "payloads_are_independent": Overwrites(),
    "keeps_what_it_declares": Hides(),
    "rows_are_freed": KeepsRows(),
    "kept_bytes_are_true": Boasts(),
    "weight_gradient_is_true": Doubles(),
    "factors_are_the_rows": Swaps(),
    "coefficients_are_consistent": Miscounts(),
    "exact_is_exact": Inexact(),
    "finite_stays_finite": Divides(),
    "not_finite_stays_not_finite": Cleans(),
    "state_is_declared": Hoards(),
    "random_states_are_untouched": DrawsGlobally(),
    "same_seed_same_payloads": SeedsItself(),
    "discarded_steps_leave_no_trace": Counts(),
    "recovers_from_what_is_not_finite": Follows(),
    "never_waits_for_the_device": Asks(),
    "readings_are_true": ForgetsFirst(),
    "nothing_piles_up": Piles(),
    "can_be_saved_and_loaded": Unsaved(),
    "statistics_are_numbers": TellsTensors(),
    "gradients_are_sound": SpoilsGradients(),
    "saved_bytes_are_alive": KeepsElsewhere(),
    "nothing_is_left": Remembers(),
    "wrap_is_undone": StaysWrapped(),
}
"""By property, the strategy that breaks it."""


# ---------------------------------------------------------------- further ways to break them


def strategy(encode: Callable[[SoundCodec, Tensor], Payload], base: type[SoundCodec] = SoundCodec, **methods: object):
    """A strategy whose codec encodes like that, and has other methods."""
    made = type("MadeCodec", (base,), {"encode": encode, **methods})
    return type("Made", (Sound,), {"__doc__": "Made for a test.", "__module__": __name__, "made": made})()


def variant(base: type[Payload] = Pairs, **methods: object) -> Callable[[SoundCodec, Tensor], Payload]:
    """Encodes into payloads with other methods."""
    kind = type("Variant", (base,), methods)
    return lambda codec, rows: kind(means(rows))


class WritesLate(Payload):
    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def decode(self) -> Tensor:
        decoded = self.rows.clone()
        self.rows.zero_()
        return decoded

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.rows,)


def first_of_the_step(codec: SoundCodec, rows: Tensor) -> Payload:
    if getattr(codec, "first", None) is None or codec.first[0] != rows.shape:
        codec.first = (rows.shape, Pairs(means(rows)))
    return codec.first[1]


def as_numbers(codec: SoundCodec, rows: Tensor) -> Payload:
    payload = Pairs(means(rows))
    payload.numbers = rows.tolist()
    return payload


def beside_the_rows(codec: SoundCodec, rows: Tensor) -> Payload:
    return Same(rows.dtype, rows.clone(), rows)


def scaled_by_the_step_before(codec: SoundCodec, rows: Tensor) -> Payload:
    scale = getattr(codec, "scale", torch.ones(()))
    codec.scale = rows.abs().amax().float()
    return Scaled(rows.dtype, torch.where(rows == 0, rows, rows / scale), scale)


def unchanged(self: Payload, coefficients: Tensor | None) -> Payload:
    return self


def without(self: Payload, coefficients: Tensor | None) -> Payload:
    return type(self)(None if coefficients is None else 2 * coefficients)


def for_ever(self: Payload, coefficients: Tensor | None) -> Payload:
    kept = self.Z
    if coefficients is not None and not coefficients.any():
        self.Z = coefficients
    return Pairs(None) if coefficients is None else Pairs(kept if coefficients.equal(kept) else coefficients)


def regardless(self: Payload, coefficients: Tensor | None) -> Payload:
    rest = Pairs(None)
    Z = self.Z.clone()
    rest.with_coefficients = lambda _: Pairs(Z)
    return rest if coefficients is None else Pairs(Z)


class Unnamed(Compressor):
    """Has no name."""

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return None


class Undocumented(Sound):
    name = "undocumented"


class Required(Sound):
    """Has a field without a default."""

    bits: int = Field(description="bits")


class Unpicklable(Sound):
    """Can't be pickled."""

    def __reduce__(self) -> str:
        raise TypeError("not this one")

    def __deepcopy__(self, memo: object) -> Compressor:
        return self


class Foreign:
    """No tensor and no number."""


def drawing(draw: Callable[[], object]) -> Compressor:
    def encode(codec: SoundCodec, rows: Tensor) -> Payload:
        draw()
        return Pairs(means(rows))

    return strategy(encode)


def plainly(codec: SoundCodec, rows: Tensor) -> Payload:
    return Pairs(means(rows))


def hoard(codec: SoundCodec) -> None:
    codec.all = [*getattr(codec, "all", []), torch.zeros(1)]


class Frozen(Sound):
    """Trains nothing but the last matrix."""

    @contextmanager
    def wrap(self, model: nn.Module) -> Iterator[None]:
        first = next(model.parameters())
        first.requires_grad_(False)
        try:
            yield
        finally:
            first.requires_grad_(True)


class Steers(SpoilsGradients):
    """Says that it is exact, and doubles gradients."""

    exact: ClassVar[bool] = True

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return None

    @contextmanager
    def wrap(self, model: nn.Module) -> Iterator[None]:
        handles = [parameter.register_hook(lambda grad: 2 * grad) for parameter in model.parameters()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class Stamps(Sound):
    """Leaves an attribute in a part of the model."""

    @contextmanager
    def wrap(self, model: nn.Module) -> Iterator[None]:
        model.block.stamp = 1
        yield


ALSO_BROKEN: list[tuple[str, str, Compressor]] = [
    ("describes_itself", "Unnamed.name is None", Unnamed()),
    ("describes_itself", "Undocumented has no docstring", Undocumented()),
    ("describes_itself", "field 'bits' has no default", Required(bits=1)),
    ("can_be_made_again", "can't be pickled: TypeError: not this one", Unpicklable()),
    ("rows_are_not_changed", "encode() writes into the rows", Writes()),
    ("rows_are_not_changed", "decode() writes into the rows", strategy(lambda codec, rows: WritesLate(rows))),
    ("payloads_are_independent", "decodes to the rows of call 0", strategy(first_of_the_step)),
    ("keeps_what_it_declares", "bytes in Python's own objects and declares 0", strategy(as_numbers)),
    ("rows_are_freed", "decode() gives other rows", KeepsRows()),
    ("rows_are_freed", "is still held after encode()", strategy(beside_the_rows, OpaqueCodec)),
    (
        "weight_gradient_is_true",
        "weight_gradient() is float64 (5, 192)",
        strategy(variant(weight_gradient=lambda self, grad_output: grad_output.double().T @ self.decode().double())),
    ),
    ("factors_are_the_rows", "rank() is 3", strategy(variant(rank=lambda self: 3))),
    (
        "coefficients_are_consistent",
        "coefficient_width() is 96, and payloads' coefficients() is None",
        strategy(lambda codec, rows: Same(rows.dtype, rows.clone())),
    ),
    (
        "coefficients_are_consistent",
        "works on a payload whose coefficients() is None",
        strategy(variant(coefficients=lambda self: None)),
    ),
    ("coefficients_are_consistent", "still keeps the coefficients", strategy(variant(with_coefficients=unchanged))),
    ("coefficients_are_consistent", "taken out and put back", strategy(variant(with_coefficients=without))),
    ("coefficients_are_consistent", "whatever Z is", strategy(variant(with_coefficients=regardless))),
    ("coefficients_are_consistent", "changes the payload", strategy(variant(with_coefficients=for_ever))),
    ("finite_stays_finite", "after rows of zeros", strategy(scaled_by_the_step_before, OpaqueCodec)),
    ("random_states_are_untouched", "of NumPy is", drawing(lambda: np.random.rand())),
    ("random_states_are_untouched", "of Python is", drawing(random.random)),
    (
        "never_waits_for_the_device",
        "decode() needs a value",
        strategy(variant(decode=lambda self: Pairs.decode(self) * (1 if self.Z.any() else 0))),
    ),
    (
        "never_waits_for_the_device",
        "weight_gradient() needs a value",
        strategy(variant(weight_gradient=lambda self, grad: grad.T @ self.decode() * (1 if grad.any() else 0))),
    ),
    (
        "never_waits_for_the_device",
        "factors() needs a value",
        strategy(variant(factors=lambda self: None if self.Z.any() else (self.Z, self.Z))),
    ),
    (
        "never_waits_for_the_device",
        "with_coefficients() needs a value",
        strategy(variant(with_coefficients=lambda self, Z: type(self)(None if Z is None or not Z.any() else Z))),
    ),
    ("readings_are_true", "raised", strategy(plainly, readings=lambda self: (0.5,))),
    ("nothing_piles_up", "bytes in tensors", strategy(plainly, end_step=hoard)),
    (
        "can_be_saved_and_loaded",
        "torch.load(weights_only=True) refuses",
        strategy(plainly, state_dict=lambda self: {"it": Foreign()}),
    ),
    ("statistics_are_numbers", "a bool", strategy(plainly, statistics=lambda self: {"warm": True})),
    ("statistics_are_numbers", "has 1: a int", strategy(plainly, statistics=lambda self: {1: 1})),
    ("gradients_are_sound", "a parameter has no gradient", Frozen()),
    ("gradients_are_sound", "gets other gradients than without", Steers()),
    ("wrap_is_undone", "leaves module 'block' other", Stamps()),
]
"""A property, part of the message, and a strategy that breaks it (and may break others with it)."""


class Checkpointing(Compressor):
    """Recomputes every block in the backward pass: a strategy on the graph, without codecs."""

    name: ClassVar[str] = "checkpointing"
    exact: ClassVar[bool] = True

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return None

    @contextmanager
    def wrap(self, model: nn.Module) -> Iterator[None]:
        block, forward = model.block, model.block.forward
        before = vars(block).get("forward")
        block.forward = lambda *args: checkpoint(forward, *args, use_reentrant=False)
        try:
            yield
        finally:
            del block.forward
            if before is not None:
                block.forward = before


class Picky(Sound):
    """Compresses attention alone."""

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return super().codec(site, generator) if site.role.startswith("attn") else None


READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda rows: rows.sum().item(),
    "float": lambda rows: float(rows.sum()),
    "list": lambda rows: rows.tolist(),
    "cpu": lambda rows: rows.cpu(),
    "to": lambda rows: rows.to("cpu"),
    "numpy": lambda rows: rows.float().numpy(),
    "branch": lambda rows: 1 if rows.any() else 0,
    "indices": lambda rows: rows[rows > 0],
    "equal": lambda rows: torch.equal(rows, rows),
}


class ReadsCodec(SoundCodec):
    how = ""

    def encode(self, rows: Tensor) -> Payload:
        READS[self.how](rows)
        return super().encode(rows)


class Reads(Sound):
    """Reads values on the host."""

    how: str = Field("item", description="in which way")

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        codec = ReadsCodec(site.width, generator)
        codec.how = self.how
        return codec
