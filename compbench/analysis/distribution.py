"""``distribution``: how the values of each site are distributed, and what INT8 costs, before and after projection.

Source: 3.2, A.3 and A.4 of arXiv 2604.17224. Its two scales: the largest magnitude of a call, and four standard
deviations of a call, beyond which values are clipped.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from compbench.analysis.moments import SIGMAS, Moments, count_outliers, gaussian_outliers
from compbench.analysis.quantising import int8, max_scale, sigma_scale
from compbench.analysis.result import Analysis, Row, SiteSettings, number
from compbench.analysis.rows import SiteRows, choose_sites
from compbench.analysis.subspaces import add_gram, principal_components
from compbench.analysis.trained import Trained, batches, default_ranks
from compbench.compressor import Site
from compbench.records import Batch

_SCALES = {"max": max_scale, "4sigma": sigma_scale}
_BINS = 61
_EDGE = 6.0
"""Standard deviations to which the histogram reaches on both sides."""


class Distribution(SiteSettings):
    """Options of ``distribution``."""

    ranks: tuple[int, ...] = Field(
        (), description="ranks of PCA; empty: 1/16, 1/8, 1/4 and 1/2 of the recurring state's width"
    )
    batches: int = Field(4, ge=1, description="held-out batches, as far as there are so many examples")
    at: Literal["last", "all"] = Field("last", description="snapshots that are looked at")


@dataclass
class Rebuilt:
    """Sums over the rows that come back from a projection of one rank with INT8 coefficients."""

    moments: Moments = field(default_factory=Moments)
    kept: float = 0.0
    quantising: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_SCALES, 0.0))
    outliers: list[int] = field(default_factory=lambda: [0] * len(SIGMAS))


@dataclass
class OfSite:
    """What is summed up of one site's rows."""

    gram: Tensor
    moments: Moments = field(default_factory=Moments)
    energy: float = 0.0
    errors: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_SCALES, 0.0))
    outliers: list[int] = field(default_factory=lambda: [0] * len(SIGMAS))
    largest: float = 0.0
    histogram: Tensor = field(default_factory=lambda: torch.zeros(_BINS, dtype=torch.float64))
    rebuilt: dict[int, Rebuilt] = field(default_factory=lambda: defaultdict(Rebuilt))
    basis: Tensor | None = None

    def first(self, rows: Tensor) -> None:
        """In the first pass: mean, deviation, Gram matrix."""
        self.moments.add(rows)
        add_gram(self.gram, rows)

    def second(self, rows: Tensor, ranks: tuple[int, ...]) -> None:
        """In the second pass, in which these are known."""
        X = rows.to(torch.promote_types(rows.dtype, torch.float32))
        mean, deviation = self.moments.mean, self.moments.standard_deviation
        self.energy += _energy(X)
        for name, scale in _SCALES.items():
            self.errors[name] += _energy(X - int8(X, scale(X)))
        self.outliers = _added(self.outliers, count_outliers(X, mean, deviation))
        standard = (X - mean) / deviation if deviation else X
        self.largest = max(self.largest, float(standard.abs().max()))
        self.histogram += torch.histc(standard.float().cpu(), _BINS, -_EDGE, _EDGE).double()
        if self.basis is None:
            self.basis = principal_components(self.gram)[1].to(X.dtype)
        for rank in ranks:
            if rank < X.shape[1]:
                self._project(X, self.basis[:, :rank], self.rebuilt[rank], mean, deviation)

    def _project(self, X: Tensor, Q: Tensor, to: Rebuilt, mean: float, deviation: float) -> None:
        Z = X @ Q
        to.kept += _energy(Z)
        coarse = {name: int8(Z, scale(Z)) for name, scale in _SCALES.items()}
        for name, values in coarse.items():
            to.quantising[name] += _energy(Z - values)
        rebuilt = coarse["max"] @ Q.T
        to.moments.add(rebuilt)
        to.outliers = _added(to.outliers, count_outliers(rebuilt, mean, deviation))


