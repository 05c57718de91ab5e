"""Made-up outcomes that have all that figures are made from."""

from __future__ import annotations

from tests.report.made_up import memory, outcome, result

SITES = ("block.attn/attn_64", "block.mlp/mlp_192", "block.mlp/mlp_192#1")

NASTY = (
    "none",
    "<script>alert(1)</script>",
    "a.b[0]",
    'it\'s "quoted"',
    "back\\slash",
    "{{x}} $datum %s",
    "line\nbreak\x07bell",
    "</script><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "=1+1",
    "",
)


def cell(arm, depth, seed, *, strategy=None, number=1, steps=24, **fields):
    """A record with curves and sites, whose figures follow from the arm's number, the depth and the seed."""
    saved = (1_000_000 * depth + 400_000) // number
    sites = [
        {
            "name": name,
            "kept_bytes": saved // len(SITES),
            "raw_bytes": 10**7,
            "reason": "",
            "width": 64,
            "statistics": {"rank": 16.0 + place + depth} if number > 1 else {},
        }
        for place, name in enumerate(SITES)
    ]
    accuracy = 0.9 - 0.02 * number + 0.003 * seed
    curve = [(step, accuracy * step / steps) for step in range(4, steps + 1, 4)]
    settings = {
        "strategy": strategy or (("none",) if number == 1 else ("laser",)),
        "memory": memory(saved=saved, peak=2 * saved).model_copy(update={"sites": sites}),
        "ratio": 1 + 0.1 * number,
        "metrics": {"token_accuracy": accuracy, "solved": accuracy / 2},
        "loss_curve": [2.0 / (step + number) for step in range(1, steps + 1)],
        "validation_curve": [{"step": step, "token_accuracy": value, "solved": value / 2} for step, value in curve],
        "exactness": "exact" if number <= 2 else "lossy",
    }
    if number > 1:
        settings["statistics_curve"] = [
            {"step": step, "rank": 16.0 + step // 8, "fidelity": 1 - 0.01 * number - step / 1000}
            for step in range(1, steps + 1)
        ]
        settings["site_curves"] = {
            name: {
                "rank": [(step, 16.0 + place) for step in range(1, steps + 1, 2)],
                "fidelity": [(step, 1 - 0.1 * place - seed / 100) for step in range(3, steps + 1, 2)],
            }
            for place, name in enumerate(SITES)
        }
    return result(arm, depth, seed, **(settings | fields))


def store(arms=("none", "checkpoint", "laser"), depths=(2, 4), seeds=(0, 1), margins=None, **fields):
    """The outcome of a suite of some arms, the first of them the reference."""
    cells = [
        cell(arm, depth, seed, number=number, **fields)
        for number, arm in enumerate(arms, start=1)
        for depth in depths
        for seed in seeds
    ]
    return outcome(cells, margins={"token_accuracy": 0.01} if margins is None else margins)
