"""Weights of Tiny Recursive Models under the names of the reference implementation, read and written.

The names are those of ``TinyRecursiveReasoningModel_ACTV1`` (SamsungSAILMontreal/TinyRecursiveModels) with attention
and rotary positions. Its checkpoints put ``_orig_mod.`` and ``model.`` in front, as they were compiled and had a
loss head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from compbench.errors import SettingsError, one_line
from compbench.workloads.recursion import RecursiveReasoner

_NAMES = {
    "embedding.weight": "inner.embed_tokens.embedding_weight",
    "head.weight": "inner.lm_head.weight",
    "halting.weight": "inner.q_head.weight",
    "halting.bias": "inner.q_head.bias",
    "puzzle": "inner.puzzle_emb.weights",
    "z_H": "inner.H_init",
    "z_L": "inner.L_init",
}
_LAYER_NAMES = {
    "attn.qkv.weight": "self_attn.qkv_proj.weight",
    "attn.out.weight": "self_attn.o_proj.weight",
    "mlp.gate_up.weight": "mlp.gate_up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}
_NOT_WEIGHTS = re.compile(r"inner\.(puzzle_emb\.local_(weights|ids)|rotary_emb\.(cos|sin)_cached)")
"""What belongs to a training or follows from the sizes; most checkpoints have none of it."""


def reference_name(name: str) -> str:
    """The reference's name of a parameter or buffer of ours.

    Raises:
        SettingsError: it has none, such as that of one of several blocks.
    """
    if name in _NAMES:
        return _NAMES[name]
    found = re.fullmatch(r"block\.(?:(\d+)\.)?(attn\.\w+\.weight|mlp\.\w+\.weight)", name)
    if found is None:
        raise SettingsError(f"{name} has no name in the reference implementation (allowed: models with tied: true)")
    return f"inner.L_level.layers.{found[1] or 0}.{_LAYER_NAMES[found[2]]}"


def reference_state(model: RecursiveReasoner) -> dict[str, Tensor]:
    """A model's weights under the reference's names, such as ``inner.lm_head.weight``.

    Raises:
        SettingsError: calls have blocks of their own, which the reference does not know.
    """
    _require_tied(model)
    return {reference_name(name): value for name, value in model.state_dict().items()}


def load_reference_state(model: RecursiveReasoner, state: Mapping[str, Tensor], where: str = "state") -> None:
    """Takes weights that have the reference's names; the model is as it was if they don't fit.

    Args:
        model: ours, of the same sizes.
        state: weights by name, whatever stands in front of ``inner.``.
        where: what the message calls them.

    Raises:
        SettingsError: a weight is missing, too many or has another shape, or there are several puzzles.
    """
    _require_tied(model)
    given = {name[name.find("inner.") :] if "inner." in name else name: value for name, value in state.items()}
    given = {name: value for name, value in given.items() if not _NOT_WEIGHTS.fullmatch(name)}
    wanted = reference_state(model)
    for name, value in wanted.items():
        if name not in given:
            raise SettingsError(f"{where}: {name} is missing (expected: shape {tuple(value.shape)})")
        if given[name].shape != value.shape:
            found, expected = tuple(given[name].shape), tuple(value.shape)
            raise SettingsError(f"{where}: {name} has shape {found} (expected: {expected})")
    extra = sorted(set(given) - set(wanted))
    if extra:
        raise SettingsError(f"{where}: {extra[0]} is no weight of this model (expected: {', '.join(sorted(wanted))})")
    with torch.no_grad():
        for ours, tensor in model.state_dict().items():
            tensor.copy_(given[reference_name(ours)])


def load_reference_checkpoint(model: RecursiveReasoner, path: Path) -> None:
    """Takes the weights of a file that the reference implementation has saved; nothing in it is executed.

    Raises:
        SettingsError: there is no such file, it holds something else, or its weights don't fit.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SettingsError(f"weights {path} can't be read: {error.strerror}") from error
    except Exception as error:  # whatever else is in the file
        raise SettingsError(f"weights {path} are no checkpoint: {one_line(error)}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SettingsError(f"weights {path} are no checkpoint (expected: a dictionary of tensors by name)")
    load_reference_state(model, state, f"weights {path}")


def save_reference_checkpoint(model: RecursiveReasoner, path: Path) -> None:
    """Writes a file that the reference implementation loads, but for what it puts in front of names."""
    torch.save(reference_state(model), path)


def _require_tied(model: RecursiveReasoner) -> None:
    if isinstance(model.block, nn.ModuleList):
        raise SettingsError("the reference implementation has one block for all calls (allowed: tied: true)")
