"""Operators are told by the names that torch's profiler gives them."""

from __future__ import annotations

import pytest

from compbench.measure.operator_kinds import kind_of


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("aten::addmm", "matrix_products"),
        ("aten::convolution_backward", "matrix_products"),
        ("aten::mkldnn_convolution", "matrix_products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::silu_backward", "elementwise"),
        ("aten::mul_", "elementwise"),
        ("aten::native_layer_norm_backward", "norms"),
        ("aten::linalg_vector_norm", "norms"),
        ("aten::normal_", "random_numbers"),
        ("aten::_softmax", "reductions"),
        ("aten::mean", "reductions"),
        ("aten::_linalg_eigh", "decompositions"),
        ("aten::linalg_svd", "decompositions"),
        ("aten::linalg_vecdot", "matrix_products"),
        ("aten::topk", "indexing_and_sorting"),
        ("aten::copy_", "copies_and_casts"),
        ("aten::_to_copy", "copies_and_casts"),
        ("aten::empty_strided", "memory"),
        ("aten::fill_", "memory"),
        ("aten::transpose", "views"),
        ("aten::promote_types", "other_operators"),
        ("mine::unheard_of", "other_operators"),
        ("cudaLaunchKernel", "device_calls"),
        ("CompiledFunctionBackward", "compiled_code"),
        ("autograd::engine::evaluate_function: MulBackward0", None),
        ("torch::autograd::AccumulateGrad", None),
        ("MulBackward0", None),
        ("profiler::_record_function_exit", None),
        ("compbench::laser encode block.mlp/mlp_384", None),
    ],
)
def test_kinds_of_operators(event: str, kind: str | None) -> None:
    assert kind_of(event) == kind
