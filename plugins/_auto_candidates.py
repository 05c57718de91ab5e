"""What ``auto`` may choose: candidates as suites write strategies, with ranks in shares of a site's width."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from compbench import Chain, Compressor
from compbench.errors import SettingsError, nearest

from ._group_codes import Bits
from .actnn import ActNN
from .asi import Asi
from .fp8 import Fp8
from .gale import Gale
from .gist import Gist
from .hosvd import Hosvd
from .int8 import Int8
from .lance import Lance
from .laser import Laser
from .loract import LoRAct
from .oracle_svd import OracleSvd

# Imported, not looked up: so the source hash of ``auto`` covers what it may choose, and its cells run again with it.
_STRATEGIES: dict[str, type[Compressor]] = {
    strategy.name: strategy
    for strategy in (Int8, Fp8, ActNN, Gist, Laser, Lance, Asi, Gale, LoRAct, OracleSvd, Hosvd, Bits)
}
_RANKS = ("rank", "max_rank")

_Member = str | dict[str, dict[str, Any]]
Spec = _Member | Annotated[list[_Member], Field(min_length=1)]
"""A candidate as a suite writes it: a name, ``{name: {field: value}}``, or a list of them, which is a chain."""


def _laser(share: float) -> _Member:
    return {"laser": {"rank": share, "max_rank": share}}  # a rank that grows would leave the budget


def _actnn(bits: int) -> _Member:
    return {"actnn": {"bits": bits, "allocate": False}}


def _bits(bits: int) -> _Member:
    return {"bits": {"bits": bits}}


# A layer that widens three or six times, as q, k and v or SwiGLU's gate and up do, gives rows of a third or a sixth of
# their width in rank: there a basis loses nothing, and the bits of the coefficients can be many. One basis for all
# calls keeps least; where calls differ much, each needs its own (``asi``).
DEFAULT: tuple[Spec, ...] = (
    *(_bits(bits) for bits in (16, 14, 12, 10, 9, 8, 7, 6, 5, 4, 3)),
    *(_actnn(bits) for bits in (2, 3, 4)),
    *([{"asi": {"rank": share}}, _bits(bits)] for share in (1 / 16, 1 / 8, 1 / 4) for bits in (8, 12)),
    *([_laser(1 / 32), _bits(bits)] for bits in (4, 8)),
    *([_laser(share), _bits(bits)] for share in (1 / 16, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2) for bits in (4, 8, 12)),
)


def strategy_of(spec: Spec, width: int) -> Compressor:
    """Makes a candidate for sites of a width.

    Raises:
        SettingsError: an unknown name or field, a value that is not allowed, or a chain that does not fit.
    """
    if isinstance(spec, list):
        return Chain(members=tuple(strategy_of(member, width) for member in spec))
    name, fields = _named(spec)
    known = _STRATEGIES.get(name)
    if known is None:
        raise SettingsError(
            f"unknown strategy {name!r}{nearest(name, _STRATEGIES)} (allowed: {', '.join(_STRATEGIES)})"
        )
    fields = {
        field: max(1, round(value * width)) if field in _RANKS and isinstance(value, float) and value < 1 else value
        for field, value in fields.items()
    }
    try:
        return known.model_validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        raise SettingsError(
            "; ".join(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}" for wrong in error.errors())
        ) from error


def _named(spec: _Member) -> tuple[str, Mapping[str, Any]]:
    """Name and fields of one strategy.

    Raises:
        SettingsError: it is a mapping of none, or of several.
    """
    if isinstance(spec, str):
        return spec, {}
    if len(spec) != 1:
        raise SettingsError(f"a mapping of {len(spec)} names (allowed: a name, or {{name: {{field: value}}}})")
    return next(iter(spec.items()))


def kind_of(spec: Spec) -> str:
    """The name of a candidate's first strategy."""
    return _named(spec[0] if isinstance(spec, list) else spec)[0]


def only_first_learns(strategy: Compressor) -> bool:
    """Whether a strategy is a chain whose further members learn nothing, so that what its first learns is all."""
    return isinstance(strategy, Chain) and all(
        isinstance(member, (Int8, Fp8, Bits)) or (isinstance(member, ActNN) and not member.allocate)
        for member in strategy.members[1:]
    )


def label_of(spec: Spec) -> str:
    """A candidate in words, such as ``laser(rank 0.25)+int8``."""
    if isinstance(spec, list):
        return "+".join(label_of(member) for member in spec)
    if isinstance(spec, str):
        return spec
    name, fields = _named(spec)
    told = {
        field: value
        for field, value in fields.items()
        if not (field == "max_rank" and value == fields.get("rank")) and (field, value) != ("allocate", False)
    }
    if name == Bits.name and len(told) == 1:
        return f"{_short(*told.values())} bits"
    return f"{name}({', '.join(f'{field} {_short(value)}' for field, value in told.items())})" if told else name


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
