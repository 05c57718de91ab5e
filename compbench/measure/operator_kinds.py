"""What kind of operator an event of torch's profiler is, by its name."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, get_args

import torch

Kind = Literal[
    "matrix_products",
    "attention",
    "elementwise",
    "norms",
    "reductions",
    "decompositions",
    "indexing_and_sorting",
    "random_numbers",
    "copies_and_casts",
    "memory",
    "views",
    "compiled_code",
    "device_calls",
    "other_operators",
    "python_and_engine",
]
"""``matrix_products`` has convolutions; ``norms`` are of layers and of vectors; ``reductions`` have softmax and losses;
``decompositions`` are QR, SVD, eigenvectors and the like; ``memory`` is making and filling tensors; ``compiled_code``
is what ``torch.compile`` has made, as a whole; ``device_calls`` start work on a GPU or wait for it."""

KINDS: tuple[Kind, ...] = get_args(Kind)

WHOLE: frozenset[Kind] = frozenset({"attention", "norms", "decompositions", "random_numbers"})
"""Kinds that also take whatever operators of theirs call, since how these are composed is a detail of torch."""

_COMPILED = re.compile(r"Torch-Compiled Region|CompiledFunction|## Call CompiledFxGraph|graph_\d+_|triton_")
_DEVICE_CALL = re.compile(r"(?:cuda|cu|hip)[A-Z]\w*$")
_NO_OPERATORS = frozenset({"autograd", "torch", "profiler", "compbench"})
_NAMES: tuple[tuple[Kind, str], ...] = (
    ("attention", r"scaled_dot_product|flash_attention|efficient_attention|multi_head_attention"),
    ("norms", r"(?:.*_)?norm(?:_.*)?$"),
    (
        "matrix_products",
        r"(?:mm|addmm|bmm|baddbmm|addbmm|int_mm|scaled_mm|matmul|linear|mkldnn_linear|mv|addmv|dot|vdot|inner|outer"
        r"|ger|addr|einsum|tensordot|chain_matmul|linalg_multi_dot|linalg_matmul|linalg_vecdot|linear_backward"
        r"|matmul_backward|(?:\w+_)?conv(?:olution|_|\d)\w*)$",
    ),
    (
        "decompositions",
        r"linalg_(?!cross|diagonal|vecdot)|(?:qr|geqrf|orgqr|ormqr|svd|eig|symeig|cholesky|lu_|triangular_solve|pinverse)",
    ),
    (
        "copies_and_casts",
        r"(?:copy|copy_from|to|to_copy|clone|contiguous|cat|stack|hstack|vstack|item|local_scalar_dense|repeat|tile"
        r"|repeat_interleave|roll|flip|constant_pad_nd|pad|pin_memory|to_dense|float|half|type_as)$",
    ),
    (
        "memory",
        r"(?:(?:new_)?(?:empty|zeros|ones|full)(?:_like|_strided)?|resize|resize_output|fill|zero|set|arange|eye"
        r"|linspace|scalar_tensor|lift_fresh)$",
    ),
    (
        "indexing_and_sorting",
        r"index|gather|scatter|take|embedding|masked_|sort|argsort|topk|kthvalue|median|searchsorted|bucketize"
        r"|bincount|histc|unique|nonzero|count_nonzero|one_hot",
    ),
    ("random_numbers", r"rand|normal|uniform|bernoulli|multinomial|dropout|native_dropout|exponential"),
    (
        "reductions",
        r"(?:log_)?softmax|logsumexp|cum(?:sum|prod|max|min)|nll_loss|cross_entropy|(?:max|min|aminmax|amax|amin"
        r"|argmax|argmin|all|any|sum|mean|var|std|var_mean|std_mean|prod)$",
    ),
    ("elementwise", r"tril|triu|foreach_|fake_quantize|quantize|dequantize"),
    ("views", r"unsafe_view$"),
)
"""What the names of a kind's operators begin with, without underscores around them; the first that fits holds."""


@cache
def kind_of(event: str) -> Kind | None:
    """The kind of the operator that an event of the profiler is named after; None where it is no operator."""
    if _COMPILED.match(event):
        return "compiled_code"
    if _DEVICE_CALL.match(event):
        return "device_calls"
    namespace, separator, name = event.partition("::")
    if not separator or namespace in _NO_OPERATORS:
        return None
    stem = name.strip("_")
    for kind, pattern in _NAMES:
        if re.match(pattern, stem):
            return kind
    return _kind_by_torch(namespace, name)


def _kind_by_torch(namespace: str, name: str) -> Kind:
    """What torch itself says of an operator, by tags and by whether it gives a view."""
    packet = getattr(getattr(torch.ops, namespace), name, None)
    if packet is None:
        return "other_operators"
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    tags = {tag for overload in overloads for tag in overload.tags}
    if torch.Tag.pointwise in tags:
        return "elementwise"
    if torch.Tag.nondeterministic_seeded in tags:
        return "random_numbers"
    aliases = [result.alias_info for result in overloads[0]._schema.returns] if overloads else []
    if any(alias is not None and not alias.is_write for alias in aliases):
        return "views"
    return "other_operators"