def analyse(trained: Trained, settings: Distribution) -> Analysis:
    """Looks at the last snapshot, or at all of them.

    Raises:
        SettingsError: A pattern matches no site.
    """
    examples = settings.examples or trained.cell.training.batch_size
    ranks: tuple[int, ...] = settings.ranks
    rows: list[Row] = []
    sites: dict[str, dict[str, Any]] = {}
    for step in trained.steps if settings.at == "all" else trained.steps[-1:]:
        trained.at(step)
        parts = list(batches(trained, examples, settings.batches))
        found = choose_sites(trained.visit(parts[0], lambda site, call, rows: None), settings.sites)
        ranks = ranks or default_ranks(trained.hidden_width, list(found.values()))
        sums = describe(trained, parts, found, ranks)
        for name, of in sums.items():
            numbers = _numbers(of)
            sites[name] = found[name].record() | {"rows": of.moments.rows} | numbers
            rows += [{"step": step, "site": name, "quantity": key, "value": value} for key, value in numbers.items()]
            rows += _histogram(step, name, of)
    summary: dict[str, Any] = {"ranks": list(ranks), "last_step": trained.steps[-1]}
    summary |= {f"gaussian_outliers_{sigmas}_sigma": gaussian_outliers(sigmas) for sigmas in SIGMAS}
    return Analysis(summary | {"sites": sites}, rows)


def describe(
    trained: Trained, parts: list[Batch], found: dict[str, SiteRows], ranks: tuple[int, ...]
) -> dict[str, OfSite]:
    """Two passes over some batches, at the model's weights: the second needs the first one's moments and bases."""
    sums: dict[str, OfSite] = {}

    def first(site: Site, call: int, rows: Tensor) -> None:
        if site.name in found:
            if site.name not in sums:
                D = site.width
                sums[site.name] = OfSite(torch.zeros(D, D, dtype=torch.float64, device=rows.device))
            sums[site.name].first(rows)

    def second(site: Site, call: int, rows: Tensor) -> None:
        if site.name in found:
            sums[site.name].second(rows, ranks)

    for visit in (first, second):
        for batch in parts:
            trained.visit(batch, visit)
    return sums


def _numbers(of: OfSite) -> dict[str, float | int | None]:
    moments, channels = of.moments, of.moments.channel_deviations()
    found: dict[str, float | int | None] = {
        "values": moments.count,
        "mean": number(moments.mean),
        "standard_deviation": number(moments.standard_deviation),
        "skewness": number(moments.skewness),
        "excess_kurtosis": number(moments.excess_kurtosis),
        "largest_magnitude_sigmas": number(of.largest),
    }
    for name, q in (("min", 0.0), ("q05", 0.05), ("median", 0.5), ("q95", 0.95), ("max", 1.0)):
        found[f"channel_std_{name}"] = number(float(torch.quantile(channels, q)))
    found |= _shares("", of.outliers, moments.count)
    found |= {f"int8_relative_mse_{name}": _ratio(error, of.energy) for name, error in of.errors.items()}
    for rank, rebuilt in of.rebuilt.items():
        lost = max(0.0, of.energy - rebuilt.kept)
        found[f"projection_relative_mse_rank_{rank}"] = _ratio(lost, of.energy)
        for name, error in rebuilt.quantising.items():
            found[f"int8_relative_mse_{name}_rank_{rank}"] = _ratio(error, rebuilt.kept)
            found[f"total_relative_mse_{name}_rank_{rank}"] = _ratio(lost + error, of.energy)
        deviation = moments.standard_deviation
        found[f"mean_change_rank_{rank}"] = _ratio(rebuilt.moments.mean - moments.mean, deviation)
        found[f"std_change_rank_{rank}"] = _ratio(rebuilt.moments.standard_deviation - deviation, deviation)
        found[f"skewness_rank_{rank}"] = number(rebuilt.moments.skewness)
        found[f"excess_kurtosis_rank_{rank}"] = number(rebuilt.moments.excess_kurtosis)
        found |= _shares(f"_rank_{rank}", rebuilt.outliers, rebuilt.moments.count)
    return found


def _shares(suffix: str, outliers: list[int], count: int) -> dict[str, float | int | None]:
    return {
        f"outliers_{sigmas}_sigma{suffix}": _ratio(beyond, count)
        for sigmas, beyond in zip(SIGMAS, outliers, strict=True)
    }


def _histogram(step: int, name: str, of: OfSite) -> list[Row]:
    """The density of standardised values, at the middles of the bins."""
    width = 2 * _EDGE / _BINS
    return [
        {
            "step": step,
            "site": name,
            "quantity": "density",
            "sigmas": round(-_EDGE + (bin_ + 0.5) * width, 6),
            "value": float(count) / (of.moments.count * width),
        }
        for bin_, count in enumerate(of.histogram)
    ]


def _energy(values: Tensor) -> float:
    return float(values.double().square().sum())


def _ratio(part: float, whole: float) -> float | None:
    return number(part / whole) if whole else None


def _added(counts: list[int], more: list[int]) -> list[int]:
    return [a + b for a, b in zip(counts, more, strict=True)]
