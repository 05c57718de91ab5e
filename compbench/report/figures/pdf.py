"""PDFs that are the same bytes each time.

The renderer goes through hash tables: in another order each time it names the resources of a page, and numbers and
writes the objects of its fonts. What the page looks like does not depend on that, and what is published should not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_KINDS = rb"(?:ColorSpace|ExtGState|Font|Pattern|Shading|XObject)"
_RESOURCES = re.compile(rb"(?P<begin>\n */" + _KINDS + rb" <<\n)(?P<entries>(?: */[^\n<>]*\n)+)(?= *>>\n)")
"""A dictionary of resources in which every entry is a line: a name, and the object that it stands for."""

_REFERENCE = re.compile(rb"(?P<text>\((?:\\.|[^()\\])*\))|\b(?P<number>\d+) 0 R\b", re.DOTALL)
"""A text, in which nothing is a reference, or a reference to an object."""

_ENTRY = re.compile(rb"(?P<offset>\d{10}) \d{5} n")
_STREAM = b"\nstream\n"


def in_order(pdf: bytes) -> bytes:
    """A PDF whose resources are in the order of their names, and whose objects in that in which they are referred to.

    Args:
        pdf: as the renderer writes it: one table of objects, all in use, with generation 0. One that is written in
            another way, as by a newer renderer, is given back as it is: it may be other bytes each time.
    """
    try:
        return _rewritten(pdf)
    except ValueError:
        return pdf


def _rewritten(pdf: bytes) -> bytes:
    end = pdf.rindex(b"trailer\n")
    start = pdf.rindex(b"xref\n", 0, end)
    offsets = [int(found["offset"]) for found in _ENTRY.finditer(pdf, start, end)]
    objects = dict(_objects(pdf, offsets, start))
    trailer = pdf[end : pdf.rindex(b"startxref")]
    order = _order(trailer, objects)
    if sorted(order) != sorted(objects):
        raise ValueError("a PDF with objects that nothing refers to, or that are not there")
    numbers = {old: new for new, old in enumerate(order, start=1)}
    written = pdf[: min(offsets)]
    table = [b"0000000000 65535 f\r\n"]
    for old in order:
        table.append(b"%010d 00000 n\r\n" % len(written))
        head, separator, stream = objects[old].partition(_STREAM)
        written += b"%d 0 obj" % numbers[old] + _renumbered(head, numbers) + separator + stream
    place = len(written)
    written += b"xref\n0 %d\n" % len(table) + b"".join(table) + _renumbered(trailer, numbers)
    return written + b"startxref\n%d\n%%%%EOF" % place


def _objects(pdf: bytes, offsets: list[int], end: int) -> Iterator[tuple[int, bytes]]:
    """Each object by its number, from what follows its ``obj`` up to the next one."""
    places = sorted((offset, number) for number, offset in enumerate(offsets, start=1))
    ends = [*(offset for offset, _ in places[1:]), end]
    for (offset, number), following in zip(places, ends, strict=True):
        begin = b"%d 0 obj" % number
        if not pdf.startswith(begin, offset):
            raise ValueError(f"a PDF without object {number} where its table says")
        head, separator, stream = pdf[offset + len(begin) : following].partition(_STREAM)
        yield number, _RESOURCES.sub(_sorted, head) + separator + stream


def _sorted(found: re.Match[bytes]) -> bytes:
    return found["begin"] + b"".join(sorted(found["entries"].splitlines(True)))


def _order(trailer: bytes, objects: dict[int, bytes]) -> list[int]:
    """The objects in the order in which they are first referred to, from the trailer on."""
    order: dict[int, None] = {}
    waiting = list(_references(trailer))
    for number in waiting:  # grows while it is gone through
        if number not in order:
            order[number] = None
            waiting += _references(objects.get(number, b"").partition(_STREAM)[0])
    return list(order)


def _references(text: bytes) -> Iterator[int]:
    return (int(found["number"]) for found in _REFERENCE.finditer(text) if found["number"])


def _renumbered(text: bytes, numbers: dict[int, int]) -> bytes:
    return _REFERENCE.sub(lambda f: b"%d 0 R" % numbers[int(f["number"])] if f["number"] else f["text"], text)
