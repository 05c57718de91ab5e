"""The simulations of docs/statistics.md: ``python -m tests.report.simulation`` prints the page's tables, in minutes.

Every cell of a table has a random stream of its own, named after its place, so that single cells can be made again.
What is simulated are the functions that the reports call; that they agree with other implementations is tested
elsewhere.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from compbench.report.aggregation import interquartile_mean, stratified_interval
from compbench.report.statistics import (
    ALPHA,
    Floats,
    holm,
    largest_exact_family,
    p_above,
    power,
    ratio_over_seeds,
    ratio_within_cell,
    seeds_needed,
    smallest_margin,
)

RUNS = 20_000
FAMILY_RUNS = 5_000
INTERVAL_RUNS = 2_000
BOOTSTRAP_RUNS = 1_000

Noise = Callable[[np.random.Generator, tuple[int, ...]], Floats]
Cell = Callable[[], str]


@dataclass(frozen=True)
class SimulatedTable:
    """A table of the page. Its cells are computed when they are asked for.

    Attributes:
        rows: the label of each row, with its cells.
        checked: labels of the rows that the tests make again; others take too long for that. Empty: all of them.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    checked: Sequence[str] = ()

    def lines(self) -> list[str]:
        """The table in Markdown."""
        body = ["| " + " | ".join([label, *(cell() for cell in cells)]) + " |" for label, cells in self.rows]
        return ["| " + " | ".join(self.headers) + " |", "| --- " * len(self.headers) + "|", *body]


def tables() -> list[SimulatedTable]:
    """All tables, in the page's order."""
    return [
        false_claims(),
        families(),
        power_facts(),
        smallest_margins(),
        seeds(),
        time_intervals(),
        bootstrap_coverage(),
    ]


