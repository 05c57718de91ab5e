"""Attention whose output and log-sum-exp are recomputed in the backward pass from what was rebuilt.

Attention's backward forms its probabilities as ``exp(q k^T - lse)`` from the saved log-sum-exp. With approximate q or k
beside the exact log-sum-exp these no longer sum to one, and gradients point elsewhere. Recomputed from the same q and k
they do. The suite ``trm_attention`` compares the two.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

# Torch's own, whatever stands in its place while a model runs.
_attention = F.scaled_dot_product_attention


class RecomputedAttention(torch.autograd.Function):
    """``scaled_dot_product_attention`` that saves q, k and v alone and runs again in its backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        options: dict[str, Any],
    ) -> Tensor:
        """``(B, H, T, d)`` from query ``(B, H, T, d)``, key, value ``(B, H, S, d)`` and a mask without gradient."""
        ctx.options = options
        ctx.save_for_backward(query, key, value, mask)
        return _attention(query, key, value, mask, **options)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value at their rebuilt values."""
        query, key, value, mask = ctx.saved_tensors
        again = torch.is_grad_enabled()  # a graph of the gradients is asked for (create_graph=True)
        needed = [position for position in range(3) if ctx.needs_input_grad[position]]
        # Each input gets a node of its own. Were one of them computed from another, or the same tensor, autograd would
        # give the whole derivative of either, and what they share would be counted again further down.
        with torch.enable_grad():
            inputs = [
                x.view_as(x) if again else x.detach().requires_grad_(i in needed)
                for i, x in enumerate((query, key, value))
            ]
        q, k, v = inputs
        device = query.device.type
        # The operands were cast when they were saved; hooks that keep everything stand in front of the session's.
        with (
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
            saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor),
        ):
            output = _attention(q, k, v, mask, **ctx.options)
            found = torch.autograd.grad(output, [inputs[i] for i in needed], grad_outputs, create_graph=again)
        gradients: list[Tensor | None] = [None] * 5
        for position, gradient in zip(needed, found, strict=True):
            gradients[position] = gradient
        return tuple(gradients)


def recomputed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Stands in for ``scaled_dot_product_attention``, with its signature, where :func:`can_recompute` says it can."""
    device = query.device.type
    if torch.is_autocast_enabled(device):
        # Autocast would cast inside, after q, k and v were saved in full precision.
        dtype = torch.get_autocast_dtype(device)
        query, key, value = (x.to(dtype) if x.dtype == torch.float32 else x for x in (query, key, value))
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(query.dtype)
    options: dict[str, Any] = {"is_causal": is_causal}
    if scale is not None:
        options["scale"] = scale
    if enable_gqa:
        options["enable_gqa"] = enable_gqa
    with torch.autocast(device, enabled=False):
        output: Tensor = RecomputedAttention.apply(query, key, value, attn_mask, options)  # type: ignore[no-untyped-call]
    return output


def can_recompute(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Whether a call of ``scaled_dot_product_attention`` can be recomputed: no dropout, no mask that is learnt."""
    mask = arguments[3] if len(arguments) > 3 else keywords.get("attn_mask")
    dropout = arguments[4] if len(arguments) > 4 else keywords.get("dropout_p", 0.0)
    return not dropout and not (mask is not None and mask.requires_grad)
