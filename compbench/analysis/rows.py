"""Rows by site: an exact pass through a model in which every tensor that autograd saves is shown to a visitor.

A stand-in takes the place of a strategy. It is called lossy, so that attention saves what it saves under lossy
strategies, and keeps nothing: only forward passes are run, whose graph is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pydantic import PrivateAttr
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from compbench.capture import CaptureSettings, Session
from compbench.compressor import Codec, Compressor, Payload, Site
from compbench.errors import SettingsError
from compbench.measure.step import Step
from compbench.records import Batch
from compbench.site_patterns import SitePatterns

Visitor = Callable[[Site, int, Tensor], None]
"""Is handed a site, the number of the call in this pass, from 0, and its rows ``(N, D)``, only to be read."""


@dataclass(frozen=True)
class SiteRows:
    """A site, as it was met in a pass.

    Attributes:
        site: The site.
        calls: How many storages it saved.
        rows: Rows of all calls together.
        dtype: Of the rows.
        rank_bound: The largest rank that a linear layer allows of which the rows are the output, where that is below
            their width; None else.
    """

    site: Site
    calls: int
    rows: int
    dtype: torch.dtype
    rank_bound: int | None

    def record(self) -> dict[str, Any]:
        """What every result says of a site."""
        site = self.site
        return {
            "role": site.role,
            "module": site.module,
            "width": site.width,
            "rows": self.rows,
            "calls": self.calls,
        }


def visit_rows(step: Step, settings: CaptureSettings, batch: Batch, visit: Visitor) -> dict[str, SiteRows]:
    """Runs a forward pass and shows the rows of every site to a visitor; returns the sites by name, as first met.

    The model and torch's global generator are as they were afterwards.

    Args:
        step: The model.
        settings: What is compressed; their routes are always ``hooks``.
        batch: The examples.
        visit: The visitor.
    """
    found: dict[str, SiteRows] = {}
    outputs = _LinearOutputs()

    def seen(site: Site, call: int, rows: Tensor) -> None:
        known = found.get(site.name)
        count = len(rows) + (known.rows if known else 0)
        bound = outputs.bound(rows)
        if known is not None and known.rank_bound != bound:
            bound = None  # not every call is such an output
        found[site.name] = SiteRows(site, call + 1, count, rows.dtype, bound)
        visit(site, call, rows)

    shown = _Shown()
    shown._visit = seen
    everything = settings.model_copy(update={"routes": "hooks", "sites": ()})
    devices = [step.device] if step.device.type == "cuda" else []
    session = Session(step.model, shown, everything)
    with torch.random.fork_rng(devices), session, session.probe(), outputs, torch.enable_grad():
        step.loss(batch)
    bounded = {name for name, rows in found.items() if rows.rank_bound and rows.rank_bound < rows.site.width}
    return {name: rows if name in bounded else replace(rows, rank_bound=None) for name, rows in found.items()}


def choose_sites(found: dict[str, SiteRows], patterns: tuple[str | int, ...]) -> dict[str, SiteRows]:
    """The sites that patterns choose, all of them where there are no patterns.

    Raises:
        SettingsError: A pattern matches none.
    """
    chosen = SitePatterns(patterns)
    if message := chosen.unmatched_message([rows.site for rows in found.values()]):
        raise SettingsError(message)
    return {name: rows for name, rows in found.items() if chosen.selects(rows.site)}


class _Shown(Compressor):
    """Stands in for a strategy: shows rows and keeps none."""

    name: ClassVar[str] = "shown"
    _visit: Visitor = PrivateAttr()

    def codec(self, site: Site, generator: torch.Generator) -> Codec:
        """One that shows the site's rows."""
        return _ShowingCodec(site, self._visit)


class _ShowingCodec(Codec):
    def __init__(self, site: Site, visit: Visitor) -> None:
        self.site = site
        self._visit = visit
        self._calls = 0

    def encode(self, rows: Tensor) -> Payload:
        """Nothing of the rows, which have been looked at."""
        self._calls += 1
        self._visit(self.site, self._calls - 1, rows.detach())
        return _Gone()


class _Gone(Payload):
    """Rows that nobody will ask for."""

    def decode(self) -> Tensor:
        """Fails: the graph of this pass has no backward."""
        raise RuntimeError("this pass was for looking at rows, and keeps none for a backward")

    def tensors(self) -> tuple[Tensor, ...]:
        """None."""
        return ()


class _LinearOutputs(TorchFunctionMode):
    """Notes what linear layers give while it is on, by storage, with the rank that each can have at most."""

    def __init__(self) -> None:
        super().__init__()
        # While a weak reference exists no other storage gets the address, though the storage itself is free to die.
        self._bounds: dict[int, tuple[StorageWeakRef, int, int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the function, and looks at what it gave."""
        output = func(*args, **(kwargs or {}))
        bound = _bound_of(getattr(func, "__name__", ""), args, kwargs or {})
        if bound is not None and isinstance(output, Tensor):
            storage = output.untyped_storage()
            self._bounds[storage._cdata] = StorageWeakRef(storage), output.shape[-1], bound
        return output

    def bound(self, rows: Tensor) -> int | None:
        """That of the layer that gave these rows; None where none did."""
        known = self._bounds.get(rows.untyped_storage()._cdata)
        return None if known is None or known[1] != rows.shape[1] else known[2]


def _bound_of(name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> int | None:
    """The largest rank of what a function gives: inputs of a linear layer, and one more with a bias."""
    if name == "linear":
        weight = args[1] if len(args) > 1 else keywords.get("weight")
        bias = args[2] if len(args) > 2 else keywords.get("bias")
        return weight.shape[1] + (bias is not None) if isinstance(weight, Tensor) and weight.dim() == 2 else None
    if name in ("matmul", "__matmul__", "mm") and len(args) == 2:
        right = args[1]
        is_weight = isinstance(right, Tensor) and right.dim() == 2 and right.is_leaf and right.requires_grad
        return right.shape[0] if is_weight else None
    return None
