"""The page's templates. Whatever they are given is text, and escaped, unless it was made here to be markup."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

_CODE = re.compile(r"`([^`]+)`")
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")


def render(**content: Any) -> str:
    """The page of some content, by the names that ``page.html`` knows."""
    return _environment().get_template("page.html").render(**content)


def template_text(name: str) -> str:
    """A file beside the templates as it is: the page's style, or its script."""
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def prose(text: str) -> Markup:
    """A sentence, in which what stands between backticks is a name."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - it is escaped


def typographic(text: str) -> str:
    """A number with a minus sign in the place of its hyphen."""
    return _MINUS.sub("\N{MINUS SIGN}", text)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(prose=prose, typographic=typographic)
    return environment
