"""All that a training under way consists of, as plain data and tensors, so that another process can go on with it.

On the CPU a training that goes on is bit-identical to one that was never stopped. What is saved is read back by
``torch.load(weights_only=True)``: nothing in a checkpoint is executed.
"""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from compbench.capture import Session
from compbench.errors import CompbenchError
from compbench.measure.fidelity import GradientCosine
from compbench.run.averaging import WeightAverage
from compbench.run.carrying import Carried
from compbench.run.checkpoints import CheckpointError, Header, read_checkpoint, write_checkpoint
from compbench.run.training import Record
from compbench.state import StateError
from compbench.workloads.model_state import held_streams


class UnusableStateError(Exception):
    """A state that could not be loaded, though it is what was saved; model and session are neither new nor restored."""


@dataclass
class TrainingState:
    """What a training changes as it goes on.

    Attributes:
        model: the model; its parameters and buffers, whether they are part of its ``state_dict`` or not.
        optimizer: its optimiser.
        session: the strategy's session, open.
        record: the losses and figures so far.
        cosines: the gradient comparisons so far, by step.
        carried: what one step hands on to the next; None: nothing.
        average: the moving average of the weights; None: there is none.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    session: Session
    record: Record
    cosines: dict[int, GradientCosine]
    carried: Carried | None = None
    average: WeightAverage | None = None

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps.

        Raises:
            StateError: the strategy holds something that it can't save.
        """
        return {
            "model": self.model.state_dict(),
            "tensors": dict(_tensors(self.model)),
            "training": {name: module.training for name, module in self.model.named_modules()},
            "optimizer": self.optimizer.state_dict(),
            "session": self.session.state_dict(),
            "record": asdict(self.record),
            "cosines": {step: (cosine.total, cosine.smallest) for step, cosine in self.cosines.items()},
            "carried": None if self.carried is None else self.carried.state,
            "average": None if self.average is None else self.average.values,
            "random": random_state(next(self.model.parameters()).device),
            "held_streams": [stream.get_state() for stream in held_streams(self.model)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a state; to be called before the first step.

        Raises:
            CaptureError: the state is of another strategy, setting or seed.
            StateError: the strategy can't load it.
            RuntimeError: the model is another one.
        """
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            for name, tensor in _tensors(self.model):
                tensor.copy_(state["tensors"][name])
        for name, module in self.model.named_modules():
            module.training = state["training"][name]
        self.optimizer.load_state_dict(state["optimizer"])
        self.session.load_state_dict(state["session"])
        for name, value in state["record"].items():
            setattr(self.record, name, value)
        self.cosines.update({step: GradientCosine(*values) for step, values in state["cosines"].items()})
        if self.carried is not None:
            self.carried.state = state["carried"]
        if self.average is not None:
            self.average.load(state["average"])
        set_random_state(state["random"], next(self.model.parameters()).device)
        for stream, held in zip(held_streams(self.model), state.get("held_streams", ()), strict=False):
            stream.set_state(held)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers, those among them that a ``state_dict`` leaves out: they may change in the course of a training too."""
    return list(model.named_buffers())


def random_state(device: torch.device) -> dict[str, Any]:
    """The global random streams of torch, of Python and, where it is loaded, of NumPy."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if (numpy := sys.modules.get("numpy")) is not None:
        kind, words, *rest = numpy.random.get_state()
        state["numpy"] = (kind, words.tolist(), *rest)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Puts the global random streams where :func:`random_state` found them."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if "numpy" in state:
        import numpy

        numpy.random.set_state(state["numpy"])


@dataclass
class Checkpointer:
    """Saves a training now and then, and goes on with one that was saved.

    What can't be saved is told once, and the training goes on without checkpoints; a full disk is told of, and tried
    again at the next time.

    Attributes:
        path: where the checkpoint of this cell is.
        key: the cell's key.
        steps: steps of the whole training.
        seconds: between one checkpoint and the next.
        tell: is handed what the log should say, a line at a time.
        began: :func:`time.monotonic` when the cell began.
        earlier_seconds: what earlier processes have put into the state that this one goes on with.
        resumed_from: the steps from which the training went on, this time the last of them.
    """

    path: Path
    key: str
    steps: int
    seconds: float
    tell: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    earlier_seconds: float = 0.0
    resumed_from: list[int] = field(default_factory=list)
    _last: float = field(default_factory=time.monotonic, init=False)
    _off: bool = field(default=False, init=False)
    _stop: bool = field(default=False, init=False)
    _between: tuple[int, TrainingState] | None = field(default=None, init=False)

    def resume(self, training: TrainingState) -> None:
        """Goes on from the checkpoint, if there is one that can be used; why one can't is told.

        Raises:
            UnusableStateError: what was saved can't be loaded, and has been removed.
        """
        try:
            found = read_checkpoint(self.path, self.key, str(torch.__version__))
            if found is None:
                return
            header, data = found
            state = torch.load(io.BytesIO(data), weights_only=True)
        except Exception as error:  # whatever is wrong with a file, it is not gone on from
            reason = str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
            self.tell(f"checkpoint {self.path.name} is not used, and the training begins anew: {reason}")
            return
        try:
            training.load_state_dict(state["state"])
        except Exception as error:
            self.path.unlink(missing_ok=True)
            raise UnusableStateError(f"{type(error).__name__}: {error}") from error
        self.earlier_seconds = state["seconds"]
        self.resumed_from = [*state["resumed_from"], header.step]
        self.tell(f"going on from step {header.step} of {self.steps}")

    @contextmanager
    def saving_when_stopped(self) -> Iterator[None]:
        """Has SIGTERM wait for the end of the step that is under way, so that it can be saved.

        Whoever sent it kills what takes too long.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        earlier = signal.signal(signal.SIGTERM, self._on_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, earlier)
            if self._stop:
                os.kill(os.getpid(), signal.SIGTERM)

    def after(self, step: int, training: TrainingState) -> None:
        """To be called after each step: saves it if it is time, or if the process was asked to stop, and then stops it.

        After the last step there is nothing left to go on with, and nothing is saved.
        """
        due = self._stop or time.monotonic() - self._last >= self.seconds
        if due and step < self.steps and not self._off:
            self.save(training, step)
        if self._stop:
            raise SystemExit(128 + signal.SIGTERM)

    @contextmanager
    def between(self, step: int, training: TrainingState) -> Iterator[None]:
        """For what may wait long between two steps: asked to stop, the process saves the state and stops at once."""
        self._between = step, training
        try:
            yield
        finally:
            self._between = None

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
        if self._between is not None:
            step, training = self._between
            self._between = None
            self.after(step, training)

    def save(self, training: TrainingState, step: int) -> None:
        """Saves the state after a step."""
        self._last = time.monotonic()
        buffer = io.BytesIO()
        try:
            state = training.state_dict()
        except (StateError, CompbenchError) as error:
            self._off = True
            self.tell(f"no checkpoints of this training, since its strategy can't be saved: {error}")
            return
        whole = {
            "state": state,
            "seconds": self.earlier_seconds + time.monotonic() - self.began,
            "resumed_from": self.resumed_from,
        }
        torch.save(whole, buffer)
        try:
            write_checkpoint(self.path, Header(self.key, step, self.steps, str(torch.__version__)), buffer.getbuffer())
        except CheckpointError as error:
            self._off = True
            self.tell(f"no checkpoints of this training: {error}")
        except OSError as error:
            self.tell(f"the checkpoint after step {step} can't be written: {error.strerror or error}")
