"""Models of ``transformers`` are tried before the first step, since a config does not tell all of them.

A folder that lacks some of a model's weights gives one all the same, with those drawn at random and a line in the log.
BERT and its kin have a causal head and attention to all positions unless their config has ``is_decoder: true``; with
the next token in sight, ``text`` is no task.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compbench.errors import SettingsError, one_line
from compbench.workloads.architecture import OnArchitecture
from compbench.workloads.base import Data, Workload
from compbench.workloads.model_state import evaluating, left_as_it_was

_EXAMPLES = 2


def try_transformers(workload: Workload, model: nn.Module, data: Data) -> None:
    """Runs a model of ``transformers`` on two examples; it is as it was afterwards. Other models are not looked at.

    Raises:
        SettingsError: its folder lacks weights, it can't be run on the examples, or its answers change with a token
            that the task has it predict.
    """
    if not isinstance(workload, OnArchitecture) or workload.from_transformers is None:
        return
    if workload.from_transformers.pretrained is not None:
        _check_weights(workload.name, model.model, workload.from_transformers.pretrained)
    tokens = data.train["inputs"][:_EXAMPLES].clone()  # (2, L)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % workload.vocabulary
    with torch.no_grad(), torch.random.fork_rng(devices=()), evaluating(model), left_as_it_was(model):
        try:
            answer, other = (workload.forward(model, {"inputs": ids}).logits[:, :-1] for ids in (tokens, changed))
        except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise
            raise SettingsError(
                f"workload '{workload.name}': the model of from_transformers can't be run on the task's tokens: "
                f"{one_line(error)}"
            ) from error
    # Experts may be summed in another order; a token in sight changes far more.
    if workload.looking_ahead == "forbidden" and not torch.allclose(answer, other, rtol=1e-3, atol=1e-4):
        raise SettingsError(
            f"workload '{workload.name}': the model of from_transformers sees the tokens that it is to predict "
            "(allowed: a model that is causal; of BERT and its kin with is_decoder: true in the config)"
        )


def _check_weights(name: str, model: Any, folder: str) -> None:
    """Checks that a folder has all weights of the model that was made of it."""
    with torch.random.fork_rng(devices=()):
        _, found = type(model).from_pretrained(
            folder, config=model.config, local_files_only=True, output_loading_info=True
        )
    lacking = sorted(found["missing_keys"])
    if lacking:
        others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise SettingsError(
            f"workload '{name}': the folder '{folder}' lacks weights of its model: {lacking[0]}{others} "
            "(allowed: a folder with all of them, for the kind of model that the task has)"
        )
