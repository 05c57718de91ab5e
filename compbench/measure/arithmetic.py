"""The arithmetic of a step: its floating-point operations, with what a strategy adds, against those of a plain step.

Matrix products, convolutions and attention are counted, wherever they happen: in the model, while something is computed
again in the backward pass, and in a strategy's own projections. A multiplication and an addition are two operations.
Not counted: what goes element by element (activations, norms, quantisation, masks), sums, sorting, and factorisations
such as QR and SVD.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from compbench.capture import Session
from compbench.measure.results import Arithmetic, Flops
from compbench.measure.step import Step
from compbench.records import Batch


def measure_arithmetic(step: Step, session: Session | None, batch: Batch) -> Arithmetic:
    """Counts an uncompressed step and one under the strategy, on the same batch.

    Both are real steps, since what a strategy computes may depend on values: the strategy's bases move once more.

    Args:
        step: the model.
        session: its session, open; None counts the uncompressed step alone, which then stands for both.
        batch: the examples of a training step.
    """
    with session.paused() if session is not None else nullcontext():
        plain = count_flops(step, None, batch)
    return Arithmetic(flops=plain if session is None else count_flops(step, session, batch), uncompressed_flops=plain)


def count_flops(step: Step, session: Session | None, batch: Batch) -> Flops:
    """Counts one step; ``session`` is open, or None for an uncompressed step."""
    step.clear_gradients()
    with flop_counter() as counter:
        with session.step() if session is not None else nullcontext():
            loss = step.loss(batch)
            forward = counter.get_total_flops()
            loss.backward()
            del loss
            backward = counter.get_total_flops()
        total = counter.get_total_flops()
    step.clear_gradients()
    return Flops(forward=forward, backward=backward - forward, update=total - backward)


def flop_counter() -> FlopCounterMode:
    """Torch's counter of operations, with those that it does not know.

    A dispatch mode: it sees operators beneath autograd, and so those of backward passes, hooks and `no_grad` too.
    """
    return FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH)


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


def _matrix_vector(matrix: Any, vector: Any, **_: Any) -> int:
    return 2 * int(matrix[0] * matrix[1])


def _add_matrix_vector(added: Any, matrix: Any, vector: Any, **_: Any) -> int:
    return _matrix_vector(matrix, vector)


def _product_added_in_place(added: Any, left: Any, right: Any, **_: Any) -> int:
    return 2 * int(left[0] * left[1] * right[1])


def _integer_product(left: Any, right: Any, **_: Any) -> int:
    return 2 * int(left[0] * left[1] * right[1])


_aten = torch.ops.aten
# Functions of shapes. Torch's own list has attention as GPUs run it, and no products with vectors.
UNKNOWN_TO_TORCH: dict[Any, Any] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten.addmm_: _product_added_in_place,
    _aten.mv: _matrix_vector,
    _aten.addmv: _add_matrix_vector,
    _aten._int_mm: _integer_product,
}
