"""Theorem 1 of the LASER paper (arXiv 2604.17224, A.2), measured at the operators that save a site's rows.

The theorem: with the Jacobian ``J(a)`` of what follows an activation ``a``, the gradient ``g = J(a)^T lambda`` and that
at a rebuilt activation, ``J(a')^T lambda``, differ by at most ``L_J |lambda| |a' - a|``. In the backward pass that is
what happens at each operator that saved ``a``: it gets the gradient of its output, ``lambda``, and works with ``a'``.
The passes here are exact, so that ``lambda`` is, and show at every operator what it would give with other rows.

``L_J`` in closed form, for one row ``a``:

- linear layers: 0, their Jacobian does not depend on ``a``. Their weight's gradient does, and is no part of the
  theorem.
- ``a * b``: 1, as ``|lambda * (a' - a)| <= |lambda| max|a' - a|``; ``sqrt(2)`` for ``a * a``.
- elementwise functions: the largest magnitude of their second derivative. ``silu``: 1/2, ``gelu``: ``sqrt(2 / pi)``,
  both at 0.
- ``rms_norm`` without weight, ``sqrt(D) a / |a|`` up to its epsilon: ``2 / sqrt(3) sqrt(D) / r^2`` where ``|a| >= r``
  on the whole way from ``a`` to ``a'``. For the derivative of ``I - u u^T`` along ``v = x u + y p`` is, in the plane of
  ``u`` and ``p``, ``-[[0, y], [y, x]]``, with the largest norm ``2 / sqrt(3)`` at ``x^2 = 1/3``. An epsilon makes it
  smaller.

For others the largest ratio that was seen stands in for ``L_J``: a lower bound of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import PrivateAttr
from torch import Tensor

from compbench.capture import CaptureSettings, Session
from compbench.capture.observing import OperatorGradients
from compbench.compressor import Codec, Compressor, Dense, Payload, Site
from compbench.measure.step import Step
from compbench.records import Batch

Constant = Literal["zero", "proved", "estimated"]
Unit = Literal["row", "call"]

_SECOND_DERIVATIVES = {"silu": 0.5, "gelu": math.sqrt(2 / math.pi)}
_PRODUCTS = frozenset({"mul", "__mul__", "__rmul__", "multiply"})
_LINEAR = frozenset({"linear"})
_ROUNDING = 1e-5
"""Of a gradient's own size: what differs by less is rounding."""


@dataclass
class AtOperator:
    """What one operator's gradients are with a site's rows and with their projections, over all calls.

    Attributes:
        constant: How ``L_J`` is known.
        unit: What one vector ``a`` of the theorem is.
        errors: ``|g' - g|`` of each unit.
        lengths: ``|lambda| |a' - a|`` of each unit.
        constants: ``L_J`` of each unit where it is proved; else empty.
        gradients: ``|g|`` of each unit.
        ratios: The largest error over its length, of projected and of randomly perturbed rows.
    """

    constant: Constant
    unit: Unit
    errors: list[Tensor] = field(default_factory=list)
    lengths: list[Tensor] = field(default_factory=list)
    constants: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    inner: float = 0.0
    energy: float = 0.0
    rebuilt_energy: float = 0.0
    error_energy: float = 0.0
    ratios: float = 0.0
    weight: list[Tensor] = field(default_factory=list)
    rebuilt_weight: list[Tensor] = field(default_factory=list)


Found = dict[str, dict[str, AtOperator]]
"""By site and operator."""


def measure(step: Step, settings: CaptureSettings, batch: Batch, bases: dict[str, Tensor]) -> tuple[Found, set[str]]:
    """Runs an exact pass and compares, at each operator, the gradients with rows and with their projections.

    Args:
        step: The model, which is as it was afterwards, as is torch's global generator.
        settings: What is compressed; their routes are always ``hooks``.
        batch: The examples.
        bases: Of the sites that are projected, ``(D, k)`` with orthonormal columns.

    Returns:
        What was found, and the names of those sites whose error is propagating.
    """
    measuring = _Measuring()
    measuring._bases = bases
    everything = settings.model_copy(update={"routes": "hooks", "sites": ()})
    devices = [step.device] if step.device.type == "cuda" else []
    with torch.random.fork_rng(devices), Session(step.model, measuring, everything) as session:
        with session.step():
            step.loss(batch).backward()
        propagating = {report.name for report in session.sites() if report.propagating and not report.reason}
    step.clear_gradients()
    return measuring._found, propagating


