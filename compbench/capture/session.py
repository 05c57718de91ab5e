"""A session: a strategy at work in a training loop, between what autograd saves and what its backward pass uses."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from compbench.capture.books import Books
from compbench.capture.entry import View
from compbench.capture.handing import unpack
from compbench.capture.honesty import check_state
from compbench.capture.ledger import SavedLedger
from compbench.capture.modules import ModuleTracker
from compbench.capture.operators import OperatorTracker
from compbench.capture.raw import Copied, Raw
from compbench.capture.recipes import Deferred, Recomputed
from compbench.capture.recompute import Recomputer
from compbench.capture.route import Route
from compbench.capture.saving import Saver
from compbench.capture.settings import CaptureSettings
from compbench.capture.sites import SiteBook, SiteReports
from compbench.capture.special import refuse_model
from compbench.capture.steps import Steps
from compbench.capture.weights import Weights
from compbench.compressor import Codec, Compressor, Recomputation
from compbench.errors import CaptureError, CaptureWarning, UnsupportedError
from compbench.readings import read_together

_CHECKED_STEPS = 3
"""Steps after which codecs' state is compared with what they declare: enough for a calibration and what follows it."""


class _Open(threading.local):
    """The sessions that are open in this thread, innermost last."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []


_open = _Open()


@contextmanager
def modules_unfollowed() -> Iterator[None]:
    """Modules run unfollowed by this thread's sessions, which go on to receive what is saved."""
    with ExitStack() as stack:
        for session in _open.sessions:
            stack.enter_context(session._modules.set_aside())
        yield


