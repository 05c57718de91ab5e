"""The tasks ``parity`` and ``addition``: trained at one length, tested at the same or beyond it.

In both the answer at a position depends on what came before through a state of one bit, which a model has to carry
along the whole sequence: longer sequences need more steps, be it in depth or in the heads of attention.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from compbench.errors import SettingsError
from compbench.seeds import stream
from compbench.workloads.architecture import OnArchitecture
from compbench.workloads.base import Data
from compbench.workloads.task import LookingAhead, Task, apart, batch

Rows = NDArray[np.int64]

DIGITS = 10
ENUMERATED = 2**21
"""Families of bits up to this size are listed whole."""


class SequenceTask(Task):
    """Sequences of one length to train on, and held-out ones of the same or another length."""

    looking_ahead: ClassVar[LookingAhead] = "needless"

    length: int = Field(16, ge=1, le=4096, description="symbols of a training sequence; digits, for addition")
    validation_length: int | None = Field(None, ge=1, le=4096, description="the same of held-out ones; null: length")
    train_sequences: int = Field(4096, ge=1, le=1_000_000, description="distinct sequences to train on")
    validation_sequences: int = Field(512, ge=1, le=100_000, description="held-out sequences, never trained on")

    @property
    def lengths(self) -> tuple[int, int]:
        """Of training and of held-out sequences."""
        return self.length, self.length if self.validation_length is None else self.validation_length


def distinct(rows: Rows, count: int) -> Rows:
    """The first ``count`` rows of which none came before.

    Raises:
        SettingsError: there are fewer.
    """
    _, first = np.unique(rows, axis=0, return_index=True)
    if len(first) < count:
        raise SettingsError(
            f"{count:,} distinct sequences of {rows.shape[1]} tokens were asked for, and {len(rows):,} draws gave "
            f"{len(first):,}; ask for fewer, or for longer ones"
        )
    return rows[np.sort(first)[:count]]


class ParityTask(SequenceTask):
    """Tells at every position whether the ones so far are odd in number. Tokens are bits."""

    @model_validator(mode="after")
    def _sequences_exist(self) -> Self:
        train, validation = self.lengths
        wanted = {train: self.train_sequences}
        wanted[validation] = wanted.get(validation, 0) + self.validation_sequences
        for length, count in wanted.items():
            if count > 2**length:
                raise ValueError(
                    f"{count:,} distinct sequences of {length} bits were asked for, and there are {2**length:,}; "
                    "ask for fewer, or for longer ones"
                )
        return self

    @property
    def vocabulary(self) -> int:
        """Bits."""
        return 2

    @property
    def positions(self) -> int:
        """The longer of the two lengths."""
        return max(self.lengths)

    def data(self, seed: int) -> Data:
        """Draws bits, no sequence twice."""
        rng = np.random.Generator(np.random.PCG64(stream(seed, "parity")))
        train_length, validation_length = self.lengths
        rows = _bits(train_length, self.train_sequences + self.validation_sequences, rng)
        train, validation = rows[: self.train_sequences], rows[self.train_sequences :]
        if validation_length != train_length:
            validation = _bits(validation_length, self.validation_sequences, rng)
        return _split(train, train.cumsum(axis=1) % 2, validation, validation.cumsum(axis=1) % 2)


def _bits(length: int, count: int, rng: np.random.Generator) -> Rows:
    """Distinct rows of bits, ``(count, length)``; of a small family, which is drawn from without putting back."""
    if 2**length <= ENUMERATED:
        numbers = rng.permutation(2**length)[:count]
        return numbers[:, None] >> np.arange(length) & 1
    return distinct(rng.integers(2, size=(4 * count + 64, length)), count)


class AdditionTask(SequenceTask):
    """Adds two numbers: a position has a digit of each, the lowest first, and its answer is the sum's digit.

    The token of the digits ``a`` and ``b`` is ``10 a + b``. A last position, of two zeros, has the last carry.
    """

    carry_chance: float = Field(
        0.4, ge=0, le=1, description="share of positions whose digits add up to 9, which hand a carry on: difficulty"
    )

    @property
    def vocabulary(self) -> int:
        """Pairs of digits; the answers are the first ten."""
        return DIGITS**2

    @property
    def positions(self) -> int:
        """The longer of the two lengths, and the last carry."""
        return max(self.lengths) + 1

    def data(self, seed: int) -> Data:
        """Draws sums, none twice."""
        rng = np.random.Generator(np.random.PCG64(stream(seed, "addition")))
        train_length, validation_length = self.lengths
        rows = self._draw(train_length, self.train_sequences + self.validation_sequences, rng)
        train, validation = rows[: self.train_sequences], rows[self.train_sequences :]
        if validation_length != train_length:
            validation = self._draw(validation_length, self.validation_sequences, rng)
        return _split(train, sums(train), validation, sums(validation))

    def _draw(self, length: int, count: int, rng: np.random.Generator) -> Rows:
        size = (4 * count + 64, length)
        a, b = rng.integers(DIGITS, size=size), rng.integers(DIGITS, size=size)
        b = np.where(rng.random(size) < self.carry_chance, DIGITS - 1 - a, b)
        pairs = np.pad(DIGITS * a + b, ((0, 0), (0, 1)))
        return distinct(pairs, count)


def sums(pairs: Rows) -> Rows:
    """The digits of the sums, ``(N, L)``, of digits ``10 a + b``, the lowest first."""
    result, carry = np.empty_like(pairs), np.zeros(len(pairs), dtype=np.int64)
    for position in range(pairs.shape[1]):
        total = pairs[:, position] // DIGITS + pairs[:, position] % DIGITS + carry
        result[:, position], carry = total % DIGITS, total // DIGITS
    return result


def _split(train: Rows, train_answers: Rows, validation: Rows, validation_answers: Rows) -> Data:
    if train.shape[1] == validation.shape[1]:
        apart(torch.from_numpy(train), torch.from_numpy(validation))
    return Data(
        train=batch(torch.from_numpy(train), torch.from_numpy(train_answers)),
        validation=batch(torch.from_numpy(validation), torch.from_numpy(validation_answers)),
    )


class Parity(OnArchitecture, ParityTask):
    """A model of any architecture tells the parity of all bits so far, at every position."""

    name: ClassVar[str] = "parity"


class Addition(OnArchitecture, AdditionTask):
    """A model of any architecture adds two numbers."""

    name: ClassVar[str] = "addition"
