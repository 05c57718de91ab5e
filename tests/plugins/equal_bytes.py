"""``auto`` against every lossy strategy alone, at that strategy's own bytes: the cosine of the gradient.

The model is a Tiny Recursive Model on mazes, as it begins and after some steps of training without compression; the
gradients are those of mazes that it was never trained on. Bytes are all that is held for the backward pass.

    python -m tests.plugins.equal_bytes --steps 0 64 300 --seeds 0 1 2
    python -m tests.plugins.equal_bytes --recompute none
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from compbench_plugins.auto import Auto
from tabulate import tabulate

from compbench import Compressor, compress
from compbench.measure.fidelity import gradient_cosine
from compbench.measure.step import Step
from compbench.records import Batch
from compbench.registry import Registry
from compbench.workloads.trm_maze import TRMMaze

BATCH_SIZE = 16
LEARNING_RATE = 2.5e-3
EXACT = 1e-12
"""Errors below are those of the arithmetic."""


def low_rank(rank: int) -> dict[str, Any]:
    return {"laser": {"rank": rank, "max_rank": rank}}


OTHER_STRENGTHS: tuple[Any, ...] = (
    *({"actnn": {"bits": bits}} for bits in (1, 3, 4, 6)),
    {"fp8": {"format": "e5m2"}},
    {"int8": {"granularity": "group", "group_size": 32}},
    *({"gist": {"precision": precision}} for precision in ("fp16", "fp8")),
    *({name: {"rank": rank}} for name in ("asi", "gale", "lance", "loract", "oracle_svd", "past") for rank in (8, 32)),
    *({"random_projection": {"rank": rank}} for rank in (8, 32)),
    *({"hosvd": {"energy": energy}} for energy in (0.9, 0.99)),
    *({"row_sample": {"share": share}} for share in (0.1, 0.6)),
    *({"topk": {"share": share}} for share in (0.05, 0.4)),
    *(low_rank(rank) for rank in (8, 16, 32)),
    *([low_rank(rank), "int8"] for rank in (8, 16, 32, 64)),
    *([low_rank(rank), {"actnn": {"bits": 4}}] for rank in (8, 32)),
)


@dataclass(frozen=True)
class Measured:
    """What a strategy keeps, and how far its gradient is from the exact one.

    Attributes:
        saved_bytes: held for the backward pass at the maximum of a step after the first.
        error: 1 - cosine.
    """

    saved_bytes: int
    error: float


class Contest:
    """A model at some moment of its training, and what strategies do to its gradient.

    Args:
        steps: steps of training without compression.
        seed: of the model and its data.
        recompute: what ``auto`` computes again.
    """

    def __init__(self, steps: int, seed: int = 0, recompute: str = "inputs") -> None:
        workload = TRMMaze(
            grid=7, train_mazes=512, validation_mazes=32, hidden=64, heads=2, inner=192, rope_theta=100
        ).at_depth(4)
        self.model = workload.build(torch.Generator().manual_seed(seed))
        self._step, data = Step(workload, self.model, torch.device("cpu")), workload.data(seed)
        starts = range(0, len(data.train["inputs"]), BATCH_SIZE)
        batches = [self._step.batch(data.train, slice(start, start + BATCH_SIZE)) for start in starts]
        self._train(batches, steps)
        self._batches = batches[:2]
        self._held_out = self._step.batch(data.validation, slice(BATCH_SIZE))
        self._recompute = recompute
        self.plain_bytes = self.measured(Registry.load().compressor("none")).saved_bytes
        # What is held beside the rows of encoded sites: masks, the loss. It is not in auto's budget.
        with compress(self.model, self._auto(2**40)) as session:
            with session.step():
                self._step.loss(self._batches[0]).backward()
            rows = sum(site.raw_bytes for site in session.sites() if not site.reason)
            self._beside = session.peak_saved_bytes - rows
            self._raw_bytes = rows
        self._known: dict[int, Measured] = {}

    def _train(self, batches: list[Batch], steps: int) -> None:
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)
        for step in range(steps):
            optimizer.zero_grad()
            self._step.loss(batches[step % len(batches)]).backward()
            optimizer.step()
        optimizer.zero_grad()

    def _auto(self, budget: int) -> Auto:
        return Auto.model_validate({"budget": budget, "recompute": self._recompute, "quiet": True})

    def measured(self, strategy: Compressor) -> Measured:
        """What becomes of the gradient after two steps in which the strategy learns and nothing else does."""
        with compress(self.model, strategy) as session:
            for batch in self._batches:
                with session.step():
                    self._step.loss(batch).backward()
            return Measured(session.peak_saved_bytes, 1 - gradient_cosine(self._step, session, self._held_out).total)

    def auto(self, saved_bytes: int) -> Measured:
        """The same of ``auto`` with so many bytes for all that is held."""
        budget = min(saved_bytes - self._beside, self._raw_bytes)
        if budget not in self._known:
            self._known[budget] = self.measured(self._auto(budget))
        return self._known[budget]


def lossy() -> Iterator[tuple[str, Any]]:
    """The names of all shipped strategies that are not exact, with what a suite would write."""
    registry = Registry.load()
    for name in sorted(registry.compressors):
        strategy = registry.compressor(name)
        if not strategy.exact and name not in ("auto", "none"):
            yield name, name


def main() -> None:
    """Prints a table for each state of the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 64, 300], help="steps of training before")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of model and data")
    parser.add_argument("--recompute", default="inputs", help="of auto: none, cheap, inputs or calls")
    arguments = parser.parse_args()
    registry = Registry.load()
    specs = [spec for _, spec in lossy()] + list(OTHER_STRENGTHS)
    lost = contests = 0
    for steps in arguments.steps:
        for seed in arguments.seeds:
            contest = Contest(steps, seed, arguments.recompute)
            rows = []
            for spec in specs:
                alone = contest.measured(registry.compressor(spec))
                own = contest.auto(alone.saved_bytes)
                won = own.error <= max(alone.error, EXACT) and own.saved_bytes <= alone.saved_bytes
                contests, lost = contests + 1, lost + (not won)
                saved = [100 * (1 - each.saved_bytes / contest.plain_bytes) for each in (alone, own)]
                name = str(spec).translate(str.maketrans("", "", "{}'"))
                ratio = alone.error / max(own.error, EXACT)
                rows.append((name, *saved, alone.error, own.error, ratio, "" if won else "lost"))
            print(f"\n{steps} steps of training, seed {seed}, auto with recompute: {arguments.recompute}")
            headers = ("strategy", "saved %", "auto saved %", "1 - cosine", "auto 1 - cosine", "times less", "")
            print(tabulate(rows, headers, floatfmt=("", ".2f", ".2f", ".1e", ".1e", ".3g", "")), flush=True)
    print(f"\nauto won {contests - lost} of {contests}")


if __name__ == "__main__":
    main()
