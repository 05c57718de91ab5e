"""One choice for each of several places within one budget: the multiple-choice knapsack problem, solved exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SECONDS = 10.0
"""For one solution: hundreds of places take so long to be sure, and are as good as solved long before."""

Choices = Sequence[tuple[int, float]]
"""What may be chosen at one place: the bytes that each choice takes, and what it costs (``>= 0``)."""


def best_choices(places: Sequence[Choices], budget: int) -> list[int] | None:
    """Which choice to make at each place, so that the bytes are within the budget and the sum of costs is smallest.

    An integer linear program: a variable of 0 or 1 for each choice that no other at its place is better than, one of
    them 1 at each place. With more than a few hundred places it is the best plan found within some seconds.

    Returns:
        The number of the choice at each place; None if even the smallest choices take more than the budget.
    """
    if not places:
        return []
    chosen = [min(range(len(choices)), key=lambda n, c=choices: (c[n][0], c[n][1])) for choices in places]  # type: ignore[misc]
    if _bytes(places, chosen) > budget:
        return None
    # The solver's tolerance is absolute. So the problem is solved again and again with costs in units of the best sum
    # so far, until that is no longer less: a choice that alone costs more can be left out.
    while True:
        found = _solved(places, budget, _cost(places, chosen))
        if found is None or _bytes(places, found) > budget or _cost(places, found) >= _cost(places, chosen):
            return chosen
        chosen = found


def _best(choices: Choices) -> list[int]:
    """The numbers of the choices for which no other takes no more bytes and costs no more."""
    best: list[int] = []
    for n in sorted(range(len(choices)), key=choices.__getitem__):
        if not best or choices[n][1] < choices[best[-1]][1]:
            best.append(n)
    return best


def _bytes(places: Sequence[Choices], chosen: Sequence[int]) -> int:
    return sum(choices[n][0] for choices, n in zip(places, chosen, strict=True))


def _cost(places: Sequence[Choices], chosen: Sequence[int]) -> float:
    return sum(choices[n][1] for choices, n in zip(places, chosen, strict=True))


def _solved(places: Sequence[Choices], budget: int, limit: float) -> list[int] | None:
    """The choices of least cost among those that cost no more than ``limit`` each."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # takes half a second, of every cell of any strategy

    if limit <= 0:
        return None
    kept = [[n for n in _best(choices) if choices[n][1] <= limit] for choices in places]
    sizes = [choices[n][0] for choices, ns in zip(places, kept, strict=True) for n in ns]
    costs = [choices[n][1] / limit for choices, ns in zip(places, kept, strict=True) for n in ns]
    owner = [place for place, ns in enumerate(kept) for _ in ns]
    one_each = np.equal.outer(np.arange(len(places)), owner).astype(float)
    each = LinearConstraint(one_each, np.ones(len(places)), np.ones(len(places)))
    all_together = LinearConstraint(np.array([sizes], dtype=float), -np.inf, budget)
    result = milp(
        costs,
        integrality=np.ones(len(costs), dtype=int),
        bounds=Bounds(0, 1),
        constraints=(each, all_together),
        options={"mip_rel_gap": 0, "time_limit": _SECONDS},
    )
    if result.x is None:
        return None
    taken = iter(result.x)
    return [max(ns, key=dict(zip(ns, taken, strict=False)).__getitem__) for ns in kept]
