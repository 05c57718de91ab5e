"""A session: a strategy at work in a training loop, between what autograd saves and what its backward pass uses."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from compbench.capture.entry import Entry, Raw, View
from compbench.capture.folding import Fold, find_fold, storage_key
from compbench.capture.honesty import check_declared, check_state
from compbench.capture.ledger import SavedLedger
from compbench.capture.modules import ModuleTracker
from compbench.capture.operators import OperatorTracker
from compbench.capture.settings import CaptureSettings
from compbench.capture.sites import SiteBook, SiteReport
from compbench.capture.weights import Weights
from compbench.compressor import Codec, Compressor, Site
from compbench.errors import CaptureError, UnsupportedError
from compbench.seeds import generator as seeded

_CHECKED_STEPS = 3
"""Steps after which codecs' state is compared with what they declare: enough for a calibration and what follows it."""

_OUTSIDE = "outside the model"
_RECOMPUTED = "recomputed in the backward pass, and used there at once"


class _Open(threading.local):
    """The sessions that are open in this thread, innermost last."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []


_open = _Open()


class Session:
    """A model whose saved activations go through a strategy; made by :func:`compbench.compress`.

    While the session is open, every forward pass with gradient belongs to a step::

        with session:
            with session.step():
                loss = criterion(model(x), y)
                loss.backward()
            optimizer.step()

    Sessions may be nested: what a model saves goes to the session of that model.
    """

    def __init__(self, model: nn.Module, compressor: Compressor, settings: CaptureSettings, seed: int = 0) -> None:
        self.model = model
        self.compressor = compressor
        self.settings = settings
        self.seed = seed
        self.ledger = SavedLedger()
        self._books: dict[tuple[str, str, int, str], SiteBook] = {}
        self._entries: weakref.WeakValueDictionary[object, Entry] = weakref.WeakValueDictionary()
        self._raw: weakref.WeakValueDictionary[object, Raw] = weakref.WeakValueDictionary()
        self._entry_books: weakref.WeakKeyDictionary[Entry, SiteBook] = weakref.WeakKeyDictionary()
        self._weights = Weights(model)
        self._modules = ModuleTracker(model)
        self._operators = OperatorTracker(
            attention="literal" if compressor.exact else settings.attention,
            active=self._receives,
            weights=self._weights,
        )
        self._steps = 0
        self._in_step = False
        self._stack: ExitStack | None = None

    # ---------------------------------------------------------------- life

    def __enter__(self) -> Self:
        """Opens the session.

        Raises:
            CaptureError: it is open already.
            UnsupportedError: the model is compiled.
        """
        if self._stack is not None:
            raise CaptureError("this session is open already")
        _refuse_compiled(self.model)
        with ExitStack() as stack:
            stack.enter_context(self.compressor.wrap(self.model))
            self._modules.start()
            stack.callback(self._modules.stop)
            stack.enter_context(saved_tensors_hooks(_pack, _unpack))
            stack.enter_context(self._operators)
            _open.sessions.append(self)
            stack.callback(_open.sessions.remove, self)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.__exit__(kind, error, traceback)

    @contextmanager
    def step(self) -> Iterator[None]:
        """One optimiser step: all its forward and backward passes. At its end the strategy moves its bases.

        A step that raises is forgotten by the strategy.

        Raises:
            CaptureError: the session is not open, or a step is under way.
        """
        with self._counted("step"):
            try:
                yield
            except BaseException:
                self._discard()
                raise
            for book in self._books.values():
                if book.codec is not None and book.calls:
                    book.codec.end_step()
                    if self._steps < _CHECKED_STEPS:
                        check_state(book.codec, self._owner(book))
            self._close_step()
            self._steps += 1

    @contextmanager
    def probe(self) -> Iterator[None]:
        """Forward and backward passes that leave the strategy as it was: no basis moves, no random stream advances.

        Raises:
            CaptureError: the session is not open, or a step is under way.
        """
        known = dict(self._books)
        marks = {book: book.marks() for book in known.values()}
        streams = [(stream, stream.get_state()) for book in known.values() for stream in book.generators()]
        with self._counted("probe"):
            try:
                yield
            finally:
                self._discard()
                self._books = known
                for book, mark in marks.items():
                    book.restore(mark)
                for stream, state in streams:
                    stream.set_state(state)

    @contextmanager
    def _counted(self, what: str) -> Iterator[None]:
        if self._stack is None:
            raise CaptureError(f"a {what} needs an open session: put it inside `with compbench.compress(...)`")
        if self._in_step:
            raise CaptureError(f"a {what} began inside step {self._steps}, which has not ended")
        self._weights.refresh()
        self._modules.reset()
        self._in_step = True
        self.ledger.restart_peak()
        try:
            yield
        finally:
            self._in_step = False

    def _close_step(self) -> None:
        for book in self._books.values():
            book.close_step()

    def _discard(self) -> None:
        for book in self._books.values():
            if book.codec is not None and book.calls:
                book.codec.discard_step()
            book.abandon_step()

    # ---------------------------------------------------------------- figures

    @property
    def steps(self) -> int:
        """Number of steps that ended."""
        return self._steps

    @property
    def compresses(self) -> bool:
        """Whether the strategy does anything: changes how the model runs, or has a codec at a site met so far."""
        wraps = type(self.compressor).wrap is not Compressor.wrap
        return wraps or any(book.codec is not None for book in self._books.values())

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
            for book in self._books.values()
            if book.codec is not None
            for tensor in book.codec.state()
        }
        return sum(held.values())

    def sites(self) -> list[SiteReport]:
        """What every site saved in the last step, in the order in which sites were first met."""
        return [book.last for book in self._books.values() if book.last is not None]

    def statistics(self) -> dict[str, float]:
        """The codecs' figures over all sites: integers are counts and are added, floating-point numbers averaged."""
        gathered: dict[str, list[float]] = {}
        for book in self._books.values():
            if book.codec is not None and book.last_calls and not book.reason:
                for name, value in book.codec.statistics().items():
                    gathered.setdefault(name, []).append(value)
        return {
            name: sum(values) if all(isinstance(v, int) for v in values) else sum(values) / len(values)
            for name, values in gathered.items()
        }

    # ---------------------------------------------------------------- saved tensors

    def _receives(self) -> bool:
        """Whether tensors that are saved now come to this session, for its model."""
        return self._modules.running and _innermost_hooks_are_ours() and _receiver() is self

    def _pack(self, tensor: Tensor) -> Raw | View:
        if tensor.layout != torch.strided:
            return Raw(tensor, ())  # sparse tensors have no storage that could be folded, or counted
        if self._weights.holds(tensor):
            return Raw(tensor, ())
        if not self._modules.running:
            return self._keep(tensor, _OUTSIDE)
        if torch._C._current_graph_task_id() != -1:
            return self._keep(tensor, _RECOMPUTED)
        if not self._in_step:
            raise CaptureError(
                "the model ran with gradients inside a session but outside a step: "
                "put forward and backward into `with session.step():`, or evaluate under torch.no_grad()"
            )
        key = storage_key(tensor)
        entry = self._entries.get(key)
        if entry is not None and not self._operators.raw_reason:
            self._entry_books[entry].propagating |= not self._operators.weight_only
            return View(tensor, entry)
        reason = self._reason(tensor)
        if reason or key in self._raw:
            return self._keep(tensor, reason)
        fold = find_fold(tensor, self._channels_first(tensor))
        if fold is None:
            return self._keep(tensor, "has no rows")
        book = self._book(fold, tensor)
        book.propagating |= not self._operators.weight_only
        codec = book.codec
        if codec is None:
            return self._keep(tensor, "the strategy leaves it", book)
        raw_bytes = tensor.untyped_storage().nbytes()
        calls = max(book.last_calls, 1)
        kept = codec.kept_bytes(fold.rows, calls, tensor.itemsize)
        if kept is not None and kept >= calls * raw_bytes:
            return self._keep(tensor, f"would keep {kept} of {calls * raw_bytes} bytes", book)
        book.reason = ""
        entry = self._encode(tensor, fold, book, codec)
        self._entries[key] = entry
        self._entry_books[entry] = book
        book.saved(fold.rows, tensor.dtype, raw_bytes)
        return View(tensor, entry)

    def _encode(self, tensor: Tensor, fold: Fold, book: SiteBook, codec: Codec) -> Entry:
        owner = self._owner(book)
        with _plainly(tensor.device.type):
            payload = codec.encode(fold.fold(tensor))
        if type(payload) not in book.checked:
            check_declared(payload, owner)
            book.checked.add(type(payload))
        return Entry(tensor, fold, payload, owner, (self.ledger, book.ledger))

    def _owner(self, book: SiteBook) -> str:
        return f"strategy '{self.compressor.name}' at site {book.site.name}"

    def _reason(self, tensor: Tensor) -> str:
        """Why a tensor must be left as it is, or nothing."""
        if not tensor.is_floating_point():
            return f"{str(tensor.dtype).removeprefix('torch.')} is not real floating point"
        if tensor.untyped_storage().nbytes() < self.settings.minimum_elements * tensor.itemsize:
            return f"fewer than {self.settings.minimum_elements} elements"
        if self._weights.copied_into(tensor):
            return "copy of a weight"
        if self._operators.takes_as_weight(tensor):
            return "weight of a layer"
        if not tensor.requires_grad:
            return "carries no gradient"
        return self._operators.raw_reason

    def _keep(self, tensor: Tensor, reason: str, book: SiteBook | None = None) -> Raw:
        key = storage_key(tensor)
        known = self._raw.get(key)
        if known is not None:
            return Raw(tensor, (self.ledger, *known.ledgers[1:]))  # counted at the site that saved it first
        if book is None:
            book = self._raw_book(tensor, reason)
        book.reason = reason
        raw = Raw(tensor, (self.ledger, book.ledger))
        self._raw[key] = raw
        width = book.site.width or 1
        raw_bytes = tensor.untyped_storage().nbytes()
        book.saved(raw_bytes // tensor.itemsize // width, tensor.dtype, raw_bytes)
        return raw

    def _book(self, fold: Fold, tensor: Tensor) -> SiteBook:
        """The book of the site where a storage is saved that was not saved before."""
        role = f"{self._modules.tag}_{fold.width}"
        index = self._modules.count(role)
        key = (self._modules.path, role, index, "")
        book = self._books.get(key)
        if book is None:
            site = Site(self._modules.path, role, fold.width, index)
            stream = seeded(self.seed, "strategy", site.name, device=tensor.device)
            book = self._books[key] = SiteBook(site, self.compressor.codec(site, stream), stream)
        return book

    def _raw_book(self, tensor: Tensor, reason: str) -> SiteBook:
        """The book of what is left raw for the same reason, with the same width, by the same module."""
        path = self._modules.path if self._modules.running else ""
        tag = self._modules.tag if self._modules.running else "loss"
        width = tensor.shape[-1] if tensor.dim() else 1
        key = (path, f"{tag}_{width}", 0, reason)
        book = self._books.get(key)
        if book is None:
            book = self._books[key] = SiteBook(Site(path, f"{tag}_{width}", width), None, None, reason)
        return book

    def _channels_first(self, tensor: Tensor) -> bool:
        return self._operators.channels_first or (tensor.dim() >= 4 and self._modules.convolutional)


def _receiver() -> Session | None:
    """The open session whose model is running, innermost first."""
    for session in reversed(_open.sessions):
        if session._modules.running:
            return session
    return None


def _pack(tensor: Tensor) -> Raw | View:
    # Only the innermost pair of hooks runs: it hands over to the session whose model is running.
    # What is saved while none is, by a loss say, counts for the innermost one with a step under way.
    session = _receiver() or next((s for s in reversed(_open.sessions) if s._in_step), None)
    return Raw(tensor, ()) if session is None else session._pack(tensor)


def _unpack(saved: Raw | View) -> Tensor:
    if isinstance(saved, Raw):
        return saved.unpack()
    with _plainly(saved.entry.device_type):
        return saved.unpack()


@contextmanager
def _plainly(device_type: str) -> Iterator[None]:
    """Without gradient and without autocast: a strategy computes in the types that it chooses."""
    with torch.no_grad():
        if torch.is_autocast_enabled(device_type):
            with torch.autocast(device_type, enabled=False):
                yield
        else:
            yield


def _innermost_hooks_are_ours() -> bool:
    """Whether no other hooks, such as those of ``torch.utils.checkpoint``, stand in front of ours."""
    top = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return top is not None and top[0] is _pack


def _refuse_compiled(model: nn.Module) -> None:
    dynamo = sys.modules.get("torch._dynamo")
    for path, module in model.named_modules():
        wrapped = dynamo is not None and isinstance(module, dynamo.eval_frame.OptimizedModule)
        if wrapped or getattr(module, "_compiled_call_impl", None) is not None:
            raise UnsupportedError(
                f"module '{path or type(module).__name__}' is compiled: torch.compile runs all unpack hooks at the "
                "start of the backward pass, so nothing would be saved (pytorch#148222); compress the model uncompiled"
            )
