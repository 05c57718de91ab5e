"""The task ``text``: language modelling, by characters or byte pairs, on a corpus that is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from compbench.errors import SettingsError
from compbench.records import Batch
from compbench.workloads.architecture import OnArchitecture
from compbench.workloads.base import Data
from compbench.workloads.blocks import Answer
from compbench.workloads.corpus import PYTHON_TOPICS, Vocabulary, make_vocabulary, read_corpus, text_hash
from compbench.workloads.task import IGNORED, LookingAhead, Task, batch

HELD_OUT = 0.1
"""The share of the text, at its end, that is not trained on."""

_LN_2 = 0.6931471805599453


class TextTask(Task):
    """Predicts the next token of a text from those before it."""

    looking_ahead: ClassVar[LookingAhead] = "forbidden"

    corpus: str = Field(
        PYTHON_TOPICS, description="python_topics, which ships with Python, or the path of a UTF-8 file"
    )
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="SHA-256 of the text, so that no other is trained on; null: any"
    )
    level: Literal["character", "byte_pair"] = Field("character", description="what a token is")
    merges: int = Field(256, ge=1, le=50_000, description="byte_pair: tokens that are made of two others")
    context: int = Field(64, ge=2, le=65_536, description="tokens in a sequence")
    characters: int | None = Field(
        None, ge=1, description="how much of the text is used, from its beginning; null: all"
    )

    @property
    def text(self) -> str:
        """What is used of the corpus.

        Raises:
            SettingsError: it can't be had, or is not the one that was expected.
        """
        return read_corpus(self.corpus, self.sha256)[: self.characters]

    @property
    def tokens(self) -> Vocabulary:
        """What the ids stand for: characters of the whole text, and pairs of what is trained on."""
        return _vocabulary(self.text, self.merges if self.level == "byte_pair" else 0)

    @property
    def vocabulary(self) -> int:
        """The text's characters, and its merged pairs."""
        return len(self.tokens.tokens)

    @property
    def positions(self) -> int:
        """The context."""
        return self.context

    def data(self, seed: int) -> Data:
        """Cuts the text into sequences, the same for every seed; held-out ones that were trained on are left out.

        Raises:
            SettingsError: the text is too short.
        """
        train_text, held_out_text = split(self.text)
        train, held_out = (self._windows(part) for part in (train_text, held_out_text))
        known = {row.numpy().tobytes() for row in train}
        fresh = [row for row in held_out if row.numpy().tobytes() not in known]
        if not len(train) or not fresh:
            raise SettingsError(
                f"corpus '{self.corpus}' has {len(train)} sequences of {self.context} tokens to train on and "
                f"{len(fresh)} held-out ones of its {len(self.text):,} characters "
                "(expected: one of each; a smaller context)"
            )
        validation = torch.stack(fresh)
        return Data(train=batch(train[:, :-1], train[:, 1:]), validation=batch(validation[:, :-1], validation[:, 1:]))

    def _windows(self, text: str) -> Tensor:
        """Rows of ``context + 1`` tokens, each beginning with the last of the row before; ``(N, context + 1)``."""
        ids = torch.tensor(self.tokens.encode(text), dtype=torch.int64)
        return ids.unfold(0, self.context + 1, self.context) if len(ids) > self.context else ids[:0].view(0, 1)

    def data_files(self) -> Mapping[str, str]:
        """The hash of the whole corpus."""
        return {"corpus": text_hash(read_corpus(self.corpus, self.sha256))}


class Text(OnArchitecture, TextTask):
    """A model of any architecture predicts the next token of a text; no position sees those behind it."""

    name: ClassVar[str] = "text"

    def metrics(self, output: Answer, batch: Batch) -> dict[str, Tensor]:
        """``token_accuracy``, and ``bits_per_token``, of which less is better; ``(B,)`` each."""
        targets = batch["targets"]
        losses = F.cross_entropy(output.logits.float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
        return {
            "token_accuracy": super().metrics(output, batch)["token_accuracy"],
            "bits_per_token": losses.mean(dim=1) / _LN_2,
        }


def split(text: str) -> tuple[str, str]:
    """What is trained on, and what is held out."""
    at = len(text) - round(len(text) * HELD_OUT)
    return text[:at], text[at:]


def _vocabulary(text: str, merges: int) -> Vocabulary:
    learnt = make_vocabulary(split(text)[0], merges)
    others = sorted(set(text) - set(learnt.tokens))
    return Vocabulary((*learnt.tokens, *others), learnt.merges)
