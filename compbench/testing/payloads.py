"""What payloads must hold to: they come back as they went in, keep what they declare, and let go of the rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from compbench.capture.honesty import Held, undeclared_by_payload
from compbench.compressor import Codec, Payload
from compbench.testing.trial import (
    CALLS,
    DTYPES,
    FEW,
    MANY,
    NotApplicable,
    Trial,
    Violation,
    conformance,
    of_dtype,
    same_bits,
    unique_bytes,
)

_SMALL_OBJECTS = 4096
"""Bytes of Python objects that a payload may keep without declaring them: settings, shapes, the payload itself."""

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2, torch.float64: 1e-10}
"""Of a weight gradient, relative to the one by decoding: both are rounded in that type, in another order."""


@conformance()
def comes_back(trial: Trial) -> None:
    """Rows come back in the shape, dtype and device they came in."""
    for dtype in DTYPES:
        codec = trial.codec()
        for step in range(trial.warm_steps + 1):
            for number in (FEW, 1, 7):
                rows = trial.rows(step, number, dtype)
                decoded = codec.encode(rows).decode()
                if (decoded.shape, decoded.dtype, decoded.device) != (rows.shape, rows.dtype, rows.device):
                    raise Violation(f"{_rows(rows)} decode to {_rows(decoded)}")
            codec.end_step()


@conformance(comes_back)
def rows_are_not_changed(trial: Trial) -> None:
    """The rows that are encoded are only read."""
    for when, codec in trial.cold_and_warm():
        rows = trial.rows(0)
        before = rows.clone()
        payload = codec.encode(rows)
        if not same_bits(rows, before):
            raise Violation(f"encode() writes into the rows {when}; the model is still using them")
        payload.decode()
        if not same_bits(rows, before):
            raise Violation(f"decode() writes into the rows {when}; the model may still be using them")


@conformance(comes_back)
def payloads_are_independent(trial: Trial) -> None:
    """Each of 25 payloads decodes to what it encoded, every time, also in later steps."""
    codec = trial.codec()
    kept: list[tuple[str, Payload, Tensor]] = []
    for step in range(trial.warm_steps + 2):
        rows = [trial.rows(1000 * step + call) for call in range(CALLS)]
        for call, X in enumerate(rows):
            payload = codec.encode(X)
            kept.append((f"call {call} of step {step}", payload, payload.decode().clone()))
        _decode_again(kept[-CALLS:], "at the end of the step")
        _nearest_to_its_own(rows, [decoded for _, _, decoded in kept[-CALLS:]])
        if step == trial.warm_steps:
            codec.discard_step()
        else:
            codec.end_step()
        _decode_again(kept[-CALLS:], "after the step")
    _decode_again(kept, "some steps later")


def _decode_again(kept: list[tuple[str, Payload, Tensor]], when: str) -> None:
    for which, payload, before in kept:
        if not same_bits(payload.decode(), before):
            raise Violation(
                f"the payload of {which} decodes to something else {when} than at once: "
                "it must hold all that it needs, and nothing that a later call changes"
            )


def _nearest_to_its_own(rows: list[Tensor], decoded: list[Tensor]) -> None:
    """Says so where a payload gives back the rows of another call; how near it comes to its own is not judged."""
    X, Y = (torch.stack([M.flatten().double() for M in Ms]) for Ms in (rows, decoded))
    cosines = torch.nan_to_num((Y @ X.T) / (Y.norm(dim=1, keepdim=True) * X.norm(dim=1)))
    advantage = cosines - cosines.diagonal().unsqueeze(1)
    if advantage.max() > 0.25:
        call, other = divmod(int(advantage.argmax()), len(rows))
        raise Violation(f"the payload of call {call} decodes to the rows of call {other}, not to its own")


@conformance()
def keeps_what_it_declares(trial: Trial) -> None:
    """A payload's tensors() and opaque_bytes() declare every byte that it keeps."""
    for when, codec in trial.cold_and_warm():
        for call in range(3):
            payload = codec.encode(trial.rows(call, MANY))
            variants = [payload]
            if payload.coefficients() is not None:
                variants += [payload.with_coefficients(None), payload.with_coefficients(payload.coefficients())]
            for variant in variants:
                hidden = undeclared_by_payload(variant) or _undeclared_objects(variant)
                if hidden:
                    raise Violation(f"{hidden} ({when})")


def _undeclared_objects(payload: Payload) -> str:
    held = Held(payload)
    spare = payload.opaque_bytes() - held.opaque_bytes
    if held.object_bytes <= _SMALL_OBJECTS + spare:
        return ""
    return (
        f"the payload keeps {held.object_bytes} bytes in Python's own objects and declares {max(spare, 0)} for them; "
        f"more than {_SMALL_OBJECTS} must be counted by opaque_bytes()"
    )


