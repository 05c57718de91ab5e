"""The page's templates. Whatever they are given is text: it is escaped, and all of it can be seen."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from compbench.report.formats.text import visible

if TYPE_CHECKING:
    from jinja2 import Environment

_CODE = re.compile(r"`([^`]+)`")
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")


def render(largest_bytes: int, **content: Any) -> str | None:
    """The page of some content, by the names that ``page.html`` knows.

    Args:
        largest_bytes: of the page; one that grows larger is given up as soon as it does, and None.
        content: what is on the page.
    """
    parts, size = [], 0
    for part in _environment().get_template("page.html").generate(**content):
        size += len(part.encode())
        if size > largest_bytes:
            return None
        parts.append(part)
    return "".join(parts)


def template_text(name: str) -> str:
    """A file beside the templates as it is: the page's style, or its script."""
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def prose(text: str) -> Markup:
    """A sentence, in which what stands between backticks is a name."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(visible(text)))))  # noqa: S704 - it is escaped


def capitalised(markup: Markup) -> Markup:
    """A heading that begins with a capital letter, unless it begins with a name."""
    return markup[:1].upper() + markup[1:]


def lines(text: str) -> Markup:
    """Text of several lines, whose white space is kept."""
    return escape(text)


def typographic(text: str) -> str:
    """A number with a minus sign in the place of its hyphen."""
    return _MINUS.sub("\N{MINUS SIGN}", text)


def _visible(value: object) -> object:
    """What is put into a template, if it is text and no markup, without anything that hides or turns what follows."""
    if not isinstance(value, str) or isinstance(value, Markup) or (value.isascii() and value.isprintable()):
        return value  # most are plain, and a page has a hundred thousand of them
    return visible(value)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # which commands that make no page need not wait for

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(prose=prose, capitalised=capitalised, lines=lines, typographic=typographic)
    return environment
