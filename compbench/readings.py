"""Values that codecs have to know on the host: asked for together, so that the device is waited for once a step.

Every question of the host is a wait for all that the device has still to do. Codecs say what they will ask, by
``readings()``; whoever ends the step of several gathers it, and their ``read()`` finds the answers there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

if TYPE_CHECKING:
    from compbench.compressor import Codec

_ANSWERS = "_answers_of_readings"
"""Attribute of a codec while its answers wait for it; it is gone before anybody saves the codec."""


def on_host(groups: Sequence[Sequence[Tensor]]) -> list[list[float]]:
    """The numbers in groups of tensors of any shape, dtype and device, by one transfer for each device.

    They travel in fp64, which holds those of every shorter type, and integers up to 2^53, as they are.
    """
    asked: dict[torch.device, dict[torch.dtype, list[Tensor]]] = {}
    for tensor in chain.from_iterable(groups):
        asked.setdefault(tensor.device, {}).setdefault(tensor.dtype, []).append(tensor.detach().reshape(-1))
    answers: dict[tuple[torch.device, torch.dtype], Iterator[float]] = {}
    for device, by_dtype in asked.items():
        # By dtype first: joined at once, integers would become the float type that stands beside them.
        wide = [torch.cat(tensors).double() for tensors in by_dtype.values()]
        numbers = iter(torch.cat(wide).tolist())
        for dtype, part in zip(by_dtype, wide, strict=True):
            answers[device, dtype] = iter(list(islice(numbers, len(part))))
    return [
        [number for tensor in group for number in islice(answers[tensor.device, tensor.dtype], tensor.numel())]
        for group in groups
    ]


def _questions_of(codec: Codec) -> list[Tensor]:
    questions = list(codec.readings())
    for question in questions:
        if not isinstance(question, Tensor):
            raise TypeError(f"readings() has {question!r}, a {type(question).__name__} (allowed: tensors)")
    return questions


def _answers(asking: Sequence[Codec], questions: Sequence[list[Tensor]]) -> list[list[float]]:
    """What is on the device; where tensors have no values, as under ``compbench plan``, what codecs expect there."""
    if any(isinstance(question, FakeTensor) for group in questions for question in group):
        return [list(codec.expected(group)) for codec, group in zip(asking, questions, strict=True)]
    return on_host(questions)


def answers_of(codec: Codec) -> list[float]:
    """The numbers that a codec asks for: those that were read together with others', or else read now."""
    known: list[float] | None = vars(codec).get(_ANSWERS)
    return _answers([codec], [_questions_of(codec)])[0] if known is None else list(known)


@contextmanager
def read_together(codecs: Iterable[tuple[str, Codec]]) -> Iterator[None]:
    """Reads what several codecs ask, and the codecs inside them; their ``end_step`` is to be called within.

    Args:
        codecs: each with what a mistake in it is reported under.
    """
    asking: list[Codec] = []
    questions: list[list[Tensor]] = []
    for owner, outer in codecs:
        try:
            for codec in _with_inner(outer):
                questions.append(_questions_of(codec))
                asking.append(codec)
        except Exception as error:
            error.add_note(f"raised by readings(): {owner}")
            raise
    for codec, answers in zip(asking, _answers(asking, questions), strict=True):
        vars(codec)[_ANSWERS] = answers
    questions.clear()  # end_step may free what it asked about
    try:
        yield
    finally:
        for codec in asking:
            vars(codec).pop(_ANSWERS, None)


def _with_inner(codec: Codec) -> Iterator[Codec]:
    yield codec
    for inner in codec.inner():
        yield from _with_inner(inner)