@conformance(comes_back)
def rows_are_freed(trial: Trial) -> None:
    """Once a strategy is warm, payloads do not hold the memory of the rows (unless it is exact)."""
    if trial.compressor.exact:
        raise NotApplicable("exact = True: it may keep the rows themselves")
    codec = trial.warm()
    for call in range(2):
        rows = trial.rows(50 + call, MANY)
        kept = codec.kept_bytes(MANY, 2, rows.itemsize)
        if kept is not None and kept >= 2 * rows.nbytes:
            raise NotApplicable("kept_bytes() says that nothing would be saved, and such a site is left raw")
        payload = codec.encode(rows)
        decoded = payload.decode().clone()
        storage = StorageWeakRef(rows.untyped_storage())
        rows.fill_(7.0)
        if not same_bits(payload.decode(), decoded):
            raise Violation(
                "decode() gives other rows once the memory of those that were encoded is used again: "
                "keep what is computed from the rows, or a copy (a strategy that keeps rows sets exact = True)"
            )
        del rows
        if not storage.expired():
            raise Violation(
                "the memory of the rows is still held after encode(), so that nothing is saved: "
                "keep what is computed from the rows, or a copy (a strategy that keeps rows sets exact = True)"
            )


@conformance()
def kept_bytes_are_true(trial: Trial) -> None:
    """kept_bytes() is what the calls of a step keep once the strategy is warm, shared storages counted once."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for calls, number in ((CALLS, FEW), (2, 300)):
            codec = trial.warm(dtype)
            said = codec.kept_bytes(number, calls, dtype.itemsize)
            if said is None:
                raise NotApplicable("kept_bytes() is None: not known beforehand")
            kept = unique_bytes([codec.encode(trial.rows(call, number, dtype)) for call in range(calls)])
            if said != kept:
                raise Violation(
                    f"kept_bytes({number}, {calls}, {dtype.itemsize}) is {said!r}, and {calls} calls of {number} rows "
                    f"in {of_dtype(dtype)} keep {kept} bytes"
                )


@conformance(comes_back)
def weight_gradient_is_true(trial: Trial) -> None:
    """weight_gradient() is the one by decoding, up to rounding."""
    for dtype in DTYPES:
        for when, codec in trial.cold_and_warm(dtype):
            payload = codec.encode(trial.rows(3, 64, dtype))
            grad_output = torch.randn(64, 5, generator=torch.Generator().manual_seed(1)).to(trial.device, dtype)
            expected = grad_output.double().T @ payload.decode().double()
            found = payload.weight_gradient(grad_output)
            if found.shape != expected.shape or found.dtype != dtype:
                raise Violation(f"weight_gradient() is {_rows(found)} (allowed: {of_dtype(dtype)} {expected.shape})")
            error = float((found.double() - expected).norm() / expected.norm()) if expected.any() else 0.0
            if not error <= _TOLERANCE[dtype]:
                raise Violation(
                    f"weight_gradient() differs from grad_output.T @ decode() by {error:.2g} of its norm in "
                    f"{of_dtype(dtype)} {when} (allowed: {_TOLERANCE[dtype]:g})"
                )


@conformance(comes_back)
def factors_are_the_rows(trial: Trial) -> None:
    """factors() multiply to what decode() gives, at the rank that rank() tells."""
    offered = False
    for dtype in DTYPES:
        for when, codec in trial.cold_and_warm(dtype):
            payload = codec.encode(trial.rows(3, 64, dtype))
            factors, rank = payload.factors(), payload.rank()
            if factors is None:
                if rank is not None:
                    raise Violation(f"factors() is None {when}, and rank() is {rank}")
                continue
            offered = True
            Z, Q = factors
            decoded = payload.decode()
            if Z.shape != (len(decoded), rank) or Q.shape != (decoded.shape[1], rank) or Z.dtype != decoded.dtype:
                raise Violation(
                    f"factors() are {_rows(Z)} and {_rows(Q)} {when} (allowed: {of_dtype(dtype)} "
                    f"{(len(decoded), rank)} and {(decoded.shape[1], rank)}, {rank} being rank())"
                )
            difference = (Z.double() @ Q.double().T - decoded.double()).norm()
            if not difference <= _TOLERANCE[dtype] * decoded.double().norm():
                raise Violation(f"factors() multiply to other rows than decode() gives in {of_dtype(dtype)} {when}")
    if not offered:
        raise NotApplicable("payloads are no products")


@conformance(comes_back)
def coefficients_are_consistent(trial: Trial) -> None:
    """Coefficients have the width that the codec says, and can be taken out, replaced and put back."""
    offered = False
    for when, codec in trial.cold_and_warm():
        rows = trial.rows(5, 40)
        payload = codec.encode(rows)
        Z = payload.coefficients()
        offered |= Z is not None
        if Z is None:
            _refuses_coefficients(payload)
        else:
            _coefficients_come_and_go(codec, payload, rows, Z, when)
    if not offered:
        if codec.coefficient_width() is not None:
            raise Violation(
                f"coefficient_width() is {codec.coefficient_width()}, and payloads' coefficients() is None "
                f"after {trial.warm_steps} steps"
            )
        raise NotApplicable("payloads offer no coefficients")


def _refuses_coefficients(payload: Payload) -> None:
    try:
        payload.with_coefficients(None)
    except TypeError:
        return
    raise Violation("with_coefficients() works on a payload whose coefficients() is None (allowed: a TypeError)")


def _coefficients_come_and_go(codec: Codec, payload: Payload, rows: Tensor, Z: Tensor, when: str) -> None:
    expected = (len(rows), codec.coefficient_width())
    # In the rows' dtype, since kept_bytes() of a chain counts on it.
    if Z.shape != expected or Z.dtype != rows.dtype:
        raise Violation(f"coefficients are {_rows(Z)} {when} (allowed: {of_dtype(rows.dtype)} {expected})")
    decoded = payload.decode().clone()
    rest = payload.with_coefficients(None)
    if Z.untyped_storage()._cdata in {tensor.untyped_storage()._cdata for tensor in rest.tensors()}:
        raise Violation(f"with_coefficients(None) still keeps the coefficients {when}")
    if not same_bits(rest.with_coefficients(Z.clone()).decode(), decoded):
        raise Violation(f"coefficients that are taken out and put back decode to something else {when}")
    if decoded.any() and same_bits(payload.with_coefficients(torch.zeros_like(Z)).decode(), decoded):
        raise Violation(f"with_coefficients(Z) decodes to the same whatever Z is {when}")
    if not same_bits(payload.decode(), decoded):
        raise Violation(f"with_coefficients() changes the payload that it is called on {when}")


@conformance(comes_back)
def exact_is_exact(trial: Trial) -> None:
    """With exact = True, rows come back bit for bit, NaN and signed zeros too."""
    if not trial.compressor.exact:
        raise NotApplicable("exact is False")
    for dtype in DTYPES:
        for when, codec in trial.cold_and_warm(dtype):
            rows = trial.rows(0, dtype=dtype)
            rows[0, :4] = torch.tensor([math.nan, math.inf, -math.inf, -0.0])
            rows[1] = torch.finfo(dtype).tiny
            before = rows.clone()
            if not same_bits(codec.encode(rows).decode(), before):
                raise Violation(f"exact = True, and {of_dtype(dtype)} rows come back changed {when}")


@conformance(comes_back)
def finite_stays_finite(trial: Trial) -> None:
    """Finite rows of every kind decode to finite ones: one row, constant, zero, tiny, huge, not contiguous."""
    for dtype in DTYPES:
        for kind, rows in _awkward(trial, dtype).items():
            for when, codec in trial.cold_and_warm(dtype):
                for _ in range(2):
                    if not codec.encode(rows).decode().isfinite().all():
                        raise Violation(f"{kind} in {of_dtype(dtype)} decode to elements that are not finite {when}")
                    codec.end_step()
                if not codec.encode(trial.rows(1, dtype=dtype)).decode().isfinite().all():
                    raise Violation(f"after {kind} in {of_dtype(dtype)}, ordinary rows decode to NaN or infinity")


def _awkward(trial: Trial, dtype: torch.dtype) -> dict[str, Tensor]:
    rows, width = trial.rows(0, dtype=dtype), trial.site.width
    half = dtype == torch.float16
    return {
        "one row": rows[:1].clone(),
        "constant rows": torch.full_like(rows, 2.5),
        "rows of zeros": torch.zeros_like(rows),
        "tiny rows (about 1e-30, in float16 1e-6)": rows * (1e-6 if half else 1e-30),
        "huge rows (about 1e15, in float16 1e3)": rows * (1e2 if half else 1e15),
        "rows that are not contiguous": trial.rows(0, width, dtype)[: 2 * FEW : 2].T.contiguous().T,
    }


@conformance(comes_back)
def not_finite_stays_not_finite(trial: Trial) -> None:
    """NaN and infinity never decode to a finite number."""
    for dtype in DTYPES:
        for bad in (math.nan, math.inf, -math.inf):
            for when, codec in trial.cold_and_warm(dtype):
                rows = trial.rows(3, dtype=dtype)
                for row, column in ((0, 0), (7, trial.site.width // 2), (-1, -1)):
                    rows[row, column] = bad
                spoilt = codec.encode(rows).decode()[~rows.isfinite()]
                if spoilt.isfinite().any():
                    finite = spoilt[spoilt.isfinite()][0].item()
                    raise Violation(
                        f"{bad} decodes to {finite:g} in {of_dtype(dtype)} {when}: "
                        "a training that diverged would look sound"
                    )


def _rows(tensor: Tensor) -> str:
    return f"{of_dtype(tensor.dtype)} {tuple(tensor.shape)} on {tensor.device}"


PAYLOADS = (
    comes_back,
    rows_are_not_changed,
    payloads_are_independent,
    keeps_what_it_declares,
    rows_are_freed,
    kept_bytes_are_true,
    weight_gradient_is_true,
    factors_are_the_rows,
    coefficients_are_consistent,
    exact_is_exact,
    finite_stays_finite,
    not_finite_stays_not_finite,
)
"""All properties of payloads, in the order in which they are told."""