class _Measuring(Compressor):
    """Keeps rows as they are, and asks every operator what it would give with others."""

    name: ClassVar[str] = "measuring"
    _bases: dict[str, Tensor] = PrivateAttr(default_factory=dict)
    _found: Found = PrivateAttr(default_factory=dict)

    def codec(self, site: Site, generator: torch.Generator) -> Codec:
        """One that measures, where there is a basis; else one that keeps rows as they are."""
        Q = self._bases.get(site.name)
        return _Keeping() if Q is None else _MeasuringCodec(Q, generator, self._found.setdefault(site.name, {}))


class _Keeping(Codec):
    def encode(self, rows: Tensor) -> Payload:
        """The rows."""
        return Dense(rows)


class _MeasuringCodec(_Keeping):
    watches_operators: ClassVar[bool] = True

    def __init__(self, Q: Tensor, generator: torch.Generator, found: dict[str, AtOperator]) -> None:
        self.Q = Q
        self.found = found
        self._generator = generator

    def state(self) -> list[Tensor]:
        """The basis, and what was measured."""
        lists = [
            each
            for at in self.found.values()
            for each in (at.errors, at.lengths, at.constants, at.gradients, at.weight, at.rebuilt_weight)
        ]
        return [self.Q, *(tensor for each in lists for tensor in each)]

    def observe_operator(self, payload: Payload, gradients_with: object) -> None:
        """Compares one operator's gradients."""
        if not isinstance(gradients_with, OperatorGradients):
            raise TypeError("operators are observed by compbench's own sessions alone")
        X = payload.decode()
        Q = self.Q.to(X.dtype)
        projected = (X @ Q) @ Q.T
        residual = (projected - X).norm(dim=1, keepdim=True)
        direction = torch.randn(X.shape, generator=self._generator, device=X.device, dtype=X.dtype)
        perturbed = X + direction * (residual / direction.norm(dim=1, keepdim=True).clamp(min=1e-30))
        compare(gradients_with, X, projected, perturbed, self.found)


def compare(
    gradients_with: OperatorGradients, X: Tensor, projected: Tensor, perturbed: Tensor, found: dict[str, AtOperator]
) -> None:
    """Adds what one call of an operator gives to what is known of it.

    Args:
        gradients_with: The operator.
        X: Its rows, ``(N, D)``.
        projected: What is rebuilt of them.
        perturbed: Other rows near them, for the constant alone.
        found: By the operator's name.
    """
    exact, rebuilt = gradients_with(X), gradients_with(projected)
    at = found.get(gradients_with.name)
    if at is None:
        unit: Unit = "row" if works_by_row(gradients_with, X, projected, exact) else "call"
        at = found[gradients_with.name] = AtOperator(_kind(gradients_with, unit), unit)
    weights = gradients_with.weights
    _add_weights(at, [(a, b) for a, b, is_weight in zip(exact, rebuilt, weights, strict=True) if is_weight])
    g, g_rebuilt, g_perturbed = (
        _as_units([a for a, is_weight in zip(gradients, weights, strict=True) if not is_weight], at.unit, len(X))
        for gradients in (exact, rebuilt, gradients_with(perturbed))
    )
    if g is None or g_rebuilt is None or g_perturbed is None:
        return  # an operator of which no activation takes a gradient
    output = _as_units([gradients_with.output_gradient], at.unit, len(X))
    rows = [_as_units([other - X], at.unit, len(X)) for other in (projected, perturbed)]
    if output is None or rows[0] is None or rows[1] is None:
        return
    error, length = (g_rebuilt - g).norm(dim=1), output.norm(dim=1) * rows[0].norm(dim=1)
    at.errors.append(error)
    at.lengths.append(length)
    at.gradients.append(g.norm(dim=1))
    if at.constant == "proved":
        at.constants.append(_constants(gradients_with.name, X, projected, exact))
    at.inner += float((g * g_rebuilt).sum())
    at.energy += float(g.square().sum())
    at.rebuilt_energy += float(g_rebuilt.square().sum())
    at.error_energy += float(error.square().sum())
    other = output.norm(dim=1) * rows[1].norm(dim=1)
    for above, below in ((error, length), ((g_perturbed - g).norm(dim=1), other)):
        sure = (below > 0) & (above > _ROUNDING * g.norm(dim=1))  # ratios of rounding errors say nothing
        if bool(sure.any()):
            at.ratios = max(at.ratios, float((above[sure] / below[sure]).max()))


