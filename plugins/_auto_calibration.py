"""Trials of ``auto``: what every candidate would do to the gradients, measured in one step at one site.

The rows are kept in that step. Candidates that learn are taught by the rows of a few calls when the backward pass
begins, and all are then looked at twice: how far are the rows that they rebuild from the rows (which leaves out
those that keep more than another and are much farther off), and what becomes of the gradients.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from compbench import ChainCodec, ChainPayload, Codec, Compressor, Dense, Payload

_CLEARLY_WORSE = 2.0
"""By what factor the squared error of rows must be larger than that of a candidate of another kind for one to be left
out: errors of rounding cancel in gradients and those of a basis do not, so that a little more may be better."""

_LESSONS = 8
"""Calls whose rows teach the candidates, at most: a basis for all calls of a recursion has to have seen many."""
_PAIR = 2
"""Members of a chain of which the first is shared."""

_Key = tuple[torch.Size, int]
"""Of a weight: its shape, and which of this shape it is among those that a call's rows, or what comes of them, meet.

Calls of a module need not meet the same operators: the last one's output goes into the model's head.
"""

_T = TypeVar("_T")


class Kept(Dense):
    """The rows of a call in the calibration step.

    Args:
        rows: ``(N, D)``.
        call: which call of the step it is, from 0.
    """

    def __init__(self, rows: Tensor, call: int) -> None:
        super().__init__(rows)
        self.call = call
        self.met: Counter[torch.Size] = Counter()  # weights so far, by shape
        self.tried: dict[int, Payload] = {}  # what candidates make of the rows
        self.firsts: dict[str, Payload] = {}  # and what those first members of chains do that several have


class Trial:
    """One candidate on trial at one site.

    Args:
        number: which of the candidates it is; -1 for keeping the rows.
        label: the candidate in words.
        strategy: the candidate for the site's width; None for keeping the rows.
        codec: its codec; None where the rows are kept.
        generator: the codec's generator.
        kind: of errors with the same kind those of gradients are taken to be ordered as those of rows are.
        shared: says of a chain what learns in it; trials with the same are taught together.
    """

    def __init__(
        self,
        number: int,
        label: str,
        strategy: Compressor | None = None,
        codec: Codec | None = None,
        generator: torch.Generator | None = None,
        kind: str = "",
        shared: str = "",
    ) -> None:
        self.number = number
        self.label = label
        self.strategy = strategy
        self.codec = codec
        self.generator = generator
        self.kind = kind
        self.shared = shared
        self.kept_bytes = 0
        self.measured = False
        self.rows_error: Tensor | None = None
        self._changes: dict[_Key, Sums] = {}  # of weights' gradients
        self._relative: Tensor | None = None  # squared relative errors of activations' gradients, weighted by calls
        self.figures: dict[_Key, float] = {}
        self.relative = 0.0

    def payload(self, kept: Kept) -> Payload:
        """What the candidate makes of a call's rows; always the same for all operators that saved them."""
        assert self.codec is not None  # noqa: S101 - asked by the caller
        if self.number not in kept.tried:
            kept.tried[self.number] = self._encode(self.codec, kept)
        return kept.tried[self.number]

    def _encode(self, codec: Codec, kept: Kept) -> Payload:
        if not self.shared or not isinstance(codec, ChainCodec) or len(codec.links) != _PAIR:
            return codec.encode(kept.decode())
        first, second = codec.links
        if self.shared not in kept.firsts:
            (own,) = first.current
            kept.firsts[self.shared] = own.encode(kept.decode())
        payload = kept.firsts[self.shared]
        coefficients = payload.coefficients()
        further = None if coefficients is None else second.codec(coefficients.shape[1])
        if coefficients is None or further is None:
            return payload
        return ChainPayload([payload.with_coefficients(None)], further.encode(coefficients))

    def add_weight(self, key: _Key, change: Tensor) -> None:
        """Adds the change of a weight's gradient at one call."""
        _get(self._changes, key, Sums).add(change)

    def add_activations(self, error: Tensor) -> None:
        """Adds a squared relative error of activations' gradients."""
        self._relative = error if self._relative is None else self._relative + error

    def read(self, measured: int, calls: int) -> None:
        """Reads what was gathered at so many of a step's calls, and lets go of it."""
        self.figures = {key: change.energy(calls, measured) for key, change in self._changes.items()}
        self.relative = 0.0 if self._relative is None else float(self._relative) / measured
        self._changes, self._relative, self.rows_error = {}, None, None

    def cost(self, total: float) -> float:
        """The squared error in units of the whole gradient, whose squared norm is ``total``."""
        weights = math.fsum(self.figures.values())
        return self.relative + (weights / total if weights else 0.0)

    def tensors(self) -> list[Tensor]:
        """All tensors that it holds."""
        held = [tensor for change in self._changes.values() for tensor in change.tensors()]
        held += [tensor for tensor in (self._relative, self.rows_error) if tensor is not None]
        return held + ([] if self.codec is None else list(self.codec.state()))


