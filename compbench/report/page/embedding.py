"""What stands in the page beside its text: data and scripts that can't end their element, and the policy over them."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_ESCAPED = {character: f"\\u{ord(character):04x}" for character in "<>&"}


def json_for_script(data: object) -> str:
    """Data as JSON that a ``script`` element of any type may hold, whatever text is in it.

    It is ASCII, and no character in it means anything to an HTML parser; it is valid JavaScript too. Numbers that are
    not finite, which JSON has no word for, are ``null``.
    """
    text = json.dumps(_finite(data), allow_nan=False, separators=(",", ":"))
    return "".join(_ESCAPED.get(character, character) for character in text)


def _finite(data: object) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(name): _finite(value) for name, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [_finite(value) for value in data]
    return data


def script_for_element(script: str) -> str:
    """A script in which nothing ends its element or begins a comment; its strings mean what they did.

    Line ends are as an HTML parser leaves them, so that the script's hash is that of what the browser runs.
    """
    lines = script.replace("\r\n", "\n").replace("\r", "\n")
    return lines.replace("</script", r"<\/script").replace("</SCRIPT", r"<\/SCRIPT").replace("<!--", r"<\!--")


def content_security_policy(scripts: Iterable[str]) -> str:
    """The policy of a page: these scripts run and no other, and nothing is fetched from anywhere.

    Styles may stand anywhere, since figures are drawn with them. Scripts are named by their hashes, so that neither an
    inline script nor an event handler nor ``eval`` would run if one came in by a name or a log.
    """
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    directives = {
        "default-src": "'none'",
        "script-src": allowed or "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())