def works_by_row(gradients_with: OperatorGradients, X: Tensor, other: Tensor, exact: tuple[Tensor, ...]) -> bool:
    """Whether an operator's gradients at a row depend on that row alone: half of the rows are changed to see."""
    output = gradients_with.output_gradient
    activations = [g for g, is_weight in zip(exact, gradients_with.weights, strict=True) if not is_weight]
    N = len(X)
    if output.dim() < 2 or output.shape[:-1].numel() != N:
        return False
    if any(g.shape[:-1] != output.shape[:-1] for g in activations):
        return False
    changed = torch.arange(N, device=X.device) % 2 == 0
    mixed = gradients_with(torch.where(changed[:, None], other, X))
    after = [g for g, is_weight in zip(mixed, gradients_with.weights, strict=True) if not is_weight]
    pairs = zip(activations, after, strict=True)
    return all(torch.equal(a.reshape(N, -1)[~changed], b.reshape(N, -1)[~changed]) for a, b in pairs)


def rms_norm_constant(X: Tensor, other: Tensor) -> Tensor:
    """``L_J`` of ``rms_norm`` on the way from each row to another one, ``(N,)``."""
    a, way = X.double(), (other - X).double()
    along = (-(a * way).sum(1) / way.square().sum(1).clamp(min=1e-300)).clamp(0, 1)  # where the way is nearest to 0
    nearest = (a + along[:, None] * way).square().sum(1)
    return 2 / math.sqrt(3) * math.sqrt(X.shape[1]) / nearest.clamp(min=1e-300)


def _kind(gradients_with: OperatorGradients, unit: Unit) -> Constant:
    name = gradients_with.name
    if name in _LINEAR:
        return "zero"
    if unit == "call":
        return "estimated"
    if name in _SECOND_DERIVATIVES or name in _PRODUCTS:
        return "proved"
    return "proved" if name == "rms_norm" and not any(gradients_with.weights) else "estimated"


def _constants(name: str, X: Tensor, projected: Tensor, exact: tuple[Tensor, ...]) -> Tensor:
    """``L_J`` for each row, ``(N,)``."""
    if name == "rms_norm":
        return rms_norm_constant(X, projected)
    if name in _SECOND_DERIVATIVES:
        constant = _SECOND_DERIVATIVES[name]
    else:
        squared = len(exact) == 2 and exact[0].shape == exact[1].shape and torch.equal(exact[0], exact[1])
        constant = math.sqrt(2) if squared else 1.0
    return torch.full((len(X),), constant, dtype=torch.float64, device=X.device)


def _as_units(tensors: list[Tensor], unit: Unit, rows: int) -> Tensor | None:
    """Tensors side by side as vectors, ``(units, numbers)`` in float64; None for none."""
    if not tensors:
        return None
    count = rows if unit == "row" else 1
    return torch.cat([tensor.double().reshape(count, -1) for tensor in tensors], dim=1)


def _add_weights(at: AtOperator, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Sums weights' gradients over calls, as a tied weight does."""
    for place, (exact, rebuilt) in enumerate(pairs):
        if place == len(at.weight):
            at.weight.append(torch.zeros_like(exact, dtype=torch.float64))
            at.rebuilt_weight.append(torch.zeros_like(exact, dtype=torch.float64))
        at.weight[place] += exact
        at.rebuilt_weight[place] += rebuilt
