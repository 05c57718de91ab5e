"""Memory as the LASER paper's tables count it, as tables: of the paper's own sites, and of a suite's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from compbench.measure.paper_accounting import (
    AccountedSite,
    Accounting,
    paper_sites,
    sites_of_record,
    without_ranks,
)
from compbench.report.formats import Table
from compbench.report.outcome import Outcome
from compbench.report.rows import ok_results
from compbench.report.wording import NOT_AVAILABLE
from compbench.run.result import CellResult

PER_CALL = Accounting("per_call")
SHARED = Accounting("shared")

PRINTED_MEMORY: Mapping[str, float] = {"baseline": 2.85, "k = 256": 1.23, "k = 128": 1.14}
"""The paper's Table 1, in GB of 1e9 bytes."""

PRINTED_SAVINGS: Mapping[str, str] = {
    "mlp_3072": "92.5",
    "attn_1536": "57.3",
    "mlp_1536": "53.6",
    "attn_512": "0 (overhead)",
    "mlp_512": "0 (overhead)",
    "attn_64": "0",
}
"""The paper's Table 2, in %."""

HOW = (
    "per call: each call's matrix is charged its coefficients and a basis of its own in fp32, which gives what the "
    "paper prints; shared: all calls of a site are charged one basis, which is what its text says, O(nBk + Dk)."
)
LEFT_OUT = (
    "left out: all that a step holds beside these sites, such as the inputs of norms, the gated half of the SwiGLU, "
    "rotated queries and keys, attention's output, and copies of weights. Of the paper's model 4.94 GB are alive for "
    "25 calls with a copy of the weights for each call, and 4.78 GB with one copy (compbench sites paper/table1 --only "
    "arm=none): 2.85 GB is 58 or 60 % of that."
)


def printed_totals() -> Table:
    """The paper's Table 1: what it prints, and what the accounting gives."""
    choices = {
        "baseline": without_ranks(paper_sites()),
        "k = 256": paper_sites(256),
        "k = 128": paper_sites(128),
    }
    records, cells = [], []
    for name, sites in choices.items():
        per_call, shared = PER_CALL.total(sites), SHARED.total(sites)
        record = {
            "row": name,
            "printed_gb": PRINTED_MEMORY[name],
            "per_call_bytes": per_call.compressed_bytes,
            "per_call_saving": per_call.saving,
            "shared_bytes": shared.compressed_bytes,
            "shared_saving": shared.saving,
        }
        records.append(record)
        cells.append(
            [
                name,
                f"{PRINTED_MEMORY[name]:.2f}",
                f"{per_call.compressed_bytes / 1e9:.3f}",
                _percent(per_call.saving),
                f"{shared.compressed_bytes / 1e9:.3f}",
                _percent(shared.saving),
            ]
        )
    headers = ["Table 1", "printed GB", "per call GB", "saving %", "shared GB", "saving %"]
    sentences = [
        HOW,
        "The final ranks at k = 256 are not printed: those of k = 128 are taken, but for mlp_3072, at 256.",
        LEFT_OUT,
    ]
    return Table(headers, cells, ["Table 1"], sentences, columns=list(records[0]), records=records)


def printed_savings() -> Table:
    """The paper's Table 2: what it prints, and what the accounting gives."""
    records, cells = [], []
    for site in paper_sites(128):
        per_call, shared = PER_CALL.saving(site), SHARED.saving(site)
        records.append(
            {
                "site": site.name,
                "width": site.width,
                "rank": site.rank,
                "printed": PRINTED_SAVINGS[site.name],
                "per_call_saving": per_call,
                "shared_saving": shared,
            }
        )
        cells.append(
            [
                site.name,
                str(site.width),
                str(site.rank or site.width),
                PRINTED_SAVINGS[site.name],
                _percent(per_call),
                _percent(shared),
            ]
        )
    headers = ["Table 2", "width", "final rank", "printed %", "per call %", "shared %"]
    sentences = ["Below 0 a site costs more than it would as it is; Table 1 has that cost in it."]
    return Table(headers, cells, ["Table 2", "printed %"], sentences, columns=list(records[0]), records=records)


@dataclass(frozen=True)
class SiteSaving:
    """One site of an arm, over its seeds.

    Attributes:
        ranks: the final rank of each seed.
        per_call: the share saved by the accounting of the paper's tables, the mean over seeds.
        shared: the same with one basis for all calls.
        measured: the share of its bytes that was not kept, the mean over seeds.
    """

    arm: str
    depth: int
    name: str
    width: int
    matrices: int
    ranks: tuple[int, ...]
    raw_bytes: float
    per_call: float
    shared: float
    measured: float


@dataclass(frozen=True)
class ArmSaving:
    """An arm at a depth, over its seeds: bytes are means."""

    arm: str
    depth: int
    seeds: int
    sites: int
    raw_bytes: float
    per_call_bytes: float
    shared_bytes: float
    uncompressed_bytes: float
    saved_bytes: float