def stream(*place: object) -> np.random.Generator:
    """The random stream of one cell."""
    digest = hashlib.sha256(repr(place).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def percent(share: float) -> str:
    """A share as the tables have it."""
    return f"{100 * share:.1f} %"


# Differences between an arm and the reference that lose nothing on average, with an SD of 1


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return random.standard_normal(shape)


def heavy_tails(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return random.standard_t(3, shape) / math.sqrt(3)


def long_tail_of_gains(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return random.exponential(1.0, shape) - 1


def long_tail_of_losses(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return -long_tail_of_gains(random, shape)


def one_in_ten_collapses(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """One difference in ten is a loss of ten times the spread of the others."""
    values = random.standard_normal(shape) - 10 * (random.random(shape) < 0.1)
    return (values + 1) / math.sqrt(1 + 100 * 0.1 * 0.9)


def rates(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Shares of 1,000 held-out examples; both arms are as good as the seed's chance, which lies between 70 and 95 %."""
    chance = random.uniform(0.7, 0.95, shape)
    ours, theirs = (random.binomial(1000, chance) / 1000 for _ in range(2))
    spread = math.sqrt(2 * np.mean([p * (1 - p) for p in np.linspace(0.7, 0.95, 2001)]) / 1000)
    return (ours - theirs) / spread


NOISES: dict[str, Noise] = {
    "normal": normal,
    "shares of 1,000 examples": rates,
    "heavy tails (t with 3 degrees of freedom)": heavy_tails,
    "long tail of gains (exponential)": long_tail_of_gains,
    "long tail of losses (exponential)": long_tail_of_losses,
    "one seed in ten collapses": one_in_ten_collapses,
}


# The tables


def false_claims() -> SimulatedTable:
    """How often one comparison claims non-inferiority although the loss is the margin."""
    sizes = (3, 5, 8, 10, 20)

    def cell(name: str, n: int) -> str:
        samples = NOISES[name](stream("false claims", name, n), (RUNS, n))
        margin = 1.0
        return percent(float((p_above(samples - margin, -margin) < ALPHA).mean()))

    rows = [(name, [partial(cell, name, n) for n in sizes]) for name in NOISES]
    return SimulatedTable("False claims of one comparison", ["differences", *(f"n = {n}" for n in sizes)], rows)


def shared_noise(random: np.random.Generator, shape: tuple[int, int, int], correlation: float) -> Floats:
    """Normal differences ``(runs, arms, n)`` of SD 1 between arms, and a reference that all of them share."""
    runs, arms, n = shape
    ours = random.standard_normal((runs, arms, n)) * math.sqrt(1 - correlation)
    return ours - random.standard_normal((runs, 1, n)) * math.sqrt(correlation)


def any_false(samples: Floats, true_losses: Sequence[float], margin: float, adjust: bool = True) -> float:
    """In how many runs some arm that loses the margin is called non-inferior.

    Args:
        samples: ``(runs, arms, n)``, with a mean of 0.
        true_losses: one an arm.
        margin: the margin.
        adjust: by Holm's method, over the arms.
    """
    losses = np.asarray(true_losses)
    p_values = p_above(samples - losses[:, None], -margin)
    claimed = np.array([holm(row) for row in p_values.tolist()] if adjust else p_values) < ALPHA
    return float((claimed & (losses >= margin)).any(axis=1).mean())


def families() -> SimulatedTable:
    """How often any of a workload's arms and depths gets a false claim, five seeds."""
    margin, n = 2.0, 5

    def cell(arms: int, correlation: float, kind: str) -> str:
        random = stream("families", arms, correlation, kind)
        samples = shared_noise(random, (FAMILY_RUNS, arms, n), correlation)
        if kind == "degraded":  # nobody loses anything
            p_values = p_above(-samples, 0.0)
            return percent(float((np.array([holm(row) for row in p_values.tolist()]) < ALPHA).any(axis=1).mean()))
        harmless = arms // 2 if kind == "half" else 0
        losses = [0.0] * harmless + [margin] * (arms - harmless)
        return percent(any_false(samples, losses, margin, kind != "unadjusted"))

    kinds = ("unadjusted", "all", "half", "degraded")
    rows = [
        (f"{arms}, correlation {correlation:g}", [partial(cell, arms, correlation, kind) for kind in kinds])
        for arms in (4, 8, 20)
        for correlation in (0.0, 0.5, 0.9)
    ]
    headers = ["comparisons", "all lose the margin, not adjusted", "the same, Holm", "half of them do, Holm"]
    return SimulatedTable(
        "False claims in a family", [*headers, 'none loses: any "degraded", Holm'], rows, [rows[1][0]]
    )


POWER_TABLE = {3: (2.29, 6.53), 5: (1.36, 2.48), 8: (0.98, 1.53), 10: (0.85, 1.29)}
"""By number of seeds: margins in SDs that have 80 % power, for one comparison and for Bonferroni's level of eight."""


def simulated_power(n: int, margin: float, level: float, place: str) -> float:
    """How often a comparison without a true loss passes at a level."""
    samples = stream("power", place, n).standard_normal((RUNS, n))
    return float((p_above(samples, -margin) < level).mean())


def power_of_all(n: int, margin: float) -> float:
    """How often an arm passes under Holm, if it is one of eight that share a reference and all lose nothing."""
    samples = shared_noise(stream("power of all", n), (FAMILY_RUNS, 8, n), 0.5)
    return float((np.array([holm(row) for row in p_above(samples, -margin).tolist()]) < ALPHA).mean())


def power_facts() -> SimulatedTable:
    """Power where it should be 80 %, and what the exact test can reach."""

    def row(n: int) -> list[Cell]:
        alone, of_eight = POWER_TABLE[n]
        return [
            lambda: f"{alone:.2f}",
            lambda: percent(power(n, alone, 1.0)),
            lambda: percent(simulated_power(n, alone, ALPHA, "alone")),
            lambda: f"{of_eight:.2f}",
            lambda: percent(power(n, of_eight, 1.0, ALPHA / 8)),
            lambda: percent(simulated_power(n, of_eight, ALPHA / 8, "of eight")),
            lambda: percent(power_of_all(n, of_eight)),
            lambda: f"{0.5**n:.3g}",
            lambda: str(largest_exact_family(n)),
        ]

    headers = ["seeds", "margin (SDs)", "power", "simulated", "margin among 8 (SDs)", "power", "simulated"]
    headers += ["if all 8 lose nothing, Holm", "exact test's floor", "largest family it can pass in"]
    return SimulatedTable("Power", headers, [(str(n), row(n)) for n in POWER_TABLE])


def smallest_margins() -> SimulatedTable:
    """The smallest margin that has 80 % power, in SDs of the paired differences."""
    sizes = (1, 4, 8, 16, 24)

    def cell(n: int, family: int) -> str:
        found = smallest_margin(n, 1.0, family)
        return "-" if found is None else f"{found:.2f}"

    rows = [(str(n), [partial(cell, n, family) for family in sizes]) for n in (3, 4, 5, 6, 8, 10, 15, 20, 30)]
    headers = ["seeds", "one comparison", *(f"{size} comparisons" for size in sizes[1:])]
    return SimulatedTable("Smallest margins", headers, rows)


def seeds() -> SimulatedTable:
    """The seeds that a margin needs, for 80 % power."""
    sizes = (1, 4, 8, 16, 24)

    def cell(margin: float, family: int) -> str:
        return str(seeds_needed(margin, 1.0, family) or "-")

    rows = [
        (f"{margin:g}", [partial(cell, margin, family) for family in sizes]) for margin in (0.25, 0.5, 1, 1.5, 2, 3)
    ]
    headers = ["margin (SDs)", "one comparison", *(f"{size} comparisons" for size in sizes[1:])]
    return SimulatedTable("Seeds needed", headers, rows)


def time_intervals() -> SimulatedTable:
    """How often the 90 % intervals of times hold the true ratio."""

    def over_seeds(n: int, noise: str) -> str:
        logs = NOISES[noise](stream("seeds", n, noise), (INTERVAL_RUNS, n)) * 0.05
        found = [ratio_over_seeds(row) for row in np.exp(logs)]
        return percent(float(np.mean([(made.low or 2) <= 1 <= (made.high or 0) for made in found])))

    def within(n: int, memory: float) -> str:
        random = stream("pairs", n, memory)
        logs = random.standard_normal((INTERVAL_RUNS, n))
        for pair in range(1, n):  # what disturbs one pair disturbs the next one, too
            logs[:, pair] = memory * logs[:, pair - 1] + math.sqrt(1 - memory**2) * logs[:, pair]
        ratios = np.exp(0.05 * logs)
        quartiles = np.quantile(ratios, [0.25, 0.75], axis=1).T
        held = 0
        for row, (lower, upper) in zip(ratios, quartiles, strict=True):
            made = ratio_within_cell(float(np.median(row)), (float(lower), float(upper)), n)
            held += (made.low or 2) <= 1 <= (made.high or 0)
        return percent(held / INTERVAL_RUNS)

    sizes = (3, 5, 9, 15, 31)
    rows = [
        ("over seeds, normal logarithms", [partial(over_seeds, n, "normal") for n in sizes]),
        (
            "over seeds, heavy tails",
            [partial(over_seeds, n, "heavy tails (t with 3 degrees of freedom)") for n in sizes],
        ),
        ("over pairs, independent", [partial(within, n, 0.0) for n in sizes]),
        ("over pairs, each half like the one before", [partial(within, n, 0.5) for n in sizes]),
    ]
    return SimulatedTable("Time", ["interval", *(f"n = {n}" for n in sizes)], rows, [rows[0][0], rows[2][0]])


def bootstrap_coverage() -> SimulatedTable:
    """How often the 95 % interval of the interquartile mean holds the true one."""

    def cell(tasks: int, n: int, noise: str) -> str:
        random = stream("bootstrap", tasks, n, noise)
        means = 1 - 0.1 * np.arange(tasks) / tasks
        sample = NOISES[noise]
        true = interquartile_mean(np.concatenate([m + 0.05 * sample(random, (200_000,)) for m in means]))
        held = 0
        for run in range(BOOTSTRAP_RUNS):
            strata = [m + 0.05 * sample(random, (n,)) for m in means]
            found = stratified_interval(strata, seed=run, resamples=1_000)
            held += found is not None and found[0] <= true <= found[1]
        return percent(held / BOOTSTRAP_RUNS)

    sizes = (3, 5, 10)
    rows = [
        (f"{tasks}, {noise}", [partial(cell, tasks, n, noise) for n in sizes])
        for noise in ("normal", "long tail of losses (exponential)")
        for tasks in (1, 2, 4, 8)
    ]
    return SimulatedTable("Bootstrap", ["tasks, scores", *(f"{n} seeds" for n in sizes)], rows, [rows[0][0]])


def main() -> int:
    """Prints every table."""
    for table in tables():
        print(f"### {table.title}\n")
        print("\n".join(table.lines()), end="\n\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
