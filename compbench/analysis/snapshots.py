"""Snapshots: a cell's model and strategy at some steps of its training, which is repeated for them.

Training on the CPU is deterministic, so that the same cell gives the same losses; they are compared with the record's.
Snapshots are kept in a folder, from which they are read back by ``torch.load(weights_only=True)``: nothing in them is
executed. Layout::

    DIR/<suite>/snapshots/<key>/training.json   which steps, and what the training left behind
    DIR/<suite>/snapshots/<key>/<step>.pt       model and session after so many steps
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compbench.capture import Session
from compbench.errors import CaptureError, StoreError, UnsupportedError
from compbench.run.files import folder_in_the_making
from compbench.run.preparing import Prepared, prepare
from compbench.run.result import CellResult
from compbench.run.training import DivergedError, Record
from compbench.state import StateError
from compbench.suite.cell import Cell

SCHEMA = 1
_TRAINING = "training.json"

Tell = Callable[[str], None]


class Repeated(BaseModel):
    """A training that was repeated for its snapshots, without them."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    schema_version: int = SCHEMA
    key: str
    torch: str = Field(description="version of torch")
    threads: int
    steps: list[int] = Field(description="the steps of which there are snapshots, in order")
    loss_curve: list[float]
    statistics_curve: list[dict[str, float]] = Field(description="the strategy's figures, as in a record")
    skipped_batches: int = 0
    without_strategy: str = Field("", description="why the strategy's state is not among the snapshots")


@dataclass(frozen=True)
class Comparison:
    """Whether a repeated training is the recorded one.

    Attributes:
        same: Whether every loss is the same, bit for bit; None where there is no record.
        reason: Why it is not True; empty where it is.
    """

    same: bool | None
    reason: str = ""


def snapshot_steps(steps: int, points: int) -> list[int]:
    """At most so many steps, evenly spread, 0 and the last among them."""
    return sorted({round(number * steps / (points - 1)) for number in range(points)}) if points > 1 else [steps]


def compare(repeated: Repeated, record: CellResult | None) -> Comparison:
    """Compares the losses of a repeated training with those of a record."""
    if record is None:
        return Comparison(None, "there is no record of this cell")
    pairs = list(zip(repeated.loss_curve, record.loss_curve, strict=False))
    if len(repeated.loss_curve) != len(record.loss_curve):
        return Comparison(False, f"{len(repeated.loss_curve)} losses, and the record has {len(record.loss_curve)}")
    first = next((number for number, (ours, theirs) in enumerate(pairs, start=1) if ours != theirs), None)
    if first is None:
        return Comparison(True)
    largest = max(abs(ours - theirs) for ours, theirs in pairs)
    why = f"losses differ from step {first} on, by {largest:.3g} at most"
    if record.environment is not None and record.environment.threads != repeated.threads:
        why += f"; the record's process had {record.environment.threads} threads, and this one {repeated.threads}"
    return Comparison(False, f"{why}; another version of torch or another processor rounds otherwise")


class Snapshots:
    """The snapshots of one cell in a folder.

    Args:
        folder: Where they are; see :func:`take_snapshots`.
        training: What ``training.json`` says.
    """

    def __init__(self, folder: Path, training: Repeated) -> None:
        self.folder = folder
        self.training = training

    @property
    def steps(self) -> list[int]:
        """Their steps, in order."""
        return self.training.steps

    @classmethod
    def read(cls, folder: Path, key: str) -> Snapshots | None:
        """Those that are there; None where there are none, or not of this cell, or not whole."""
        try:
            training = Repeated.model_validate_json((folder / _TRAINING).read_text(encoding="utf-8"))
        except (OSError, ValidationError, UnicodeDecodeError):
            return None
        if training.key != key or not all((folder / f"{step}.pt").is_file() for step in training.steps):
            return None
        return cls(folder, training)

    def load(self, step: int) -> dict[str, Any]:
        """The snapshot after a step: ``model`` and ``session``, which is None where it could not be saved.

        Raises:
            StoreError: It can't be read.
        """
        path = self.folder / f"{step}.pt"
        try:
            loaded: dict[str, Any] = torch.load(path, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise StoreError(f"snapshot {path} can't be read, remove its folder to train anew: {error}") from error
        return loaded


def take_snapshots(cell: Cell, folder: Path, points: int, threads: int, tell: Tell) -> Snapshots:
    """Repeats a cell's training and keeps snapshots of it, in place of earlier ones.

    Args:
        cell: The cell, with its plugins as they are now.
        folder: Where they go, whole or not at all.
        points: How many snapshots.
        threads: Of torch's operators.
        tell: Is handed a line now and then.

    Raises:
        CompbenchError: The cell can't be trained.
        UnsupportedError: A loss is not finite.
        StoreError: They can't be written.
    """
    torch.set_num_threads(threads)
    prepared = prepare(cell)
    steps = snapshot_steps(cell.training.steps, points)
    record = Record()
    try:
        with folder_in_the_making(folder) as made:
            taking = _Taking(prepared, made, steps)
            with prepared.session:
                taking.after(0)
                prepared.train(record, _telling(taking.after, cell.training.steps, tell))
            repeated = Repeated(
                key=cell.key,
                torch=str(torch.__version__),
                threads=torch.get_num_threads(),
                steps=steps,
                loss_curve=record.loss_curve,
                statistics_curve=record.statistics,
                skipped_batches=record.skipped_batches,
                without_strategy=taking.without_strategy,
            )
            (made / _TRAINING).write_text(repeated.model_dump_json(indent=1), encoding="utf-8")
    except DivergedError as error:
        raise UnsupportedError(f"cell {cell.key} has no trained weights to analyse: {error}") from error
    except OSError as error:
        raise StoreError(f"can't write snapshots to {folder}: {error.strerror or error}") from error
    return Snapshots(folder, repeated)


class _Taking:
    """Writes a snapshot at each of some steps."""

    def __init__(self, prepared: Prepared, folder: Path, steps: Sequence[int]) -> None:
        self._prepared = prepared
        self._folder = folder
        self._steps = set(steps)
        self.without_strategy = ""

    def after(self, steps_done: int) -> None:
        if steps_done not in self._steps:
            return
        state = {"model": self._prepared.step.model.state_dict(), "session": self._session()}
        torch.save(state, self._folder / f"{steps_done}.pt")

    def _session(self) -> dict[str, Any] | None:
        if self.without_strategy:
            return None
        try:
            return self._prepared.session.state_dict()
        except (StateError, CaptureError) as error:
            self.without_strategy = str(error)
            return None


def _telling(after: Callable[[int], None], steps: int, tell: Tell) -> Callable[[int], None]:
    tenth = max(1, steps // 10)

    def told(steps_done: int) -> None:
        after(steps_done)
        if steps_done % tenth == 0 and steps_done < steps:
            tell(f"trained {steps_done} of {steps} steps")

    return told


def restore(prepared: Prepared, state: dict[str, Any]) -> None:
    """Puts a snapshot's weights into a prepared cell's model."""
    prepared.step.model.load_state_dict(state["model"])


def session_at(prepared: Prepared, cell: Cell, state: dict[str, Any]) -> Session | None:
    """A new session, not open yet, with the strategy as it was at a snapshot; None where that could not be saved."""
    if state["session"] is None:
        return None
    session = Session(prepared.step.model, prepared.session.compressor, cell.capture, cell.seed)
    session.load_state_dict(state["session"])
    return session
