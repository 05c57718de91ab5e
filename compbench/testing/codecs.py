"""What codecs must hold to: nothing hidden, nothing shared with the model's random numbers, nothing that piles up."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from compbench.capture.honesty import Held, undeclared_by_codec
from compbench.compressor import Codec
from compbench.readings import read_together
from compbench.testing.payloads import comes_back
from compbench.testing.trial import FEW, Trial, Violation, conformance, same_bits

_LONG_RUN = 1000
"""Steps of the run in which nothing may pile up."""

_SMALL_WIDTH = 32
_SMALL_ROWS = 8

_SLACK_BYTES = 512
"""That the second half of a long run may add: a list that grows by one number every other step adds more."""


@conformance()
def state_is_declared(trial: Trial) -> None:
    """state() declares every tensor that the codec holds, within a step and between steps."""
    codec = trial.codec()
    _all_declared(codec, "when it was just made")
    for step in range(trial.warm_steps + 1):
        for call in range(2):
            codec.encode(trial.rows(100 * step + call))
            _all_declared(codec, f"within step {step}")
        codec.end_step()
        _all_declared(codec, f"after step {step}")
    codec.encode(trial.rows(0))
    codec.discard_step()
    _all_declared(codec, "after a discarded step")


def _all_declared(codec: Codec, when: str) -> None:
    hidden = undeclared_by_codec(codec)
    if hidden:
        raise Violation(f"{hidden} ({when})")


@conformance()
def random_states_are_untouched(trial: Trial) -> None:
    """The global random states of torch, NumPy and Python are left alone."""
    before = _random_states(trial)
    codec = trial.codec()
    for step in range(trial.warm_steps + 1):
        for payload in trial.step(codec, step):
            payload.decode()
    codec.encode(trial.rows(0))
    codec.discard_step()
    codec.statistics()
    changed = [name for name, state in _random_states(trial).items() if state != before[name]]
    if changed:
        raise Violation(
            f"the global random state of {' and '.join(changed)} is changed: dropout would differ from other "
            "strategies' (allowed: draws from the generator that codec() is given)"
        )


def _random_states(trial: Trial) -> dict[str, Any]:
    name, keys, *rest = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": (name, np.asarray(keys).tobytes(), rest),
        "Python": random.getstate(),
    }
    if trial.device.type == "cuda":
        states["torch on CUDA"] = torch.cuda.get_rng_state(trial.device).numpy().tobytes()
    return states


def _transcript(
    trial: Trial, codec: Codec, first: int, last: int, end: Callable[[Codec], None] = lambda codec: codec.end_step()
) -> list[Any]:
    """What the payloads of some steps decode to, and the figures after each step."""
    told: list[Any] = []
    for step in range(first, last):
        payloads = [codec.encode(trial.rows(100 * step + call)) for call in range(2)]
        told += [payload.decode().clone() for payload in payloads]
        end(codec)
        told.append(dict(codec.statistics()))
    return told


def _difference(one: list[Any], other: list[Any]) -> str:
    """Where two transcripts part, in words; empty if they don't."""
    for a, b in zip(one, other, strict=True):
        if isinstance(a, Tensor):
            if not same_bits(a, b):
                return "rows decode to something else"
        elif {key: str(value) for key, value in a.items()} != {key: str(value) for key, value in b.items()}:
            return f"statistics() is {b} instead of {a}"
    return ""


@conformance(comes_back)
def same_seed_same_payloads(trial: Trial) -> None:
    """Two codecs with the same seed and the same rows give the same payloads and statistics."""
    steps = trial.warm_steps + 1
    one, other = (_transcript(trial, trial.codec(), 0, steps) for _ in range(2))
    difference = _difference(one, other)
    if difference:
        raise Violation(f"with the same seed and rows, {difference}: random numbers come from elsewhere")


@conformance(same_seed_same_payloads)
def discarded_steps_leave_no_trace(trial: Trial) -> None:
    """A step that is discarded leaves no trace in payloads and statistics."""
    plain, (probed, streams) = trial.codec(), trial.codec_and_streams()
    for step in range(trial.warm_steps + 2):
        # As a probe does, which puts the generators back by itself.
        states = [(stream, stream.get_state()) for stream in streams()]
        for call in range(3):
            probed.encode(5 * trial.rows(9000 + 10 * step + call))
        probed.discard_step()
        for stream, state in states:
            stream.set_state(state)
        expected, found = (_transcript(trial, codec, step, step + 1) for codec in (plain, probed))
        difference = _difference(expected, found)
        if difference:
            raise Violation(f"after a discarded step, {difference}: discard_step() must forget what the step gathered")


@conformance(comes_back)
def recovers_from_what_is_not_finite(trial: Trial) -> None:
    """Rows that are not finite spoil no later step."""
    for bad in (math.nan, math.inf):
        for when, codec in trial.cold_and_warm():
            rows = trial.rows(3)
            rows[7, 2] = bad
            codec.encode(rows)
            codec.encode(trial.rows(4))
            codec.end_step()
            for step in range(trial.warm_steps):
                trial.step(codec, 10 + step)
            if not codec.encode(trial.rows(9)).decode().isfinite().all():
                raise Violation(
                    f"a step with {bad} {when} spoils later ones: after {trial.warm_steps} steps without, ordinary "
                    "rows still decode to NaN or infinity"
                )