def arm_savings(outcome: Outcome) -> list[ArmSaving]:
    """Every arm and depth whose records have sites of a rank."""
    found = []
    for (arm, depth), results in _with_ranks(outcome).items():
        sites = [sites_of_record(memory.sites) for result in results if (memory := result.memory)]
        memories = [result.memory for result in results if result.memory]
        found.append(
            ArmSaving(
                arm,
                depth,
                seeds=len(results),
                sites=len(sites[0]),
                raw_bytes=fmean(PER_CALL.total(found).raw_bytes for found in sites),
                per_call_bytes=fmean(PER_CALL.total(found).compressed_bytes for found in sites),
                shared_bytes=fmean(SHARED.total(found).compressed_bytes for found in sites),
                uncompressed_bytes=fmean(memory.uncompressed_bytes for memory in memories),
                saved_bytes=fmean(memory.saved_bytes for memory in memories),
            )
        )
    return found


def site_savings(outcome: Outcome) -> list[SiteSaving]:
    """Every site with a rank, of every arm and depth; the largest first."""
    found = []
    for (arm, depth), results in _with_ranks(outcome).items():
        seeds: dict[str, list[tuple[AccountedSite, float]]] = {}
        for result in results:
            listed = result.memory.sites if result.memory else []
            kept = {str(site["name"]): 1 - site["kept_bytes"] / site["raw_bytes"] for site in listed}
            for site in sites_of_record(listed):
                seeds.setdefault(site.name, []).append((site, kept[site.name]))
        own = [
            SiteSaving(
                arm,
                depth,
                name,
                width=sites[0][0].width,
                matrices=sites[0][0].matrices,
                ranks=tuple(site.rank or site.width for site, _ in sites),
                raw_bytes=fmean(site.raw_bytes for site, _ in sites),
                per_call=fmean(PER_CALL.saving(site) for site, _ in sites),
                shared=fmean(SHARED.saving(site) for site, _ in sites),
                measured=fmean(saving for _, saving in sites),
            )
            for name, sites in seeds.items()
        ]
        found += sorted(own, key=lambda site: -site.raw_bytes)
    return found


def arms_table(outcome: Outcome) -> Table:
    """A row an arm and depth: the paper's accounting beside what was measured."""
    savings = arm_savings(outcome)
    cells = [
        [
            row.arm,
            str(row.depth),
            str(row.seeds),
            str(row.sites),
            _mega(row.raw_bytes),
            _mega(row.per_call_bytes),
            _percent(1 - row.per_call_bytes / row.raw_bytes),
            _mega(row.shared_bytes),
            _percent(1 - row.shared_bytes / row.raw_bytes),
            _mega(row.uncompressed_bytes),
            _mega(row.saved_bytes),
            _percent(1 - row.saved_bytes / row.uncompressed_bytes),
        ]
        for row in savings
    ]
    headers = ["arm", "depth", "seeds", "sites", "raw MB", "per call MB", "per call %"]
    headers += ["shared MB", "shared %", "uncompressed MB", "saved MB", "saving %"]
    sentences = [
        HOW,
        "raw, per call, shared: the sites that the strategy compresses, counted as the paper's tables count, at their "
        "final ranks. Coefficients are charged in the activations' precision, whatever compresses them in a chain.",
        "uncompressed, saved: measured, all that the step holds for its backward pass, these sites and all others.",
        *_without_rank(outcome),
    ]
    return Table(headers, cells, ["arm"], sentences, columns=_ARM_COLUMNS, records=[vars(row) for row in savings])


_ARM_COLUMNS = tuple(ArmSaving.__dataclass_fields__)


def sites_table(outcome: Outcome) -> Table:
    """A row a site of an arm: its final ranks, and what it saves by either accounting and as measured."""
    savings = site_savings(outcome)
    cells = [
        [
            row.arm,
            str(row.depth),
            row.name,
            str(row.width),
            str(row.matrices),
            _ranks(row.ranks),
            _mega(row.raw_bytes),
            _percent(row.per_call),
            _percent(row.shared),
            _percent(row.measured),
        ]
        for row in savings
    ]
    headers = ["arm", "depth", "site", "width", "matrices", "final rank", "raw MB"]
    headers += ["per call %", "shared %", "measured %"]
    sentences = ["final rank: the mean over seeds, with the lowest and the highest where they differ."]
    records = [{**vars(row), "ranks": " ".join(map(str, row.ranks)), "mean_rank": fmean(row.ranks)} for row in savings]
    columns = (*SiteSaving.__dataclass_fields__, "mean_rank")
    return Table(headers, cells, ["arm", "site", "final rank"], sentences, columns=columns, records=records)


def _with_ranks(outcome: Outcome) -> dict[tuple[str, int], list[CellResult]]:
    """The results that have sites with a rank, by arm and depth."""
    found = {}
    for group, cells in outcome.groups.items():
        results = [r for r in ok_results(cells) if r.memory and sites_of_record(r.memory.sites)]
        if results:
            found[group] = results
    return found


def _without_rank(outcome: Outcome) -> list[str]:
    there = {arm for arm, _ in _with_ranks(outcome)}
    others = [arm for arm in dict.fromkeys(arm for arm, _ in outcome.groups) if arm not in there]
    return [f"no site with a rank, and so no row: {', '.join(others)}."] if others else []


def _ranks(ranks: Sequence[int]) -> str:
    if not ranks:
        return NOT_AVAILABLE
    if len(set(ranks)) == 1:
        return str(ranks[0])
    return f"{fmean(ranks):.1f} ({min(ranks)} to {max(ranks)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _mega(number: float) -> str:
    return f"{number / 1e6:.2f}"
