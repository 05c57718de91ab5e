"""Activation memory counted as the LASER paper's tables count it, from shapes and ranks alone; nothing is measured.

A compressed site is charged its coefficients ``Z (N, k)`` in the activations' precision and a basis ``Q (D, k)`` in
fp32, and that basis **once for each call**. Counted so, the six sites of the paper's Table 2 at its printed ranks give
its printed savings (92.5, 57.3 and 53.6 %) and, with 25 calls, the memory of its Table 1: 2.850, 1.136 and 1.225 GB,
printed as 2.85, 1.14 and 1.23. The paper does not say how it counts; that this is how is told by the fit.

What such an accounting leaves out is whatever is not one of its sites: the fp32 inputs of norms, the SwiGLU's gated
half, queries and keys after the rotation, attention's output and log-sum-exp, and copies of weights.
``measure/memory.py`` counts those that are alive.

Source: arXiv 2604.17224, Tables 1 to 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from compbench.errors import SettingsError

Basis = Literal["per_call", "shared"]


@dataclass(frozen=True)
class AccountedSite:
    """One place at which every call keeps a matrix ``(N, D)``.

    Attributes:
        name: what it is called.
        width: ``D``.
        rows: ``N``, of one matrix.
        matrices: how many of them a step keeps; the calls, times those of each call.
        rank: ``k``, the rank that it is kept at; None where it is kept as it is.
        element_bytes: of one element of the activations, and so of the coefficients.
    """

    name: str
    width: int
    rows: int
    matrices: int
    rank: int | None = None
    element_bytes: int = 2

    def __post_init__(self) -> None:
        sizes = {"width": self.width, "rows": self.rows, "matrices": self.matrices, "element_bytes": self.element_bytes}
        for name, value in sizes.items():
            if value < 1:
                raise SettingsError(f"site '{self.name}': {name} is {value} (allowed: integers >= 1)")
        if self.rank is not None and not 1 <= self.rank <= self.width:
            raise SettingsError(f"site '{self.name}': rank {self.rank} (allowed: 1 to the width, {self.width})")

    @property
    def raw_bytes(self) -> int:
        """Of all its matrices as they are."""
        return self.matrices * self.rows * self.width * self.element_bytes


@dataclass(frozen=True)
class Accounting:
    """How sites are counted.

    Attributes:
        basis: whether each matrix is charged a basis of its own, as in the paper's tables, or all of a site one, as the
            paper's text has it: ``O(nBk + Dk)``.
        raw_where_larger: whether a site that would be larger compressed is counted as it is. The paper's Table 2 says
            "0 % (overhead)" of such sites, and its Table 1 has the overhead in it.
        basis_element_bytes: of one element of a basis; 4 is fp32.
    """

    basis: Basis = "per_call"
    raw_where_larger: bool = False
    basis_element_bytes: int = 4

    def coefficient_bytes(self, site: AccountedSite) -> int:
        """Of ``Z``, ``(N, k)``, over all matrices."""
        return 0 if site.rank is None else site.matrices * site.rows * site.rank * site.element_bytes

    def basis_bytes(self, site: AccountedSite) -> int:
        """Of ``Q``, ``(D, k)``, as often as it is charged."""
        if site.rank is None:
            return 0
        return site.width * site.rank * self.basis_element_bytes * (site.matrices if self.basis == "per_call" else 1)

    def compressed_bytes(self, site: AccountedSite) -> int:
        """What the site comes to."""
        if site.rank is None:
            return site.raw_bytes
        found = self.coefficient_bytes(site) + self.basis_bytes(site)
        return min(found, site.raw_bytes) if self.raw_where_larger else found

    def saving(self, site: AccountedSite) -> float:
        """The share of its raw bytes that a site saves; below 0 where it costs."""
        return 1 - self.compressed_bytes(site) / site.raw_bytes

    def total(self, sites: Sequence[AccountedSite]) -> AccountedTotal:
        """All sites together."""
        return AccountedTotal(sum(site.raw_bytes for site in sites), sum(map(self.compressed_bytes, sites)))


@dataclass(frozen=True)
class AccountedTotal:
    """What several sites come to, in bytes."""

    raw_bytes: int
    compressed_bytes: int

    @property
    def saving(self) -> float:
        """The share of the raw bytes that is saved; 0 where there are none."""
        return 1 - self.compressed_bytes / self.raw_bytes if self.raw_bytes else 0.0


PAPER_ROWS = 64 * 121
"""``N`` in the paper: a batch of 64, 121 positions (its Tables 4 and 6)."""

PAPER_CALLS = 25
"""Of the block in a step: 24 of the low-level state, one of the high-level state. 24 don't give the printed totals."""

_FINAL_RANKS = {"mlp_3072": 128, "attn_1536": 470, "mlp_1536": 510, "attn_512": 510, "mlp_512": 500}
"""The paper's Table 2, at an initial rank of 128."""


def paper_sites(initial_rank: int = 128, calls: int = PAPER_CALLS) -> list[AccountedSite]:
    """The paper's sites at its final ranks.

    ``attn_64`` stands for three matrices a call and is kept as it is, which is what its "0 %" says. Three matrices
    of N x 64 are what the printed 2.85 GB lacks without them; they look like queries, keys and values of one head.

    Args:
        initial_rank: 128, or 256: the paper prints final ranks of the first alone. The one site that does not grow,
            ``mlp_3072``, is taken at the initial rank, and the others at the ranks that they grew to from 128.
        calls: of the block in a step.
    """
    ranks = {**_FINAL_RANKS, "mlp_3072": initial_rank}
    sites = [AccountedSite(name, int(name.split("_")[1]), PAPER_ROWS, calls, rank) for name, rank in ranks.items()]
    return [*sites, AccountedSite("attn_64", 64, PAPER_ROWS, 3 * calls)]


def sites_of_record(sites: Sequence[dict[str, object]]) -> list[AccountedSite]:
    """The sites of a cell's record (``memory.sites``) that its strategy compresses at a rank.

    Those that it leaves raw, or compresses without a rank, are none of the paper's sites and are left out. Ranks of
    strategies that vary within a step are means, and rounded.
    """
    found = []
    for site in sites:
        statistics = site.get("statistics")
        rank = statistics.get("rank") if isinstance(statistics, dict) else None
        if site.get("reason") or not isinstance(rank, (int, float)) or rank < 1:
            continue
        dtype = getattr(torch, str(site["dtype"]), None)
        if not isinstance(dtype, torch.dtype):
            continue
        name, width, rows, calls = (site[key] for key in ("name", "width", "rows", "calls"))
        found.append(AccountedSite(str(name), _whole(width), _whole(rows), _whole(calls), round(rank), dtype.itemsize))
    return found


def without_ranks(sites: Sequence[AccountedSite]) -> list[AccountedSite]:
    """The same sites, each kept as it is: the baseline."""
    return [replace(site, rank=None) for site in sites]


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise SettingsError(f"a site's size is {value!r} (allowed: an integer)")
    return value