class Session:
    """A model whose saved activations go through a strategy; made by :func:`compbench.compress`.

    While the session is open, every forward pass with gradient belongs to a step, and so does its backward pass::

        with session:
            with session.step():
                loss = criterion(model(x), y)
                loss.backward()
            optimizer.step()

    A session is opened once, in the thread that trains. Sessions may be nested: what a model saves goes to the session
    of that model, the innermost one if it has several.
    """

    def __init__(self, model: nn.Module, compressor: Compressor, settings: CaptureSettings, seed: int = 0) -> None:
        self.model = model
        self.compressor = compressor
        self.settings = settings
        self.seed = seed
        self._steps = Steps()
        self._books = Books(compressor, settings.sites, seed)
        self._weights = Weights(model)
        self._modules = ModuleTracker(model, self._steps, elsewhere=_refuse_thread)
        # Weakly: a session in a cycle would keep its model until the garbage collector comes.
        receives = weakref.WeakMethod(self._receives)
        self._operators = OperatorTracker(
            attention="literal" if compressor.exact or compressor.lossless else settings.attention,
            active=lambda: (method := receives()) is not None and method(),
            weights=self._weights,
        )
        self._saver = Saver(
            compressor.name,
            settings.minimum_elements,
            self._steps,
            self._books,
            self._weights,
            self._modules,
            self._operators,
        )
        policy = compressor.recomputation()
        if settings.routes != "hooks" and not compressor.exact:
            derives = settings.routes == "operators"
            self._operators.route = Route(self._weights, derives)
            if derives:
                self._saver.derives = policy is None
                policy = policy or Recomputation("cheap")
        self._recomputer: Recomputer | None = None
        if policy is not None:
            route = self._operators.route
            at_rank = route.linear_at_rank if route is not None and settings.routes == "operators" else None
            self._recomputer = Recomputer(
                policy,
                model,
                self._modules,
                self._steps,
                self._saver,
                at_rank,
                loses_nothing=compressor.exact or compressor.lossless,
            )
        self._outer: tuple[Session, ...] = ()
        self._opened = False
        self._stack: ExitStack | None = None
        self._last_devices: frozenset[torch.device] = frozenset()
        self._sites_checked = False
        self._told_of_hooks = False

    # ---------------------------------------------------------------- life

    def __enter__(self) -> Self:
        """Opens the session.

        Raises:
            CaptureError: it is open, or was closed.
            UnsupportedError: the model is compiled, sharded or replicated.
        """
        if self._opened:
            state = "is open already" if self._stack is not None else f"was closed after {self._steps.done} steps"
            raise CaptureError(
                f"this session {state}; a session is opened once, make another by compbench.compress(...)"
                " (session.paused() is for steps in between without it)"
            )
        refuse_model(self.model)
        self._open()
        self._opened = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.__exit__(kind, error, traceback)

    def _open(self) -> None:
        with ExitStack() as stack:
            # These three know each other while the session is open alone: a cycle would keep the model alive.
            self._saver.recomputer = self._operators.recomputer = self._recomputer
            if self._operators.route is not None:
                self._operators.route.recomputer = self._recomputer
            stack.callback(self._forget_recomputer)
            stack.enter_context(self.compressor.wrap(self.model))
            self._modules.start()
            stack.callback(self._modules.stop)
            stack.enter_context(saved_tensors_hooks(self._pack, unpack))
            stack.enter_context(self._operators)
            self._outer = tuple(_open.sessions)
            _open.sessions.append(self)
            stack.callback(_open.sessions.remove, self)
            self._stack = stack.pop_all()

    def _forget_recomputer(self) -> None:
        self._saver.recomputer = self._operators.recomputer = None
        if self._operators.route is not None:
            self._operators.route.recomputer = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The model as it is without the session, for plain steps or evaluation between two steps.

        Raises:
            CaptureError: the session is not open, a step is under way, or another session was opened inside this one.
        """
        if self._stack is None:
            raise CaptureError(f"a pause needs an open session: {self._closed()}")
        if self._steps.under_way:
            raise CaptureError(f"a pause began inside step {self._steps.done}, which has not ended")
        if _open.sessions[-1:] != [self]:
            raise CaptureError("a session can't pause while another one that was opened inside it is open")
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self._open()

    @contextmanager
    def step(self) -> Iterator[None]:
        """One optimiser step: all its forward and backward passes. At its end the strategy moves its bases.

        A step that raises is forgotten by the strategy.

        Raises:
            CaptureError: the session is not open, a step is under way, the model moved to another device since the last
                one, or the step ends without a forward or without a backward pass; in the first step also a pattern
                of ``sites`` that matches nothing.
        """
        with self._counted("step"):
            try:
                yield
                self._steps.check_complete()
                self._check_sites()
            except BaseException:
                self._discard()
                raise
            if self._steps.skipped:
                self._discard()
                return
            used = [(book, book.codec) for book in self._books if book.codec is not None and book.calls]
            with read_together([(self._saver.owner(book), codec) for book, codec in used]):
                for book, codec in used:
                    self._end_step(book, codec)
            self.compressor.coordinate(self._books.uses())
            for book in self._books:
                book.close_step()
            self._steps.done += 1
            self._last_devices = self._weights.devices
        if self._steps.done == 1:
            self._tell_if_idle()

    def skip(self) -> None:
        """Leaves the step that is under way out: when it ends, the strategy forgets it, and it is not counted.

        Raises:
            CaptureError: no step is under way.
        """
        if self._steps.under_way != "step":
            raise CaptureError("skip() belongs into `with session.step():`, and no step is under way")
        self._steps.skipped = True

    @contextmanager
    def probe(self) -> Iterator[None]:
        """Forward and backward passes that leave the strategy as it was: no basis moves, no random stream advances.

        Raises:
            CaptureError: the session is not open, or a step is under way.
        """
        known = list(self._books)
        marks = [(book, book.marks()) for book in known]
        streams = [(stream, stream.get_state()) for book in known for stream in book.generators()]
        with self._counted("probe"):
            try:
                yield
                self._check_sites()
            finally:
                self._discard()
                self._books.keep_only(known)
                for book, mark in marks:
                    book.restore(mark)
                for stream, state in streams:
                    stream.set_state(state)

    @contextmanager
    def _counted(self, what: str) -> Iterator[None]:
        if self._stack is None:
            raise CaptureError(f"a {what} needs an open session: {self._closed()}")
        self._weights.refresh()
        self._check_devices()
        self._steps.begin(what)
        self._modules.reset()
        self._saver.ledger.restart_peak()
        route = self._operators.route
        if route is not None:
            route.begin_step()
        try:
            yield
        finally:
            self._steps.end()
            if route is not None:
                route.end_step()
            if self._recomputer is not None:
                self._recomputer.forget()

    def _closed(self) -> str:
        if self._opened:
            return f"this one was closed after {self._steps.done} steps; make another by compbench.compress(...)"
        return "put it inside `with compbench.compress(...) as session:`"

    def _check_devices(self) -> None:
        if self._last_devices and self._weights.devices != self._last_devices:
            before, now = (
                ", ".join(sorted(map(str, devices))) for devices in (self._last_devices, self._weights.devices)
            )
            raise CaptureError(
                f"the model was on {before} in step {self._steps.done - 1} and is on {now} in step {self._steps.done}: "
                "what the strategy has learnt stays where it was; move the model first and open a session then"
            )

    def _check_sites(self) -> None:
        """In the first step or probe in which the model ran: all sites are known then."""
        if not self._sites_checked and self._steps.ran and not self._steps.skipped:
            self._books.check_patterns()
            self._sites_checked = True

    def _tell_if_idle(self) -> None:
        """Says so if a strategy that should have done something did nothing."""
        books = [book for book in self._books if book.last is not None]
        wanted = [book for book in books if book.codec is not None]
        if self.compressor.exact or self.compressor.changes_the_graph():
            return
        if any(not book.reason or book.pays_from_now_on() for book in wanted):
            return
        if wanted:
            book = max(wanted, key=lambda book: book.last.raw_bytes if book.last else 0)
            why = f"its largest, {book.site.name}: {book.reason}"
        elif any(book.untouched for book in books):
            return  # a strategy, or a choice of sites, that leaves everything
        else:
            why = "; ".join(sorted({book.reason for book in books})) or "autograd saved nothing"
        warnings.warn(
            f"strategy '{self.compressor.name}' compressed nothing in the first step ({len(wanted)} sites; {why}); "
            "print(session.sites()) tells more",
            CaptureWarning,
            stacklevel=4,
        )

    def _end_step(self, book: SiteBook, codec: Codec) -> None:
        owner = self._saver.owner(book)
        try:
            codec.end_step()
        except Exception as error:
            error.add_note(f"raised by end_step(): {owner}")
            raise
        if self._steps.done < _CHECKED_STEPS:
            check_state(codec, owner)

    def _discard(self) -> None:
        for book in self._books:
            if book.codec is not None and book.calls:
                book.codec.discard_step()
            book.abandon_step()

    # ---------------------------------------------------------------- figures

    @property
    def steps(self) -> int:
        """Number of steps that ended."""
        return self._steps.done

    @property
    def ledger(self) -> SavedLedger:
        """Counts what is held for backward."""
        return self._saver.ledger

    @property
    def compresses(self) -> bool:
        """Whether the strategy does anything: changes how the model runs, or has a codec at a site met so far."""
        return self.compressor.changes_the_graph() or any(book.codec is not None for book in self._books)

    @property
    def saved_bytes(self) -> int:
        """Bytes held for backward now, in unique storages, parameters and buffers excepted."""
        return self.ledger.current_bytes

    @property
    def peak_saved_bytes(self) -> int:
        """The highest of :attr:`saved_bytes` since the current, or else the last, step began."""
        return self.ledger.peak_bytes

    @property
    def state_bytes(self) -> int:
        """Bytes of unique storages that the codecs hold by themselves now: bases and accumulators."""
        held = {
            tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
            for book in self._books
            if book.codec is not None
            for tensor in book.codec.state()
        }
        return sum(held.values())

    def sites(self) -> SiteReports:
        """What every site saved in the last step, in the order in which they were first met; ``print`` shows them."""
        return self._books.reports(self._operators.route.notes() if self._operators.route is not None else ())

    def operators(self) -> dict[str, int]:
        """How many operators of the last step ran as the session's own functions, and why others did not.

        Of those alone for which there are such functions; empty where everything takes the hooks.
        """
        found: dict[str, int] = {}
        if self._operators.route is not None:
            for (_, reason), count in self._operators.route.counts.items():
                found[reason] = found.get(reason, 0) + count
        return found

    @property
    def skips_update(self) -> bool:
        """Whether the strategy asks that the step which comes next be not followed by an update of the weights."""
        codecs = (book.codec for book in self._books if book.met and not book.reason)
        return any(codec.skips_update() for codec in codecs if codec is not None)

    def statistics(self) -> dict[str, float]:
        """The codecs' figures over the sites of the last step.

        Integers are counts and are added, floating-point numbers averaged. A site that the last step did not meet, such
        as one that is computed again since, would tell of long ago.
        """
        gathered: dict[str, list[float]] = {}
        for book in self._books:
            if book.codec is not None and book.met and not book.reason:
                for name, value in book.codec.statistics().items():
                    gathered.setdefault(name, []).append(value)
        return {
            name: sum(values) if all(isinstance(v, int) for v in values) else sum(values) / len(values)
            for name, values in gathered.items()
        }

    # ---------------------------------------------------------------- going on later

    def state_dict(self) -> dict[str, Any]:
        """What a new session with the same model, strategy and seed needs to go on bit-identically.

        Plain data and tensors: ``torch.save`` writes it, ``torch.load(weights_only=True)`` reads it.

        Raises:
            CaptureError: a step is under way.
            StateError: a codec holds something that it can't save.
        """
        if self._steps.under_way:
            raise CaptureError(f"the state was asked for inside step {self._steps.done}, which has not ended")
        return {**self._identity(), "steps": self._steps.done, "sites": self._books.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave; called before the first step.

        Raises:
            CaptureError: steps are behind this session, or the state is that of another strategy, setting or seed.
        """
        if self._steps.done or self._steps.under_way:
            raise CaptureError(f"a state is loaded before the first step, and {self._steps.done} are done")
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise CaptureError(f"the state is that of {name} {state.get(name)!r}, and this session has {own!r}")
        self._books.load_state_dict(state["sites"])
        self._steps.done = state["steps"]

    def _identity(self) -> dict[str, Any]:
        return {
            "strategy": self.compressor.name,
            "settings": self.compressor.model_dump_json(),
            "capture": self.settings.model_dump_json(),
            "seed": self.seed,
        }

    # ---------------------------------------------------------------- saved tensors

    def _receives(self) -> bool:
        """Whether tensors that are saved now come to this session, for its model."""
        if not self._modules.stack:
            return False
        top = torch._C._autograd._top_saved_tensors_default_hooks(False)
        innermost = None if top is None else getattr(top[0], "__self__", None)
        if innermost is self:
            return True
        if isinstance(innermost, Session):
            return innermost._receiver() is self
        if top is not None:
            self._tell_of_hooks(top[0])
        return False

    def _tell_of_hooks(self, pack: Any) -> None:
        """Says once that other hooks stand in front of the session's; checkpoints' do so by their nature."""
        module = getattr(pack, "__module__", "")
        if self._told_of_hooks or module == "torch.utils.checkpoint" or self._receiver() is not self:
            return
        self._told_of_hooks = True
        where = f"module '{self._modules.path}'" if self._modules.path else "the model"
        warnings.warn(
            f"{where} runs inside saved-tensor hooks of its own "
            f"({module}.{getattr(pack, '__qualname__', type(pack).__name__)}): "
            "what it saves there is neither compressed nor counted",
            CaptureWarning,
            stacklevel=2,
        )

    def _receiver(self) -> Session | None:
        """Of this session and those around it, the innermost whose model is running."""
        if self._modules.stack:
            return self
        return next((session for session in reversed(self._outer) if session._modules.stack), None)

    def _pack(self, tensor: Tensor) -> Raw | Copied | View | Recomputed | Deferred:
        # Only the innermost pair of hooks runs: it hands over to the session whose model is running.
        if self._modules.stack:
            return self._saver.pack(tensor)
        session = self._receiver()
        if session is None:
            # What is saved while no model is running, by a loss say, counts for the innermost session in a step.
            around = (self, *reversed(self._outer))
            session = next((session for session in around if session._steps.under_way), None)
        return Raw(tensor) if session is None else session._saver.pack(tensor)


def _refuse_thread(module: nn.Module, path: str) -> None:
    """Refuses a forward pass with gradients in a thread in which no session is open that has the module."""
    if not any(session._modules.has(module) for session in _open.sessions):
        raise UnsupportedError(
            f"module '{path or type(module).__name__}' ran with gradients in another thread than the one that opened "
            "its session, where nothing that it saves is caught; open the session in the thread that trains"
        )
