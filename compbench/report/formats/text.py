"""Text that somebody else wrote, made harmless where no format has a say in it yet."""

from __future__ import annotations


def visible(text: str) -> str:
    r"""Text on one line, of which everything can be seen.

    White space of any kind becomes one space. Control characters (escape sequences of terminals among them), marks that
    change the direction of writing, and halves of surrogate pairs are written as Python writes them, such as ``\x1b``.
    """
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
