"""``linearity``: whether nonlinear autoencoders rebuild activations better than a projection of the same code size.

Source: 3.1 of arXiv 2604.17224, which reports none that did. Projections and autoencoders are fitted on rows of
training examples and compared on rows of held-out ones. All rows are divided by one number, so that they have a root
mean square of 1 together.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from compbench.analysis.autoencoder import KINDS, PCA, Fitted, Kind, Schedule, fit, relative_error
from compbench.analysis.result import Analysis, Row, SiteSettings
from compbench.analysis.rows import SiteRows, choose_sites
from compbench.analysis.trained import Trained, default_ranks
from compbench.compressor import Site
from compbench.errors import SettingsError
from compbench.records import Batch
from compbench.seeds import generator, stream

_SELECTION = 0.1
"""Share of the rows by which weights are selected; they are those of one batch that is not fitted on."""


class Linearity(SiteSettings):
    """Options of ``linearity``."""

    sites: tuple[str | int, ...] = Field(
        (), description="patterns of sites; empty: the widest of each kind of place (mlp, attn, ...)"
    )
    codes: tuple[int, ...] = Field(
        (), description="code sizes; empty: 1/16 and 1/4 of the recurring state's width, where a site is wider"
    )
    fit_examples: int = Field(
        256, ge=2, description="training examples, of which the last batch selects; two batches at least are taken"
    )
    fit_rows: int = Field(
        8192, ge=16, description="rows that are drawn from them, evenly over calls, a tenth of them for selecting"
    )
    held_out_rows: int = Field(8192, ge=16, description="held-out rows, drawn likewise")
    hidden: int = Field(256, ge=1, description="units of a hidden layer")
    layers: int = Field(1, ge=1, le=2, description="hidden layers of encoder and decoder, each")
    training_steps: int = Field(400, ge=1, description="optimiser steps of an autoencoder")
    learning_rate: float = Field(2e-3, gt=0, description="Adam's first learning rate, decayed by a cosine to zero")
    restarts: int = Field(2, ge=1, description="autoencoders of each kind, of which the best counts")

    @property
    def schedule(self) -> Schedule:
        """How autoencoders are trained."""
        return Schedule(self.hidden, self.layers, self.training_steps, learning_rate=self.learning_rate)


def analyse(trained: Trained, settings: Linearity) -> Analysis:
    """Looks at the last snapshot.

    Raises:
        SettingsError: A pattern matches no site.
    """
    last = trained.steps[-1]
    trained.at(last)
    size = trained.cell.training.batch_size
    held = trained.held_out(settings.examples or 4 * size)
    examples = trained.training_batch(max(settings.fit_examples, 2 * size))
    selecting = max(0, _examples(examples) - size)  # where training has but one batch, both have the same examples
    found = trained.visit({name: values[:size] for name, values in held.items()}, lambda site, call, rows: None)
    found = choose_sites(found, settings.sites) if settings.sites else widest_of_each_kind(found)
    codes = settings.codes or _codes(trained, found)
    fit_rows = round(settings.fit_rows * (1 - _SELECTION))
    drawn = {
        "fit": sample_rows(trained, _part(examples, 0, selecting or None), found, fit_rows, "fit"),
        "select": sample_rows(trained, _part(examples, selecting, None), found, settings.fit_rows - fit_rows, "select"),
        "held out": sample_rows(trained, held, found, settings.held_out_rows, "held out"),
    }
    rows: list[Row] = []
    sites: dict[str, dict[str, Any]] = {}
    for name, site in found.items():
        scale = float(drawn["fit"][name].double().square().mean().sqrt()) or 1.0
        parts = {part: of[name].float() / scale for part, of in drawn.items()}
        summary = site.record() | {"fit_rows": len(parts["fit"]), "held_out_rows": len(parts["held out"])}
        for code in codes:
            if code < site.site.width:
                seed = stream(trained.cell.seed, f"linearity {name} {code}")
                of_code, measured = contest(parts, code, settings, seed)
                summary |= {f"{key}_code_{code}{suffix}": value for (key, suffix), value in of_code.items()}
                rows += [{"step": last, "site": name, "code": code, **row} for row in measured]
        sites[name] = summary
    return Analysis({"codes": list(codes), "last_step": last, **_largest(sites, codes), "sites": sites}, rows)


def contest(
    parts: dict[str, Tensor], code: int, settings: Linearity, seed: int
) -> tuple[dict[tuple[str, str], float | str], list[Row]]:
    """Projections against autoencoders at one code size.

    Args:
        parts: Rows by ``fit``, ``select`` and ``held out``, ``(N, D)`` each.
        code: The code size.
        settings: The options.
        seed: Of all autoencoders together.

    Returns:
        Numbers by name and suffix, which is ``_fit`` for those on the rows that were fitted on; and a row for each
        measurement.
    """
    fitted, held = parts["fit"], parts["held out"]
    summary: dict[tuple[str, str], float | str] = {}
    rows: list[Row] = []

    def note(method: str, restart: int, on_fit: float, on_held: float) -> None:
        for part, value in (("fit", on_fit), ("held out", on_held)):
            rows.append({"method": method, "restart": restart, "rows": part, "value": value})

    for name, centred in (("pca", False), ("centred_pca", True)):
        projection = PCA.fitted(fitted, code, centred)
        errors = tuple(relative_error(X, projection.rebuilt(X)) for X in (fitted, held))
        summary[f"{name}_error", "_fit"], summary[f"{name}_error", ""] = errors
        note(name, 0, *errors)
    best: dict[Kind, Fitted] = {}
    spreads: dict[Kind, float] = {}
    for kind in KINDS:
        runs = [
            fit(fitted, parts["select"], code, kind, settings.schedule, stream(seed, f"{kind} {restart}") % 2**62)
            for restart in range(settings.restarts)
        ]
        on_held = [run.error(held) for run in runs]
        for restart, (run, held_error) in enumerate(zip(runs, on_held, strict=True)):
            note(f"{kind}_autoencoder", restart, run.error(fitted), held_error)
        best[kind] = min(runs, key=lambda run: run.selection_error)
        spreads[kind] = max(on_held) - min(on_held)
        summary[f"{kind}_autoencoder_error", ""] = best[kind].error(held)
        summary[f"{kind}_autoencoder_error", "_fit"] = best[kind].error(fitted)
    kind = min(KINDS, key=lambda kind: best[kind].selection_error)
    summary["autoencoder_kind", ""], summary["spread", ""] = kind, spreads[kind]
    for suffix in ("", "_fit"):
        error = summary[f"{kind}_autoencoder_error", suffix]
        summary["autoencoder_error", suffix] = error
        rival = min(float(summary["pca_error", suffix]), float(summary["centred_pca_error", suffix]))
        summary[f"gain{suffix}", ""] = 1 - float(error) / rival if rival > 0 else 0.0
    return summary, rows


def sample_rows(trained: Trained, batch: Batch, found: dict[str, SiteRows], count: int, name: str) -> dict[str, Tensor]:
    """About so many rows of each site, drawn evenly over calls and batches, by a fixed seed.

    Whole batches alone are looked at, where there is one: small storages are left raw, so that a pass of fewer examples
    has fewer sites.

    Raises:
        SettingsError: There are so few examples that a site is left raw.
    """
    size = trained.cell.training.batch_size
    starts = range(0, max(1, _examples(batch) - size + 1), size)
    drawn: dict[str, list[Tensor]] = {site: [] for site in found}

    def visit(site: Site, call: int, rows: Tensor) -> None:
        if site.name in found:
            share = math.ceil(count / (len(starts) * found[site.name].calls))
            random = generator(trained.cell.seed, f"{name} {site.name} {len(drawn[site.name])}")
            chosen = torch.randperm(len(rows), generator=random)[:share]
            drawn[site.name].append(rows[chosen.to(rows.device)].clone())

    for start in starts:
        trained.visit(_part(batch, start, start + size), visit)
    if empty := [site for site, rows in drawn.items() if not rows]:
        raise SettingsError(
            f"site {empty[0]} is left raw in a pass of {_examples(batch)} examples, for what it saves is too small "
            f"(allowed: --set fit_examples and --set examples of {size} or more)"
        )
    return {site: torch.cat(rows)[:count] for site, rows in drawn.items()}


def widest_of_each_kind(found: dict[str, SiteRows]) -> dict[str, SiteRows]:
    """The widest site of each kind of place, which is what a role begins with: ``mlp`` of ``mlp_3072``."""
    widest: dict[str, str] = {}
    for name, rows in found.items():
        kind = rows.site.role.rpartition("_")[0]
        if kind not in widest or found[widest[kind]].site.width < rows.site.width:
            widest[kind] = name
    return {name: found[name] for name in widest.values()}


def _codes(trained: Trained, found: dict[str, SiteRows]) -> tuple[int, ...]:
    ranks = default_ranks(trained.hidden_width, list(found.values()))
    return tuple(dict.fromkeys((ranks[0], ranks[-2] if len(ranks) > 1 else ranks[-1])))


def _examples(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _part(batch: Batch, start: int, end: int | None) -> Batch:
    return {name: values[start:end] for name, values in batch.items()}


def _largest(sites: dict[str, dict[str, Any]], codes: tuple[int, ...]) -> dict[str, Any]:
    gains = [
        (summary[f"gain_code_{code}"], name, code)
        for name, summary in sites.items()
        for code in codes
        if f"gain_code_{code}" in summary
    ]
    gain, site, code = max(gains, default=(None, None, None))
    return {"largest_gain": gain, "largest_gain_site": site, "largest_gain_code": code}