class _NoCopies(TorchFunctionMode):
    """Refuses what copies to the host; fake tensors refuse what reads values, and take a copy for a tensor."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("cpu", "numpy", "tolist") or (name == "to" and "cpu" in [*args[1:], *(kwargs or {}).values()]):
            raise Violation(f"Tensor.{name}() copies to the host")
        return func(*args, **(kwargs or {}))


@conformance(comes_back)
def never_waits_for_the_device(trial: Trial) -> None:
    """encode() and all that payloads do never read a value on the host: no .item(), no .cpu(), no branch on values."""
    for when, codec in trial.cold_and_warm():
        doing = "encode"
        try:
            # A fake tensor has no values: reading one raises.
            with FakeTensorMode(allow_non_fake_inputs=True), _NoCopies():
                for _ in range(3):
                    doing = "encode"
                    payload = codec.encode(torch.empty(FEW, trial.site.width, device=trial.device))
                    doing = "decode"
                    payload.decode()
                    doing = "weight_gradient"
                    payload.weight_gradient(torch.empty(FEW, 5, device=trial.device))
                    doing = "factors"
                    payload.factors()
                    doing = "coefficients"
                    coefficients = payload.coefficients()
                    if coefficients is not None:
                        doing = "with_coefficients"
                        payload.with_coefficients(None).with_coefficients(coefficients).decode()
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise Violation(
                f"{doing}() needs a value on the host {when} ({reason}): "
                "decide in end_step(), and keep to torch's operators"
            ) from error


@conformance(same_seed_same_payloads)
def readings_are_true(trial: Trial) -> None:
    """end_step() decides the same when the values of readings() come to it with those of other sites."""
    other = trial.codec()

    def end_with_another(codec: Codec) -> None:
        for call in range(3):
            other.encode(5 * trial.rows(7000 + call))
        with read_together([("", other), ("", codec), ("", trial.codec())]):
            codec.end_step()
            other.end_step()

    steps = trial.warm_steps + 2
    expected = _transcript(trial, trial.codec(), 0, steps)
    found = _transcript(trial, trial.codec(), 0, steps, end_with_another)
    difference = _difference(expected, found)
    if difference:
        raise Violation(
            f"when readings() was read beforehand, {difference}: readings() must change nothing, and end_step() "
            "call read() before it changes what readings() looks at"
        )


@conformance()
def nothing_piles_up(trial: Trial) -> None:
    """What a codec holds is bounded: it does not grow over 1,000 steps."""
    codec = trial.codec(_SMALL_WIDTH)
    rows = [trial.rows(seed, _SMALL_ROWS, width=_SMALL_WIDTH) for seed in range(7)]
    sizes = []
    for half in range(2):
        for step in range(half * _LONG_RUN // 2, (half + 1) * _LONG_RUN // 2):
            codec.encode(rows[step % len(rows)])
            codec.end_step()
        held = Held(codec)
        sizes.append((held.tensor_bytes, held.opaque_bytes + held.object_bytes))
    for kind, before, after in zip(("in tensors", "outside tensors"), *sizes, strict=True):
        if after > before + _SLACK_BYTES:
            raise Violation(
                f"the codec holds {before} bytes {kind} after {_LONG_RUN // 2} steps and {after} after {_LONG_RUN}"
            )


@conformance(same_seed_same_payloads)
def can_be_saved_and_loaded(trial: Trial) -> None:
    """A codec that is saved, and loaded into a new one, goes on bit-identically."""
    for steps in range(trial.warm_steps + 2):
        codec, loaded = trial.codec(), trial.codec()
        _transcript(trial, codec, 0, steps)
        file = io.BytesIO()
        torch.save(codec.state_dict(), file)
        file.seek(0)
        try:
            state = torch.load(file, weights_only=True)
        except Exception as error:
            raise Violation(
                f"torch.load(weights_only=True) refuses what state_dict() gave after {steps} steps: "
                f"{str(error).splitlines()[0]}"
            ) from error
        loaded.load_state_dict(state)
        expected, found = (_transcript(trial, each, steps, steps + 2) for each in (codec, loaded))
        difference = _difference(expected, found)
        if difference:
            raise Violation(f"loaded after {steps} steps into a new codec, {difference}")


@conformance()
def statistics_are_numbers(trial: Trial) -> None:
    """statistics() gives int and float by name."""
    for when, codec in trial.cold_and_warm():
        for name, value in codec.statistics().items():
            if not isinstance(name, str) or not isinstance(value, (int, float)) or isinstance(value, bool):
                raise Violation(f"statistics() has {name!r}: a {type(value).__name__} {when} (allowed: int or float)")


CODECS = (
    state_is_declared,
    random_states_are_untouched,
    same_seed_same_payloads,
    discarded_steps_leave_no_trace,
    recovers_from_what_is_not_finite,
    never_waits_for_the_device,
    readings_are_true,
    nothing_piles_up,
    can_be_saved_and_loaded,
    statistics_are_numbers,
)
"""All properties of codecs, in the order in which they are told."""
