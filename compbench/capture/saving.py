"""What becomes of each tensor that autograd saves: a payload, a view of one, or the tensor itself, with the reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from compbench.capture.books import COMPUTED_AGAIN, Books
from compbench.capture.entry import Entry, LastRebuilt, View
from compbench.capture.folding import Fold, find_fold
from compbench.capture.honesty import check_declared
from compbench.capture.ledger import SavedLedger
from compbench.capture.modules import ModuleTracker
from compbench.capture.observing import Operator, SavedTensor, gradient_observer, operator_observer
from compbench.capture.operators import OperatorTracker
from compbench.capture.plainly import plainly
from compbench.capture.raw import Alive, Copied, Raw, look_up
from compbench.capture.recipes import Deferred, Recipe, Recomputed, mapped
from compbench.capture.recompute import Recomputer
from compbench.capture.sites import SiteBook
from compbench.capture.special import describe_special, parts
from compbench.capture.steps import Steps
from compbench.capture.versions import Place, VersionGuard, place_of
from compbench.capture.weights import Weights
from compbench.compressor import Codec
from compbench.errors import CaptureError, CaptureWarning

_OUTSIDE = "outside the model"
_COPIED = "copy of a weight"
_NEGATED = "a negated view of complex numbers"
_COUNTED_APART = "a part of a storage that counts its changes by itself"
_RECOMPUTED = "recomputed in the backward pass, and used there at once"


class Saver:
    """Decides for one session what autograd keeps of a tensor; :meth:`pack` is called for every tensor that is saved.

    Args:
        owner: the strategy, for messages.
        minimum_elements: storages with fewer elements are left raw.
        steps: the session's steps.
        books: the session's sites.
        weights: tells weights from activations.
        modules: which module is running.
        operators: which operator is running.
    """

    def __init__(
        self,
        owner: str,
        minimum_elements: int,
        steps: Steps,
        books: Books,
        weights: Weights,
        modules: ModuleTracker,
        operators: OperatorTracker,
    ) -> None:
        self.ledger = SavedLedger()
        self._owner = owner
        self._minimum_elements = minimum_elements
        self._steps = steps
        self._books = books
        self._weights = weights
        self._modules = modules
        self._operators = operators
        # What is alive of the graph, by the address of the storage; both take themselves out when they die.
        self._entries: Alive[Entry] = {}
        self._raw: Alive[Raw] = {}
        self._last = LastRebuilt()
        self._watched: list[tuple[Entry, bool, SavedTensor]] = []
        self._watching: int | None = None  # the last step in which a codec wanted to see operators
        self._begins_recipe = False
        self._folds: dict[object, Fold | None] = {}
        self.recomputer: Recomputer | None = None
        self.derives = False  # whether what follows from what is kept is not kept, though no strategy asked for that
        self._warned: set[tuple[str, str]] = set()
        self._in_backward: Callable[[], int] = torch._C._current_graph_task_id

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor is kept already, is a weight, or carries no gradient, so that recipes may begin with it."""
        address = tensor.untyped_storage()._cdata
        if not tensor.requires_grad or self._weights.holds(tensor, address):
            return True
        entry = look_up(self._entries, address)
        return (entry is not None and entry.version == tensor._version) or look_up(self._raw, address) is not None

    def kept(self, address: int, place: Place, guard: VersionGuard, dtype: torch.dtype) -> Raw | View | None:
        """What stands for a tensor of a storage that is kept, if that is at the version that it had; or None."""
        version = guard.version
        if version is None:
            return None
        entry = look_up(self._entries, address)
        if entry is not None:
            same = entry.version == version and entry.dtype is dtype and entry.counts(guard.counter)
            return View(entry, place) if same else None
        raw = look_up(self._raw, address)
        return None if raw is None or not guard.counts(raw.tensor) else raw.part(place, version, dtype)

    def pack_leaf(self, tensor: Tensor) -> Raw | Copied | View | Recomputed | Deferred:
        """What stands for a tensor that a recipe begins with: the operator that takes it may not save it."""
        self._begins_recipe = True
        try:
            return self.pack(tensor)
        finally:
            self._begins_recipe = False

    def pack(self, tensor: Tensor, carries_gradient: bool | None = None) -> Raw | Copied | View | Recomputed | Deferred:
        """What stands in the graph for a tensor that is saved.

        Args:
            tensor: the tensor.
            carries_gradient: whether it does, where it was detached since.

        Raises:
            CaptureError: the model runs with gradients outside a step.
        """
        special = describe_special(tensor)
        if special:
            return self._keep_special(tensor, special)
        address = tensor.untyped_storage()._cdata
        if self._weights.holds(tensor, address):
            return Raw(tensor)
        if not self._modules.stack:
            return self._keep(tensor, address, _OUTSIDE)
        if self._in_backward() != -1:
            return self._keep(tensor, address, _RECOMPUTED)
        if not self._steps.under_way:
            raise CaptureError(
                "the model ran with gradients inside a session but outside a step: "
                "put forward and backward into `with session.step():`, or evaluate under torch.no_grad()"
            )
        if not self._begins_recipe:
            self._steps.saved = True
        book: SiteBook | None = None
        operators = self._operators
        entry = look_up(self._entries, address)
        if entry is not None:
            if not entry.counts(tensor) or tensor.is_neg():
                # Whether the storage has changed since it was encoded can't be told, or a view does not tell its sign.
                reason = _NEGATED if tensor.is_neg() else _COUNTED_APART
                if entry.dtype is tensor.dtype:
                    entry.keep(tensor, reason)
                return self._keep(tensor, address, reason)
            if entry.version == tensor._version and entry.dtype is tensor.dtype:
                if operators.raw_reason:
                    entry.keep(tensor, operators.raw_reason)
                entry.book.propagating |= not operators.weight_only
                if entry.watched and not self._begins_recipe:
                    self._watch(tensor, entry)
                return View(entry, place_of(tensor))
        if look_up(self._raw, address) is not None:
            return self._keep(tensor, address, "")
        if self.recomputer is not None:
            if self.recomputer.copies(address):
                return self._keep_copy(tensor)
            recipe = self.recomputer.find(tensor, address)
            if recipe is not None:
                book = self._site_that_keeps(tensor, recipe)
                if book is None:
                    return self._recompute(tensor, recipe)
            if self.recomputer.defers(address):
                # A copy of a weight is known by the node that made it, which is not there any more later on.
                copied = self._weights.copied_into(tensor) or self._operators.takes_as_weight(tensor)
                return self._keep(tensor, address, _COPIED) if copied else self.recomputer.defer(tensor)
        reason = self._reason(tensor, tensor.requires_grad if carries_gradient is None else carries_gradient)
        if reason:
            return self._keep(tensor, address, reason)
        fold = self._fold(tensor)
        if fold is None:
            return self._keep(tensor, address, "has no rows")
        if book is None:
            book = self._books.of(self._modules, fold.width, tensor.device)
        codec = book.codec
        if codec is None:
            return self._keep(tensor, address, book.untouched, book)
        raw_bytes = tensor.untyped_storage().nbytes()
        calls = max(book.last_calls, 1)
        kept = codec.kept_bytes(fold.rows, calls, tensor.itemsize)
        if kept is not None and kept >= calls * raw_bytes:
            return self._keep(tensor, address, f"would keep {kept} of {calls * raw_bytes} bytes", book)
        book.reason = ""
        book.propagating |= not operators.weight_only
        entry = self._encode(tensor, fold, book, codec)
        book.saved(fold.rows, tensor.dtype, raw_bytes)
        if codec.watches_gradients or codec.watches_operators:
            entry.watched = True
            if codec.watches_operators:
                self._watching = self._steps.done
            if not self._begins_recipe:
                self._watch(tensor, entry)
        return View(entry, place_of(tensor))

    def _site_that_keeps(self, tensor: Tensor, recipe: Recipe) -> SiteBook | None:
        """The site of a tensor that is kept though a recipe would give it: it is not chosen, or costs less so.

        None where the recipe does. A linear layer's rows of which nothing but the weight gradient needs to know may
        cost less to encode and to multiply at a low rank than to compute again and multiply at their width.
        """
        if not self.derives:
            return None  # what is recomputed is the strategy's own business
        route, fold = self._operators.route, self._fold(tensor)
        if recipe.counted or self._begins_recipe or fold is None:
            return None
        book = self._books.of(self._modules, fold.width, tensor.device)
        if not book.chosen:
            return book
        if book.codec is None or route is None or not route.outputs:
            return None
        if recipe.scaled is not None and recipe.scaled.rows.whole_payload() is not None:
            return None  # which gives the weight gradient as well as one of its own would
        operations = book.codec.weight_gradient_operations(fold.rows, route.outputs)
        return book if operations is not None and operations < fold.rows * fold.width * route.outputs else None

    def _recompute(self, tensor: Tensor, recipe: Recipe) -> Recomputed:
        if not recipe.counted and not self._begins_recipe:  # what only another recipe asks for, nobody would have kept
            recipe.counted = True
            book = self._raw_book(tensor.shape[-1] if tensor.dim() else 1, COMPUTED_AGAIN)
            raw_bytes = tensor.untyped_storage().nbytes()
            book.saved(raw_bytes // tensor.itemsize // (book.site.width or 1), tensor.dtype, raw_bytes)
        if self._watching == self._steps.done and not self._begins_recipe:
            for entry in recipe.entries():
                if entry.watched:
                    self._watch(tensor, entry, recipe)
        return Recomputed(tensor, recipe, self._steps)

    def _watch(self, tensor: Tensor, entry: Entry, recipe: Recipe | None = None) -> None:
        """Notes that the operator that is running saves rows whose codec wants to see its gradients.

        Args:
            tensor: what it saves.
            entry: the rows.
            recipe: how what it saves is computed from them; None: it is they.
        """
        in_rows = (
            recipe is None
            and not entry.fold.positions
            and tensor.is_contiguous()
            and tensor.shape[-1] == entry.fold.width
        )
        self._watched.append((entry, in_rows, SavedTensor(tensor, entry, recipe)))
        self._operators.finished = self._show_gradient

    def _computed_again(self, entry: Entry, arguments: Any, keywords: Mapping[str, Any]) -> list[SavedTensor]:
        """What an operator takes and does not save, and what need not be kept for it as it is computed again."""
        found: list[SavedTensor] = []

        def look(tensor: Tensor) -> Tensor:
            recomputer = None if describe_special(tensor) else self.recomputer
            recipe = None if recomputer is None else recomputer.find(tensor, tensor.untyped_storage()._cdata)
            if recipe is not None:
                found.append(SavedTensor(tensor, entry, recipe))
            return tensor

        mapped(arguments, look)
        mapped(dict(keywords), look)
        return found

    def _show_gradient(
        self, output: object, function: Callable[..., Any], arguments: Any, keywords: Mapping[str, Any]
    ) -> None:
        """Lets codecs see the gradients of the operator that has run, when its backward begins."""
        self._operators.finished = None
        watched, self._watched = self._watched, []
        if not isinstance(output, Tensor) or output.grad_fn is None:
            return
        place, rows = output.output_nr, output.shape[:-1].numel() if output.dim() > 1 else 0
        operator: Operator | None = None
        for entry in {id(watch[0]): watch[0] for watch in watched}.values():
            codec = entry.book.codec
            if codec is not None and codec.watches_operators:
                if operator is None:
                    saved = [saved for *_, saved in watched]
                    saved += self._computed_again(entry, arguments, keywords)
                    operator = Operator(function, arguments, keywords, output, saved)
                if operator.takes(entry):
                    output.grad_fn.register_prehook(operator_observer(entry, operator, place))
            in_rows = any(whole for of, whole, _ in watched if of is entry)
            if codec is not None and codec.watches_gradients and in_rows and entry.fold.rows == rows:
                output.grad_fn.register_prehook(gradient_observer(entry, place))

    def _encode(self, tensor: Tensor, fold: Fold, book: SiteBook, codec: Codec) -> Entry:
        try:
            payload = plainly(tensor.device.type, lambda tensor: codec.encode(fold.fold(tensor)), tensor)
        except Exception as error:
            error.add_note(f"raised by encode(): {self.owner(book)}")
            raise
        if type(payload) not in book.checked:
            check_declared(payload, self.owner(book))
            book.checked.add(type(payload))
        return Entry(tensor, fold, payload, self._owner, self._steps, self.ledger, book, self._entries, self._last)

    def owner(self, book: SiteBook) -> str:
        """Strategy and site, for messages."""
        return book.owned_by(self._owner)

    def _reason(self, tensor: Tensor, carries_gradient: bool) -> str:
        """Why a tensor must be left as it is, or nothing."""
        if tensor.is_neg():
            return _NEGATED
        if not tensor.is_floating_point():
            return f"{str(tensor.dtype).removeprefix('torch.')} is not real floating point"
        if tensor.untyped_storage().nbytes() < self._minimum_elements * tensor.itemsize:
            return f"fewer than {self._minimum_elements} elements"
        if self._weights.copied_into(tensor):
            return _COPIED
        if self._operators.takes_as_weight(tensor):
            return "weight of a layer"
        if not carries_gradient:
            return "carries no gradient"
        return self._operators.raw_reason

    def _keep(self, tensor: Tensor, address: int, reason: str, book: SiteBook | None = None) -> Raw:
        known = look_up(self._raw, address)
        if known is not None and known.book is not None:
            # Counted at the site that saved it first.
            if self._modules.stack:
                known.book.propagating |= not self._operators.weight_only
            return Raw(tensor, self._steps, (self.ledger, known.book.ledger), known.book)
        if book is None:
            book = self._raw_book(tensor.shape[-1] if tensor.dim() else 1, reason)
        book.reason = reason
        if self._modules.stack:
            book.propagating |= not self._operators.weight_only
        raw_bytes = tensor.untyped_storage().nbytes()
        book.saved(raw_bytes // tensor.itemsize // (book.site.width or 1), tensor.dtype, raw_bytes)
        return Raw(tensor, self._steps, (self.ledger, book.ledger), book, self._raw, address)

    def _keep_copy(self, tensor: Tensor) -> Copied:
        """Keeps a part of a storage by itself, so that the rest of it is freed."""
        book = self._raw_book(tensor.shape[-1], "a copy of a part")
        book.propagating |= not self._operators.weight_only
        copied = Copied(tensor, self._steps, (self.ledger, book.ledger), book)
        # What would have been kept: the whole storage.
        storage = tensor.untyped_storage()
        book.saved(tensor.numel() // tensor.shape[-1], tensor.dtype, storage.nbytes())
        return copied

    def _keep_special(self, tensor: Tensor, special: str) -> Raw:
        """Keeps a tensor without a storage of rows; its parts are counted, and what has no parts is told of."""
        if not self._steps.under_way:
            return Raw(tensor)
        path = self._modules.path if self._modules.stack else ""
        if not parts(tensor) and (path, special) not in self._warned:
            self._warned.add((path, special))
            where = f"in module '{path}'" if path else "in the model itself"
            warnings.warn(
                f"a {special} saved {where} is kept as it is, and its memory can't be told: saved bytes leave it out",
                CaptureWarning,
                stacklevel=2,
            )
        book = self._raw_book(0, special)
        book.reason = special
        if self._modules.stack:
            self._steps.saved = True
            book.propagating |= not self._operators.weight_only
        raw_bytes = sum(part.untyped_storage().nbytes() for part in parts(tensor))
        book.saved(0, tensor.dtype, raw_bytes)
        return Raw(tensor, self._steps, (self.ledger, book.ledger), book)

    def _raw_book(self, width: int, reason: str) -> SiteBook:
        path, tag = (self._modules.path, self._modules.tag) if self._modules.stack else ("", "loss")
        return self._books.raw(path, f"{tag}_{width}", width, reason)

    def _fold(self, tensor: Tensor) -> Fold | None:
        """How the tensor's storage becomes rows; found once for each shape and place in memory."""
        shape, base = tensor.shape, tensor._base
        channels_first = self._operators.channels_first or (len(shape) >= 4 and self._modules.convolutional)
        size = tensor.untyped_storage().nbytes()
        place = None if base is None else (base.shape, base.stride(), base.dtype)
        key = (shape, tensor.stride(), tensor.dtype, size, channels_first, place)
        if key not in self._folds:
            self._folds[key] = find_fold(tensor, channels_first)
        return self._folds[key]