class Sums:
    """Tensors of some of a step's calls, of which the squared norm of the sum over all is to be estimated."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._squares: Tensor | None = None
        self._count = 0

    def add(self, tensor: Tensor) -> None:
        """Adds that of one call."""
        square = torch.linalg.vector_norm(tensor, dtype=torch.float32).square()
        self._sum = tensor if self._sum is None else self._sum + tensor
        self._squares = square if self._squares is None else self._squares + square
        self._count += 1

    def energy(self, calls: int, measured: int) -> float:
        """The squared norm of the sum over ``calls`` calls, of which ``measured`` were looked at.

        Of ``m`` tensors the sum of squares ``s`` and the square of the sum ``S`` tell the mean square, ``s / m``, and
        the mean inner product of two of them, ``(S - s) / (m (m - 1))``: 0 for rounding, as large as the mean square
        for what is alike in every call. The estimate for ``n`` calls is ``n`` times the one and ``n (n - 1)`` times the
        other.
        """
        if self._sum is None or self._squares is None:
            return 0.0
        s, S = float(self._squares), float(torch.linalg.vector_norm(self._sum, dtype=torch.float32)) ** 2
        m = self._count
        n = max(m, round(calls * m / measured))  # where not every call was taken by the operator
        if n == m:
            return S
        return n / m * s + (n * (n - 1) / (m * (m - 1)) * max(S - s, 0.0) if m > 1 else 0.0)

    def tensors(self) -> list[Tensor]:
        """All tensors that it holds."""
        return [tensor for tensor in (self._sum, self._squares) if tensor is not None]


@dataclass
class Calibration:
    """What one step gathers at one site.

    Attributes:
        trials: the candidates; fewer, once the backward pass has begun.
        most: calls at which they are tried, at most.
        calls: how many calls there were, by rows and bytes of an element.
        finite: whether all rows were.
        kept: the calls, until the candidates are taught.
        exact: gradients of weights.
        measured: calls at which candidates were tried.
    """

    trials: list[Trial]
    most: int
    calls: Counter[tuple[int, int]] = field(default_factory=Counter)
    finite: Tensor | None = None
    kept: list[Kept] = field(default_factory=list)
    exact: dict[_Key, Sums] = field(default_factory=dict)
    measured: set[int] = field(default_factory=set)
    taught: bool = False

    @property
    def encoded(self) -> int:
        """Calls so far."""
        return sum(self.calls.values())

    def keep(self, rows: Tensor) -> Kept:
        """Keeps the rows of a call."""
        kept = Kept(rows, self.encoded)
        self.calls[len(rows), rows.itemsize] += 1
        finite = rows.isfinite().all()
        self.finite = finite if self.finite is None else self.finite & finite
        if not self.taught:
            self.kept.append(kept)
        return kept

    def tries(self, kept: Kept) -> bool:
        """Whether candidates are tried at a call."""
        return is_among(kept.call, self.encoded, self.most)

    def teach(self) -> None:
        """Ends the trials' first step with the calls at which they are tried; leaves out what is clearly worse."""
        if self.taught:
            return
        self.taught = True
        lessons = [each for each in self.kept if is_among(each.call, self.encoded, max(_LESSONS, self.most))]
        kept, self.kept = [each for each in self.kept if self.tries(each)], []
        teachers: dict[str, Codec] = {}
        for trial in self.trials:
            codec = trial.codec
            if codec is None:
                continue
            teacher = teachers.get(trial.shared)
            if teacher is not None:
                _learn_from(teacher, codec)
                continue
            for each in lessons:
                codec.encode(each.decode())
            codec.end_step()
            if trial.shared:
                teachers[trial.shared] = codec
        for trial in self.trials:
            if trial.codec is not None:
                error = torch.zeros((), dtype=torch.float64, device=kept[-1].decode().device if kept else None)
                for each in kept[-1:]:  # the first for which the backward pass will try it
                    change = trial.payload(each).decode() - each.decode()
                    error = error + torch.linalg.vector_norm(change, dtype=torch.float64).square()
                trial.rows_error = error
        self.trials = self._in_question()

    def _in_question(self) -> list[Trial]:
        """The trials for which none that keeps no more rebuilds rows better; those of unknown size stay."""
        known = [
            (trial.kind, size, math.inf if trial.rows_error is None else float(trial.rows_error))
            for trial in self.trials
            if (size := self.kept_bytes(trial)) is not None
        ]

        def is_in_question(trial: Trial) -> bool:
            size = self.kept_bytes(trial)
            if size is None:
                return True
            own = math.inf if trial.rows_error is None else float(trial.rows_error)
            return not any(
                other_size <= size and (1 if kind == trial.kind else _CLEARLY_WORSE) * error < own
                for kind, other_size, error in known
            )

        return [trial for trial in self.trials if is_in_question(trial)]

    def kept_bytes(self, trial: Trial) -> int | None:
        """What a candidate keeps of all calls; None if its codec can't tell."""
        if trial.codec is None:
            return None
        sizes = [trial.codec.kept_bytes(rows, n, itemsize) for (rows, itemsize), n in self.calls.items()]
        return None if any(size is None for size in sizes) else sum(size for size in sizes if size is not None)

    def observe(self, kept: Kept, gradients_with: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        """Tries every candidate: how far would an operator's gradients be from what they are?"""
        self.teach()
        if not self.tries(kept):
            return
        rows = kept.decode()
        exact = gradients_with(rows)
        of_weights: dict[int, _Key] = {}
        for i, gradient in enumerate(exact):
            if _is_of_weight(gradient, len(rows)):
                of_weights[i] = (gradient.shape, kept.met[gradient.shape])
                kept.met[gradient.shape] += 1
                _get(self.exact, of_weights[i], Sums).add(gradient.float())
        scale = _summed_energy([gradient for i, gradient in enumerate(exact) if i not in of_weights])
        share = (kept.call + 1) / self.encoded  # of the calls, those to which an error is handed on
        self.measured.add(kept.call)
        for trial in self.trials:
            trial.measured = True
            if trial.codec is None:
                continue
            found = gradients_with(trial.payload(kept).decode())
            changes = [one.float() - other.float() for one, other in zip(found, exact, strict=True)]
            for i, key in of_weights.items():
                trial.add_weight(key, changes[i])
            if scale is not None:
                error = _summed_energy([change for i, change in enumerate(changes) if i not in of_weights])
                assert error is not None  # noqa: S101 - there are as many as in the scale
                trial.add_activations(torch.where(error == 0, 0.0, share * error / scale))

    def read(self) -> dict[_Key, float]:
        """Reads all trials; the squared norms of the gradients of the weights that a trial changes."""
        for trial in self.trials:
            trial.read(max(len(self.measured), 1), self.encoded)
            if trial.codec is not None:
                trial.codec.discard_step()  # what trying it gathered
        return {
            key: gradient.energy(self.encoded, len(self.measured))
            for key, gradient in self.exact.items()
            if any(trial.figures.get(key) for trial in self.trials)
        }

    def tensors(self) -> list[Tensor]:
        """All tensors that it holds."""
        held = [tensor for trial in self.trials for tensor in trial.tensors()]
        held += [tensor for gradient in self.exact.values() for tensor in gradient.tensors()]
        held += [tensor for kept in self.kept for tensor in kept.tensors()]
        return held if self.finite is None else [*held, self.finite]


def _learn_from(teacher: Codec, pupil: Codec) -> None:
    """Gives the first codec of a chain what that of another chain has learnt; the others learn nothing."""
    assert isinstance(teacher, ChainCodec)  # noqa: S101 - nothing else is shared
    assert isinstance(pupil, ChainCodec)  # noqa: S101
    for own, known in zip(pupil.links[0].current, teacher.links[0].current, strict=True):
        own.load_state_dict(copy.deepcopy(dict(known.state_dict())))


def is_among(call: int, calls: int, most: int) -> bool:
    """Whether a call is one of at most ``most`` that are spread evenly over all."""
    return calls <= most or any((2 * i + 1) * calls // (2 * most) == call for i in range(most))


def _is_of_weight(gradient: Tensor, rows: int) -> bool:
    """Whether a gradient is that of a weight, by its shape: an activation's has as many elements for each row."""
    return gradient.dim() < 2 or gradient.numel() % rows != 0 or (gradient.dim() == 2 and len(gradient) != rows)


def _summed_energy(gradients: Sequence[Tensor]) -> Tensor | None:
    """The squared norm of the sums over rows of all tensors, as a scalar on the device; None if there are none."""
    sums = [gradient.reshape(-1, gradient.shape[-1]).sum(dim=0, dtype=torch.float64) for gradient in gradients]
    return torch.stack([torch.linalg.vector_norm(each).square() for each in sums]).sum() if sums else None


def _get(known: dict[_Key, _T], key: _Key, make: Callable[[], _T]) -> _T:
    if key not in known:
        known[key] = make()
    return known[key]
