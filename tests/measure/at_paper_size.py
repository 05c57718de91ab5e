"""``python -m tests.measure.at_paper_size [SUITE]``: estimates at batch 8 against real steps, arm by arm.

At the paper's width and depth a step of 8 mazes in bf16 takes about half a minute on two cores, and three of them are
made for each arm.
"""

from __future__ import annotations

import sys
from functools import partial

from compbench.capture import Session
from compbench.measure.estimating import estimate
from compbench.measure.foresight import Foresights
from compbench.measure.memory import Uncompressed, step_memory
from compbench.registry import Registry
from compbench.run.optimizers import make_optimizer
from compbench.run.step_making import StepMaker
from compbench.suite import load_suite

BATCH = 8


def main(suite: str) -> int:
    """Prints a line an arm; the exit status is 1 where saved bytes differ."""
    registry = Registry.load()
    foresights = Foresights({name: known.record for name, known in registry.foresights.items()})
    maker = StepMaker(registry, values=True)
    cells = {cell.label: cell for cell in reversed(load_suite(suite, registry, elsewhere=True).cells(registry))}
    differ = False
    for cell in reversed(cells.values()):
        cell = cell.model_copy(update={"training": cell.training.model_copy(update={"batch_size": BATCH})})
        step, batch = maker.step(cell)
        compressor = registry.compressor([{member.name: member.fields} for member in cell.strategy])
        make = partial(make_optimizer, settings=cell.training)
        optimizer = make(step.model)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        with Session(step.model, compressor, cell.capture, cell.seed) as session:
            for _ in range(2):
                step_memory(step, session, batch, optimizer)
            statistics = {site.name: site.statistics for site in session.sites() if site.statistics}
            real = step_memory(step, session, batch, optimizer)
        step.clear_gradients()
        plain = isinstance(compressor, Uncompressed)
        found = estimate(
            step, None if plain else compressor, cell.capture, batch, make, cell.seed, foresights, statistics
        )
        differ |= found.saved_bytes != real.saved_bytes
        print(
            f"{cell.label}, depth {cell.depth}: saved {found.saved_bytes:,} estimated, {real.saved_bytes:,} really; "
            f"peak {found.peak_delta_bytes:,} and {real.peak_bytes:,} ({found.peak_phase}, {real.peak_phase})",
            flush=True,
        )
    return int(differ)


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or ["paper/table1"])))
