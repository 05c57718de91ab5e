"""Numbers of a single cell as the page shows them. What is not finite is said to be so, and is no number."""

from __future__ import annotations

import math
import re

from compbench.report.wording import NOT_AVAILABLE, cosine, figures, unit_of_bytes

NOT_FINITE = "not finite"

_BARE = re.compile(r"[+-]?\b(?:nan|inf(?:inity)?)\b", re.IGNORECASE)


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits; a whole one with all of its digits, in groups of three.

    What is not quite 1 does not look as if it were.
    """
    if value is None:
        return NOT_AVAILABLE
    if not math.isfinite(value):
        return NOT_FINITE
    if float(value).is_integer():
        return f"{int(value):,}"
    if figures(value, digits) == figures(1.0, digits) and value < 1:
        return ">0." + "9" * digits
    return figures(value, digits)


def cosine_text(value: float | None) -> str:
    """A cosine with four decimals."""
    return cosine(value) if value is None or math.isfinite(value) else NOT_FINITE


def size(count: int | None) -> str:
    """A number of bytes, in the largest unit of which it has one."""
    if count is None:
        return NOT_AVAILABLE
    divisor, unit = unit_of_bytes(count)
    return f"{figures(count / divisor) if divisor > 1 else count} {unit}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if not math.isfinite(seconds):
        return NOT_FINITE
    for divisor, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * divisor:
            return f"{seconds / divisor:.1f} {unit}"
    return f"{seconds:.1f} s"


def finite_only(text: str) -> str:
    """A table's number as text, in which what is not finite is called so: ``nan ± nan`` is no result."""
    return NOT_FINITE if _BARE.search(text) else text
