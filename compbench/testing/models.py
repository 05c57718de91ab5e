"""What a strategy must hold to in a training: gradients, and the bytes that are really alive."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import new_class
from typing import Any
from weakref import ref

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from compbench.capture.session import Session
from compbench.capture.settings import CaptureSettings
from compbench.compressor import Codec, Compressor, Payload, Site
from compbench.measure.live import LiveLedger
from compbench.testing.codecs import state_is_declared
from compbench.testing.payloads import comes_back, exact_is_exact, keeps_what_it_declares, rows_are_not_changed
from compbench.testing.trial import NotApplicable, Trial, Violation, conformance

_WIDTH = 192
_HEADS = 4
_DEPTH = 3
_EXAMPLES = 10
_LENGTH = 48
_STEPS = 3

_TRAINABLE = (comes_back, rows_are_not_changed, keeps_what_it_declares, state_is_declared)
"""Without these the engine refuses to train, or notices that the model's tensors were changed."""


class Block(nn.Module):
    """Attention and a gated MLP, each added to its input and normalised after that: ``(B, L, D)`` to ``(B, L, D)``."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH, bias=False)
        self.out = nn.Linear(_WIDTH, _WIDTH, bias=False)
        self.gate_up = nn.Linear(_WIDTH, 2 * _WIDTH, bias=False)
        self.down = nn.Linear(_WIDTH, _WIDTH, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """One call."""
        q, k, v = self.qkv(z).unflatten(-1, (3 * _HEADS, -1)).transpose(1, 2).chunk(3, dim=1)  # (B, H, L, d) each
        mixed = F.scaled_dot_product_attention(q, k, v)
        z = F.rms_norm(z + self.out(mixed.transpose(1, 2).flatten(2)), (_WIDTH,))
        gate, up = self.gate_up(z).chunk(2, dim=-1)
        return F.rms_norm(z + self.down(F.silu(gate) * up), (_WIDTH,))


class Recursive(nn.Module):
    """One block that is called a few times on its own output: ``(B, L, D)`` to ``(B, L, D)``."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        """The state after the last call, from a state of zeros."""
        z = torch.zeros_like(x)
        for _ in range(_DEPTH):
            z = self.block(z + x)
        return z


class Watch:
    """The codecs that a strategy makes, and the payloads of theirs that are alive."""

    def __init__(self) -> None:
        self._codecs: list[Codec] = []
        self._payloads: list[ref[Payload]] = []

    def watched(self, strategy: Compressor) -> Compressor:
        """The same strategy; this watch knows whatever it makes."""

        def codec(self_: Compressor, site: Site, generator: torch.Generator) -> Codec | None:
            made = type(strategy).codec(self_, site, generator)
            return None if made is None else self._known(made)

        kind = type(strategy)
        # A class of its own and not a wrapper, so that it is and does in everything else what the strategy is and does.
        again = strategy.model_copy()
        object.__setattr__(again, "__class__", _subclass(kind, codec=codec))
        return again

    def _known(self, codec: Codec) -> Codec:
        payloads = self._payloads
        kind = type(codec)
        if not any(known is codec for known in self._codecs):

            def encode(self_: Codec, rows: Tensor) -> Payload:
                payload = kind.encode(self_, rows)
                payloads.append(ref(payload))
                return payload

            object.__setattr__(codec, "__class__", _subclass(kind, encode=encode))
            self._codecs.append(codec)
        return codec

    def bytes_beside_payloads(self) -> int:
        """Bytes that only codecs hold, less those that payloads keep outside tensors, where no ledger sees them."""
        alive = {id(payload): payload for payload in (known() for known in self._payloads) if payload is not None}
        kept = {t.untyped_storage()._cdata for payload in alive.values() for t in payload.tensors()}
        held = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for c in self._codecs for t in c.state()}
        only_held = sum(size for address, size in held.items() if address not in kept)
        return only_held - sum(payload.opaque_bytes() for payload in alive.values())


def _subclass(kind: type, **methods: Any) -> type:
    """A class that is another one, but for some methods."""
    return new_class(
        kind.__name__, (kind,), exec_body=lambda body: body.update(methods | {"__module__": kind.__module__})
    )


@dataclass
class Training:
    """What a short training gave.

    Attributes:
        losses: the loss of each step.
        gradients: the gradients of each step, one a parameter.
        alive: after each forward pass, the bytes that are alive because of it, and those that are accounted for.
        left: after each backward pass, the bytes that are alive beside gradients, and those that codecs hold.
    """

    losses: list[float] = field(default_factory=list)
    gradients: list[list[NDArray[Any]]] = field(default_factory=list)
    alive: list[tuple[int, int]] = field(default_factory=list)
    left: list[tuple[int, int]] = field(default_factory=list)


def _training(trial: Trial) -> Training:
    """A short training under the strategy, with a ledger of what is alive."""
    model, told, watch = _model(trial), Training(), Watch()
    # The ledger is there first: whatever is made from here on and still alive is somebody's to account for.
    with torch.enable_grad(), LiveLedger() as ledger:
        session = Session(model, watch.watched(trial.compressor), CaptureSettings())
        with session:
            for step in range(_STEPS):
                with session.step():
                    loss = _loss(model, trial, step)
                    accounted = session.saved_bytes + watch.bytes_beside_payloads() + loss.nbytes
                    told.alive.append((ledger.live_bytes, accounted))
                    loss.backward()
                    told.losses.append(loss.item())
                    del loss
                    gradients = sum(_gradient(parameter).nbytes for parameter in model.parameters())
                    told.left.append((ledger.live_bytes - gradients, watch.bytes_beside_payloads()))
                _descend(model, told)
    return told


def _plain_training(trial: Trial) -> Training:
    """The same training as autograd does it."""
    model, told = _model(trial), Training()
    with torch.enable_grad():
        for step in range(_STEPS):
            loss = _loss(model, trial, step)
            loss.backward()
            told.losses.append(loss.item())
            _descend(model, told)
    return told


def _model(trial: Trial) -> Recursive:
    """The model with weights that are the same every time; torch's global generator is left as it was."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        model = Recursive()
    model.to_empty(device=trial.device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    return model


def _loss(model: nn.Module, trial: Trial, step: int) -> Tensor:
    """The loss of one batch, which nobody holds but autograd."""
    loss: Tensor = model(trial.rows(500 + step, _EXAMPLES * _LENGTH, width=_WIDTH).view(_EXAMPLES, _LENGTH, _WIDTH))
    return (loss - 1).square().mean()


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise Violation("a parameter has no gradient after the backward pass")
    return parameter.grad


def _descend(model: nn.Module, told: Training) -> None:
    """One step of gradient descent; the gradients are noted, and freed.

    Its length does not depend on theirs: a rough strategy must not make the training diverge.
    """
    told.gradients.append([_gradient(parameter).cpu().numpy().copy() for parameter in model.parameters()])
    with torch.no_grad():
        for parameter in model.parameters():
            gradient = _gradient(parameter)
            parameter.sub_(gradient * (0.01 * parameter.norm() / gradient.norm().clamp(min=1e-30)))
            parameter.grad = None


@conformance(*_TRAINABLE, exact_is_exact)
def gradients_are_sound(trial: Trial) -> None:
    """A recursive model trains with finite gradients, and with exact = True as without the strategy, bit for bit."""
    told = trial.once(_training)
    if not all(np.isfinite(gradient).all() for gradients in told.gradients for gradient in gradients):
        raise Violation("a gradient of a recursive model is not finite")
    if trial.compressor.exact:
        plain = _plain_training(trial)
        same = all(
            np.array_equal(one, other)
            for ones, others in zip(plain.gradients, told.gradients, strict=True)
            for one, other in zip(ones, others, strict=True)
        )
        if plain.losses != told.losses or not same:
            raise Violation("exact = True, and a recursive model gets other gradients than without the strategy")


@conformance(*_TRAINABLE)
def saved_bytes_are_alive(trial: Trial) -> None:
    """The bytes that are alive after a forward pass are those that the session reports, and the codecs' state."""
    for step, (alive, accounted) in enumerate(trial.once(_training).alive):
        if alive != accounted:
            raise Violation(
                f"after the forward pass of step {step}, {alive} bytes are alive and {accounted} are declared: "
                "something is kept that neither a payload nor a codec declares, or declared and not kept"
            )


@conformance(*_TRAINABLE)
def nothing_is_left(trial: Trial) -> None:
    """After the backward pass nothing is alive but gradients and the codecs' state."""
    for step, (alive, accounted) in enumerate(trial.once(_training).left):
        if alive != accounted:
            raise Violation(
                f"after the backward pass of step {step}, {alive} bytes are alive beside gradients, "
                f"and codecs declare {accounted}"
            )


@conformance()
def wrap_is_undone(trial: Trial) -> None:
    """What wrap() changes in a model is undone when the session ends."""
    if all(type(member).wrap is Compressor.wrap for member in trial.members):
        raise NotApplicable("wrap() changes nothing")
    model = _model(trial)
    before = _structure(model)
    with trial.compressor.wrap(model):
        pass
    changed = [path for path, parts in _structure(model).items() if parts != before.get(path)]
    if changed:
        part = f"module '{changed[0]}'" if changed[0] else "the model"
        raise Violation(f"wrap() leaves {part} other than it was")


def _structure(model: nn.Module) -> dict[str, tuple[object, ...]]:
    """Each module's path, class, attributes and hooks, by identity."""
    return {
        path: (
            id(module),
            type(module),
            {name: id(value) for name, value in vars(module).items() if not isinstance(value, dict)},
            {name: [id(v) for v in value.values()] for name, value in vars(module).items() if isinstance(value, dict)},
        )
        for path, module in model.named_modules()
    }


MODELS = (gradients_are_sound, saved_bytes_are_alive, nothing_is_left, wrap_is_undone)
"""All properties of trainings, in the order in which they are told."""
