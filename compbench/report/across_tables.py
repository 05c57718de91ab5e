"""What several results show together, as text: tables for people, and raw numbers as CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from html import escape
from typing import Any

from compbench.report.across import Across, Profile, RelativeScore
from compbench.report.phrases import code, counted, listed
from compbench.report.tables import NOT_AVAILABLE, TERMINAL, Table, as_text, words

FORMATS = ("terminal", "github", "latex_booktabs", "html", "csv", "json")

COLUMNS = ("table", "quantity", "arm", "factor", "value", "low", "high", "tasks", "count", "failed", "dropped")
"""Of the CSV: relative scores, and every step of every profile, in long form."""

_FACTORS = (1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0)


def render_across(found: Across, layout: str) -> str:
    """The tables in one of :data:`FORMATS`; CSV and JSON have every step of the profiles."""
    if layout == "csv":
        return _as_csv(found)
    if layout == "json":
        return json.dumps(_as_data(found), indent=2, allow_nan=False) + "\n"
    parts = [_title(f"{_suites(found)}: {counted(found.tasks, 'task')}", layout, level=1)]
    for title, table in _tables(found):
        parts += [_title(title, layout, level=2), as_text(table, TERMINAL if layout == "terminal" else layout).strip()]
    parts.append(_sentences(found, layout))
    return "\n\n".join(part for part in parts if part) + "\n"


def _suites(found: Across) -> str:
    return listed([code(name) for name in found.suites])


def _tables(found: Across) -> Iterator[tuple[str, Table]]:
    if found.scores:
        headers = ["metric", "arm", "relative score", "95 % interval", "tasks", "scores", "failed", "dropped"]
        yield "Relative scores", Table(headers, [_score_text(made) for made in found.scores], ("metric", "arm"))
    for profile in found.profiles:
        headers = ["arm", *(f"within {factor:g}" for factor in _FACTORS), "ever"]
        yield f"Performance profile: {profile.cost}", Table(headers, _profile_text(profile), ("arm",))


def _score_text(made: RelativeScore) -> list[str]:
    interval = f"{made.interval[0]:.3f} to {made.interval[1]:.3f}" if made.interval else NOT_AVAILABLE
    counts = (made.tasks, made.scores, made.failed, made.dropped)
    return [words(made.metric), made.arm, f"{made.mean:.3f}", interval, *map(str, counts)]


def _profile_text(profile: Profile) -> list[list[str]]:
    shares = [profile.share_within(factor) for factor in _FACTORS]
    lines = []
    for arm in profile.arms:
        steps = profile.steps(arm)
        ever = steps[-1][1] if steps else 0.0
        lines.append([arm, *(f"{share[arm]:.2f}" for share in shares), f"{ever:.2f}"])
    return lines


def _title(text: str, layout: str, level: int) -> str:
    if layout == "github":
        return f"{'#' * (level + 1)} {text}"
    if layout == "html":
        return f"<h{level + 1}>{escape(text)}</h{level + 1}>"
    return f"% {text}" if layout == "latex_booktabs" else text


def _sentences(found: Across, layout: str) -> str:
    if layout == "html":
        items = [f"<li>{escape(sentence)}</li>" for sentence in found.sentences]
        return "\n".join(["<ul>", *items, "</ul>"])
    mark = "%" if layout == "latex_booktabs" else "-"
    return "\n".join(f"{mark} {sentence}" for sentence in found.sentences)


def _as_csv(found: Across) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for made in found.scores:
        low, high = made.interval or ("", "")
        writer.writerow(
            {
                "table": "relative_score",
                "quantity": made.metric,
                "arm": _harmless(made.arm),
                "value": made.mean,
                "low": low,
                "high": high,
                "tasks": made.tasks,
                "count": made.scores,
                "failed": made.failed,
                "dropped": made.dropped,
            }
        )
    for profile in found.profiles:
        for arm in profile.arms:
            for factor, share in profile.steps(arm):
                writer.writerow(
                    {
                        "table": "profile",
                        "quantity": profile.cost.replace(" ", "_"),
                        "arm": _harmless(arm),
                        "factor": factor,
                        "value": share,
                        "count": len(profile.ratios),
                    }
                )
    return text.getvalue()


def _harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _as_data(found: Across) -> dict[str, Any]:
    return {
        "suites": list(found.suites),
        "tasks": found.tasks,
        "relative_scores": [
            {
                "metric": made.metric,
                "arm": made.arm,
                "interquartile_mean": made.mean,
                "interval": list(made.interval) if made.interval else None,
                "tasks": made.tasks,
                "scores": made.scores,
                "failed": made.failed,
                "dropped": made.dropped,
            }
            for made in found.scores
        ],
        "profiles": [
            {
                "cost": profile.cost.replace(" ", "_"),
                "problems": len(profile.ratios),
                "left_out": profile.left_out,
                "unsolved": profile.unsolved,
                "arms": {
                    arm: [{"factor": factor, "share": share} for factor, share in profile.steps(arm)]
                    for arm in profile.arms
                },
            }
            for profile in found.profiles
        ],
        "sentences": list(found.sentences),
    }
