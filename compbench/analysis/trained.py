"""A trained cell as analyses see it: a model whose weights can be put to any snapshot, and held-out examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compbench.analysis.rows import SiteRows, Visitor, choose_sites, visit_rows
from compbench.analysis.snapshots import Snapshots, restore, session_at
from compbench.analysis.subspaces import add_gram
from compbench.capture import Session
from compbench.compressor import Site
from compbench.errors import UnsupportedError
from compbench.measure.step import Step
from compbench.records import Batch
from compbench.run.preparing import Prepared, prepare
from compbench.suite.cell import Cell


@dataclass
class Trained:
    """A cell, made ready, with its snapshots.

    Attributes:
        cell: The cell, with its plugins as they are now.
        snapshots: Its snapshots.
    """

    cell: Cell
    snapshots: Snapshots

    @cached_property
    def prepared(self) -> Prepared:
        """The model, with the weights of the snapshot at which it was put last, and the data."""
        return prepare(self.cell)

    @property
    def step(self) -> Step:
        """The model's step."""
        return self.prepared.step

    @property
    def steps(self) -> list[int]:
        """The steps of the snapshots."""
        return self.snapshots.steps

    def at(self, step: int) -> None:
        """Puts the model's weights to those of a snapshot."""
        restore(self.prepared, self.snapshots.load(step))

    def session_at(self, step: int) -> Session | None:
        """The strategy's session as it was then, not open; None where it could not be saved."""
        return session_at(self.prepared, self.cell, self.snapshots.load(step))

    def held_out(self, examples: int, batch: int = 0) -> Batch:
        """Held-out examples, the first so many or, for the batches after, as many that follow; at the end, the last.

        Args:
            examples: How many; at most all are given.
            batch: How many such batches come before.
        """
        data = self.prepared.data.validation
        last = max(0, len(next(iter(data.values()))) - examples)
        start = min(batch * examples, last)
        return self.step.batch(data, slice(start, start + examples))

    def training_batch(self, examples: int) -> Batch:
        """The first so many training examples in the order in which they were trained on."""
        rows = self.prepared.order.flatten().unique()[:examples]
        return self.step.batch(self.prepared.data.train, rows)

    def visit(self, batch: Batch, visit: Visitor) -> dict[str, SiteRows]:
        """Shows the rows of every site in an exact forward pass at the model's weights."""
        return visit_rows(self.step, self.cell.capture, batch, visit)

    def grams(
        self, batch: Batch, sites: tuple[str | int, ...] = (), step: Step | None = None
    ) -> dict[str, tuple[SiteRows, Tensor]]:
        """The Gram matrix of each chosen site's rows, ``(D, D)`` in float64, over all calls of a batch.

        Args:
            batch: The examples.
            sites: Patterns.
            step: Another model than the cell's own.

        Raises:
            SettingsError: A pattern matches no site.
        """
        sums: dict[str, Tensor] = {}

        def add(site: Site, call: int, rows: Tensor) -> None:
            if site.name not in sums:
                sums[site.name] = torch.zeros(site.width, site.width, dtype=torch.float64, device=rows.device)
            add_gram(sums[site.name], rows)

        found = choose_sites(visit_rows(step or self.step, self.cell.capture, batch, add), sites)
        return {name: (rows, sums[name]) for name, rows in found.items()}

    @cached_property
    def recurrent_modules(self) -> list[str]:
        """Paths of the modules that run once a recursion call."""
        return self.step.workload.recurrent_modules(self.step.model)

    def states(self, batch: Batch) -> dict[str, list[Tensor]]:
        """What each recurring module gives at each call, ``(N, D)``, in an exact pass without gradient.

        Raises:
            UnsupportedError: No module recurs, or one gives something else than a tensor.
        """
        with torch.no_grad():
            return recurrent_states(self.step, self.recurrent_modules, batch)

    @cached_property
    def hidden_width(self) -> int | None:
        """Width of the recurring state; None where nothing recurs."""
        try:
            states = self.states(self.held_out(1))
        except UnsupportedError:
            return None
        return next(iter(states.values()))[0].shape[1]


def recurrent_states(step: Step, paths: list[str], batch: Batch) -> dict[str, list[Tensor]]:
    """What each of some modules gives at each of its calls in a forward pass, ``(N, D)``.

    Raises:
        UnsupportedError: There are none, or one gives something else than a tensor.
    """
    if not paths:
        raise UnsupportedError(
            f"workload '{step.workload.name}' names no recurring module, so that there is no state to follow "
            "(allowed: workloads whose recurrent_modules() names one)"
        )
    found: dict[str, list[Tensor]] = {path: [] for path in paths}

    def hook(path: str) -> object:
        def note(module: object, arguments: object, output: object) -> None:
            if not isinstance(output, Tensor):
                raise UnsupportedError(f"module '{path}' gives a {type(output).__name__} (allowed: a tensor)")
            found[path].append(output.detach().flatten(0, -2).clone())

        return step.model.get_submodule(path).register_forward_hook(note)

    handles = [hook(path) for path in paths]
    try:
        step.output(batch)
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]
    return found


def default_ranks(width: int | None, sites: list[SiteRows]) -> tuple[int, ...]:
    """A sixteenth, an eighth, a quarter and a half of the recurring state's width; else of the narrowest site's."""
    base = width if width is not None else min(rows.site.width for rows in sites)
    return tuple(sorted({max(1, base // part) for part in (16, 8, 4, 2)}))


def batches(trained: Trained, examples: int, count: int) -> Iterator[Batch]:
    """So many batches of held-out examples, as far as there are others than those before."""
    available = len(next(iter(trained.prepared.data.validation.values())))
    for number in range(max(1, min(count, available // examples))):
        yield trained.held_out(examples, number)
