"""Language models of the package ``transformers`` on any task, from a config; needs the extra ``transformers``.

Causal models see what comes before a position, masked ones all positions. Token ids are the task's own, whatever
tokenizer a pretrained model had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from compbench.errors import SettingsError, nearest, one_line
from compbench.extras import optional_package
from compbench.workloads.blocks import Answer
from compbench.workloads.task import LookingAhead

_FIELD = "workload field 'from_transformers'"


class FromTransformers(BaseModel):
    """Which model of ``transformers`` is built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any] = Field(
        default_factory=dict, description="model_type and its config's settings; vocabulary and length are the task's"
    )
    pretrained: str | None = Field(None, description="a folder with a model and its config, whose weights are taken")
    kind: Literal["causal", "masked"] | None = Field(
        None, description="which of a model's language model heads; null: masked where the task needs to look ahead"
    )


class TransformersModel(nn.Module):
    """A language model of ``transformers``: token ids ``(B, L)`` in, logits of every position out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Answer:
        """The answer to ``(B, L)`` tokens."""
        return Answer(self.model(input_ids=tokens).logits)


def layers_of(settings: FromTransformers) -> int:
    """The layers that a model has, before any depth is applied.

    Raises:
        SettingsError: ``transformers`` is not installed, or knows no such model or setting.
    """
    return int(_config(settings).num_hidden_layers)


def build_model(
    settings: FromTransformers,
    *,
    layers: int,
    vocabulary: int,
    positions: int,
    looking_ahead: LookingAhead,
    generator: torch.Generator,
) -> TransformersModel:
    """Makes a model on CPU.

    Args:
        settings: which one.
        layers: how many layers it gets.
        vocabulary: number of token ids.
        positions: the longest sequence.
        looking_ahead: what the task says of it.
        generator: seeds what is drawn.

    Raises:
        SettingsError: ``transformers`` is not installed, knows no such model or setting, or has the model in another
            kind alone; or a pretrained model is too small for the task.
    """
    transformers = optional_package("transformers", "transformers", _FIELD)
    config = _config(settings)
    kind = settings.kind or ("masked" if looking_ahead == "needed" else "causal")
    auto = transformers.AutoModelForMaskedLM if kind == "masked" else transformers.AutoModelForCausalLM
    if type(config) not in auto._model_mapping:
        raise SettingsError(
            f"{_FIELD}: transformers has no {kind} language model of type '{config.model_type}' "
            f"(allowed: another model_type, or kind {'causal' if kind == 'masked' else 'masked'} where the task has it)"
        )
    if (looking_ahead, kind) == ("needed", "causal"):
        raise SettingsError(f"{_FIELD}: kind is causal, but the task's answers depend on what comes (allowed: masked)")
    if (looking_ahead, kind) == ("forbidden", "masked"):
        raise SettingsError(f"{_FIELD}: kind is masked, but the task's answers are what comes (allowed: causal)")
    if settings.pretrained is None:
        config.vocab_size = vocabulary
        _at_least(config, positions)
        config.num_hidden_layers = layers
    elif config.vocab_size < vocabulary or getattr(config, "max_position_embeddings", positions) < positions:
        raise SettingsError(
            f"{_FIELD}: '{settings.pretrained}' has {config.vocab_size} token ids and "
            f"{config.max_position_embeddings} positions, and the task has {vocabulary} and {positions}"
        )
    config.use_cache = False
    for end in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if (getattr(config, end, None) or 0) >= config.vocab_size:
            setattr(config, end, None)  # a tokenizer's ids, which the task does not have
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(generator.initial_seed())
        try:
            if settings.pretrained is None:
                model = auto.from_config(config)
            else:
                model = auto.from_pretrained(settings.pretrained, config=config, local_files_only=True)
        except Exception as error:  # of whatever kind, from a model that these settings don't fit
            raise SettingsError(f"{_FIELD}: the model can't be made: {one_line(error)}") from error
    model.train()
    return TransformersModel(model)


def _config(settings: FromTransformers) -> Any:
    transformers = optional_package("transformers", "transformers", _FIELD)
    if settings.pretrained is not None:
        if settings.config:
            raise SettingsError(f"{_FIELD} has a config and a pretrained model (allowed: one of them)")
        if not Path(settings.pretrained, "config.json").is_file():
            raise SettingsError(f"{_FIELD}: there is no file {Path(settings.pretrained, 'config.json')}")
        return transformers.AutoConfig.from_pretrained(settings.pretrained, local_files_only=True)
    given = dict(settings.config)
    kind = given.pop("model_type", None)
    known = transformers.CONFIG_MAPPING
    if kind not in known:
        raise SettingsError(
            f"{_FIELD}: config's model_type is {kind!r}{nearest(str(kind), known)} (allowed: such as gpt2, llama, bert)"
        )
    try:
        config = known[kind]()
        strange = [name for name in given if not hasattr(config, name)]
        if strange:
            names = [name for name in config.to_dict() if not name.startswith("_")]
            raise SettingsError(f"{_FIELD}: config of '{kind}' has no '{strange[0]}'{nearest(strange[0], names)}")
        return known[kind](**given)
    except SettingsError:
        raise
    except Exception as error:  # a config's own checks
        raise SettingsError(f"{_FIELD}: config of '{kind}': {one_line(error)}") from error


def _at_least(config: Any, positions: int) -> None:
    """As many positions as the task has, where a model has a fixed number; some more, where it counts from two."""
    if hasattr(config, "max_position_embeddings"):
        config.max_position_embeddings = max(positions + 2, 8)
