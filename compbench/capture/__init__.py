"""Catches what autograd saves for the backward pass and hands it to a strategy.

Knows modules, operators, storages and views; knows neither what a strategy does with rows nor who measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from compbench.capture.compiling import Compiled
from compbench.capture.recompute import chosen_modules
from compbench.capture.session import Session
from compbench.capture.settings import Attention, CaptureSettings, Routes
from compbench.capture.sites import SiteReport, SiteReports
from compbench.compressor import Compressor
from compbench.fields import construct
from compbench.registry import Registry, default_plugins_dir

__all__ = [
    "Attention",
    "CaptureSettings",
    "Compiled",
    "Session",
    "SiteReport",
    "SiteReports",
    "chosen_modules",
    "compress",
]


def compress(
    model: nn.Module,
    compressor: Any,
    *,
    attention: Attention = "recompute",
    routes: Routes = "operators",
    minimum_elements: int = 1024,
    sites: str | int | Sequence[str | int] = (),
    seed: int = 0,
    **fields: Any,
) -> Session:
    """A session in which what autograd saves of ``model`` goes through a strategy.

    Args:
        model: any module; it is not changed.
        compressor: a strategy's name (``"laser"``), ``{name: {field: value}}``, a list of those for a chain
            (``[{"laser": {"rank": 64}}, "int8"]``), a :class:`Compressor` class, or an instance.
        attention: ``recompute``, ``raw`` or ``literal``; see :class:`CaptureSettings`.
        routes: ``operators``, ``weight_gradients`` or ``hooks``; see :class:`CaptureSettings`.
        minimum_elements: storages with fewer elements are left raw.
        sites: which sites to compress, all of them by default: patterns over module paths and roles
            (``"block.*.mlp/*"``, ``"*.attn"``), or widths (``1536``, ``"width:>=512"``); a leading ``!`` excludes.
        seed: seed of the strategy's own random streams; torch's global generator is never touched.
        **fields: hyper-parameters, where ``compressor`` is a name or a class, such as ``rank=128``.

    Returns:
        The session, a context manager.

    Raises:
        SettingsError: unknown strategy or field, a value that is not allowed, or a pattern that can't be read.
    """
    if not isinstance(compressor, Compressor) or fields:
        compressor = Registry.load(default_plugins_dir()).compressor(compressor, **fields)
    chosen = [sites] if isinstance(sites, (str, int)) else list(sites)
    capture = {"attention": attention, "routes": routes, "minimum_elements": minimum_elements, "sites": chosen}
    settings = construct(CaptureSettings, capture, "compress()")
    return Session(model, compressor, settings, seed)
