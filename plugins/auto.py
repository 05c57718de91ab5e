"""``auto``: for each site the strategy that costs the gradient least, all within one budget of bytes.

In one calibration step the rows are kept as they are, and every candidate is tried at every site: what would the
gradients of the operators that saved these rows be, if the rows were those that the candidate rebuilds? What is
measured is the change of these gradients, not that of the rows. When the step has ended, each site is given one of the
candidates, so that the sum of the measured errors is the smallest that the budget allows (exactly: an integer program).
From then on the site's codec is that candidate's, and all goes on as if it had been asked for there.

The error of a candidate at a site is in units of the model's whole gradient:

- The gradient of a weight: ``|sum_c (G^_c - G_c)|^2 / |G|^2``. Over calls ``c`` of a weight-tied module errors add up
  as gradients do: those of a rounding at random cancel, those of a basis do not. ``G`` are the gradients of all weights
  whose operators take encoded rows. If nothing else were compressed, this would be the squared relative error of the
  model's gradient.
- The gradient of an activation: the mean over ``c`` of ``(c / C) |1^T (G^_c - G_c)|^2 / |1^T G_c|^2``, for calls 1 to
  ``C``, all inputs of an operator together. ``1^T`` adds up rows, as the gradients of the weights that lie before do:
  what cancels there does no harm, and while a model's rows are much alike, before it has learnt, nearly all of a
  rounding cancels. The error is handed on to a share ``c / C`` of a recursion. That it grows or shrinks on its way as
  the gradient itself does is an assumption.

Errors of sites are added up, as if they were independent. There is no source for the whole; that bits should go where
gradients need them is ActNN's idea (arXiv 2104.14129), and that sites differ in the rank that they bear ASI's.

Error: that of the strategies it chooses, the least in the gradient that the budget allows.

What it does not do:

- The plan is made once and printed, and the training may outgrow it. ``warmup`` steps before the calibration step let
  the model leave its initialisation; rows are kept in them.
- The calibration step keeps all rows, and what operators took besides, and tries every candidate: it takes as long as
  some twenty to forty others, and its memory is that of plain training and more.
- Budgets are for the rows of encoded sites, with the shapes of the calibration step. What a model keeps otherwise
  (masks, the loss) is not in them, and candidates that grow (``laser`` below its ``max_rank``, ``actnn`` with
  ``allocate``) may leave them.
- An operator that saves what it gave, as ReLU does, can't be tried: a site's other operators then decide alone. A
  site where no operator could be tried has, for each candidate, the mean error of the others. After another strategy
  in a chain none can be tried, which is an error. A codec that nobody coordinates, outside a session, takes the
  candidate that keeps most within its own share.
- A calibration step with rows or gradients that are not finite, or without any gradient, decides nothing: the next
  one is another. Sites that are met later are calibrated then, and share what the budget has left.

Candidates are shipped strategies and chains of them, as suites write them. A ``rank`` or ``max_rank`` below 1 is a
share of the site's width. To keep the rows is always among the choices.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, ValidationError, field_validator, model_validator
from tabulate import tabulate
from torch import Tensor

from compbench import Chain, Codec, Compressor, Dense, Payload, Site, SiteUse, hookimpl
from compbench.errors import SettingsError, nearest
from compbench.seeds import generator as seeded

from ._knapsack import best_choices, smallest_bytes
from .actnn import ActNN
from .fp8 import Fp8
from .gale import Gale
from .int8 import Int8
from .lance import Lance
from .laser import Laser
from .loract import LoRAct
from .oracle_svd import OracleSvd

# Imported, not looked up: so the source hash of ``auto`` covers what it may choose, and its cells run again with it.
_STRATEGIES: dict[str, type[Compressor]] = {
    strategy.name: strategy for strategy in (Int8, Fp8, ActNN, Laser, Lance, Gale, LoRAct, OracleSvd)
}
_KEEP = "none"
"""In labels: the rows are kept. That is always among the choices."""
_RANKS = ("rank", "max_rank")
_DEFAULT_SAVED = 0.9
_UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = re.compile(rf"\s*(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS)})\s*")

_Member = str | dict[str, dict[str, Any]]
Spec = _Member | Annotated[list[_Member], Field(min_length=1)]
"""A candidate as a suite writes it: a name, ``{name: {field: value}}``, or a list of them, which is a chain."""


def _laser(share: float) -> _Member:
    return {"laser": {"rank": share, "max_rank": share}}  # a rank that grows would leave the budget


def _actnn(bits: int) -> _Member:
    return {"actnn": {"bits": bits, "allocate": False}}


_CANDIDATES: tuple[Spec, ...] = (
    "int8",
    *(_actnn(bits) for bits in (2, 3, 4, 5, 6)),
    *(_laser(share) for share in (1 / 4, 1 / 2)),
    *([_laser(share), "int8"] for share in (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4)),
    *([_laser(share), _actnn(4)] for share in (1 / 16, 1 / 8, 1 / 4)),
)


class Auto(Compressor):
    """A strategy for each site, chosen by measured gradient error within a budget of bytes."""

    name: ClassVar[str] = "auto"

    saved: float | None = Field(
        None, gt=0, lt=1, description=f"share of the encoded sites' bytes to save; {_DEFAULT_SAVED} without a budget"
    )
    budget: int | str | None = Field(
        None, description="bytes that encoded sites may keep, a number or such as 256 MiB; in the place of saved"
    )
    candidates: tuple[Spec, ...] = Field(
        _CANDIDATES,
        min_length=1,
        description="strategies to choose from, as suites write them; a rank below 1 is a share of the site's width",
    )
    calibration_calls: int = Field(8, ge=1, description="calls of a site at which candidates are tried, at most")
    warmup: int = Field(0, ge=0, description="steps before the calibration step, in which rows are kept as they are")
    quiet: bool = Field(False, description="do not print the plan")

    @field_validator("budget")
    @classmethod
    def _readable(cls, budget: int | str | None) -> int | str | None:
        if budget is not None and _bytes_of(budget) < 1:
            raise ValueError(
                f"budget {budget!r} can't be read (allowed: bytes > 0, or such as 256 MiB; units {', '.join(_UNITS)})"
            )
        return budget

    @field_validator("candidates")
    @classmethod
    def _can_be_made(cls, candidates: tuple[Spec, ...]) -> tuple[Spec, ...]:
        for spec in candidates:
            try:
                strategy_of(spec, width=64)
            except SettingsError as error:  # pydantic gathers ValueErrors, with the field they belong to
                raise ValueError(f"candidate {json.dumps(spec)}: {error}") from error
        return candidates

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.saved is not None and self.budget is not None:
            raise ValueError("both saved and budget are set (allowed: one of them)")
        return self

    def allowance(self, raw_bytes: int) -> int:
        """Bytes that sites may keep whose rows take ``raw_bytes``."""
        if self.budget is not None:
            return _bytes_of(self.budget)
        return raw_bytes - math.ceil((_DEFAULT_SAVED if self.saved is None else self.saved) * raw_bytes)

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return AutoCodec(self, site, generator)

    def coordinate(self, sites: Sequence[SiteUse]) -> None:
        """Makes the plan after the calibration step; later, lets candidates coordinate the sites that they were given.

        Raises:
            SettingsError: even the smallest candidates keep more than the budget.
        """
        own = [(use, use.codec) for use in sites if isinstance(use.codec, AutoCodec)]
        fresh = [(use, codec, codec.trials) for use, codec in own if codec.trials]
        if fresh:
            earlier = [(use, codec) for use, codec in own if codec.settled and not codec.trials]
            spent = sum(codec.kept_bytes(use.rows, use.calls, use.itemsize) or 0 for use, codec in earlier)
            self._plan([use for use, _, _ in fresh], [codec for _, codec, _ in fresh], spent)
        groups: list[tuple[Compressor, list[SiteUse]]] = []
        for use, codec in own:
            if codec.settled and codec.chosen is not None and codec.codec is not None:
                strategy, inner = codec.chosen, replace(use, codec=codec.codec)
                uses = next((uses for known, uses in groups if known == strategy), None)
                if uses is None:
                    groups.append((strategy, [inner]))
                else:
                    uses.append(inner)
        for strategy, uses in groups:
            strategy.coordinate(uses)

    def _plan(self, uses: Sequence[SiteUse], codecs: Sequence[AutoCodec], spent: int) -> None:
        if not any(trial.measured for codec in codecs for trial in codec.trials):
            raise SettingsError(
                "auto: no operator could be tried at any site (allowed: auto alone, or in a chain with strategies on "
                "the graph, such as recompute)"
            )
        raw_bytes = sum(codec.raw_bytes for codec in codecs)
        budget = self.allowance(raw_bytes) - (spent if self.budget is not None else 0)
        total = sum(codec.weight_energy() for codec in codecs)
        costs = _costs([codec.trials for codec in codecs], total)
        if costs is None:
            for codec in codecs:
                codec.calibrate_again()
            return
        places = [
            [(trial.kept_bytes, cost) for trial, cost in zip(codec.trials, own, strict=True)]
            for codec, own in zip(codecs, costs, strict=True)
        ]
        chosen = best_choices(places, budget)
        if chosen is None:
            least = smallest_bytes(places)
            raise SettingsError(
                f"auto: {max(budget, 0):,} of {raw_bytes:,} bytes may be kept, and the smallest candidates keep "
                f"{least:,} (allowed: a budget of {least + spent:,} or more, saved up to {1 - least / raw_bytes:.4f}, "
                "or smaller candidates)"
            )
        rows = []
        for use, codec, number, own in zip(uses, codecs, chosen, costs, strict=True):
            trial = codec.trials[number]
            rows.append((use.site.name, trial.label, codec.raw_bytes, trial.kept_bytes, own[number]))
            codec.settle(trial)
        if not self.quiet:
            print(_table(rows, budget))


def _table(rows: Sequence[tuple[str, str, int, int, float]], budget: int) -> str:
    raw, kept, error = (sum(row[column] for row in rows) for column in (2, 3, 4))  # type: ignore[misc]
    shown = [(site, label, f"{raw:,}", f"{kept:,}", f"{error:.1e}") for site, label, raw, kept, error in rows]
    shown.append(("all", "", f"{raw:,}", f"{kept:,}", f"{error:.1e}"))
    headers = ("site", "strategy", "raw bytes", "kept bytes", "squared error")
    table = tabulate(
        shown, headers=headers, colalign=("left", "left", "right", "right", "right"), disable_numparse=True
    )
    return f"auto's plan, for a budget of {budget:,} bytes ({100 * (1 - kept / raw):.1f} % saved):\n{table}"


def _costs(places: Sequence[Sequence[Trial]], total: float) -> list[list[float]] | None:
    """The error of each candidate at each site, in units of the whole gradient; None where they can't be told."""
    if not math.isfinite(total):
        return None
    costs = [[trial.cost(total) if trial.measured else None for trial in trials] for trials in places]
    known: dict[str, list[float]] = {}
    for trials, own in zip(places, costs, strict=True):
        for trial, cost in zip(trials, own, strict=True):
            if cost is not None:
                known.setdefault(trial.label, []).append(cost)
    every = [cost for own in known.values() for cost in own]
    if not all(map(math.isfinite, every)) or not any(every):
        return None
    usual = {label: math.fsum(own) / len(own) for label, own in known.items()}
    return [
        [usual.get(trial.label, max(every)) if cost is None else cost for trial, cost in zip(trials, own, strict=True)]
        for trials, own in zip(places, costs, strict=True)
    ]


class Kept(Dense):
    """The rows of a call in the calibration step, which call of the step it is, and how often it was tried."""

    def __init__(self, rows: Tensor, call: int) -> None:
        super().__init__(rows)
        self.call = call
        self.operators = 0


class Trial:
    """One candidate on trial at one site.

    Args:
        number: which of the candidates it is; -1 for keeping the rows.
        label: the candidate in words.
        strategy: the candidate for the site's width; None for keeping the rows.
        codec: its codec; None where the rows are kept.
        generator: the codec's generator.
    """

    def __init__(
        self,
        number: int,
        label: str,
        strategy: Compressor | None = None,
        codec: Codec | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.number = number
        self.label = label
        self.strategy = strategy
        self.codec = codec
        self.generator = generator
        self.kept_bytes = 0
        self.measured = False
        self._changes: dict[tuple[int, int], Tensor] = {}  # of weights' gradients, summed over calls
        self._relative: Tensor | None = None  # squared relative errors of activations' gradients, weighted by calls
        self._calls: Counter[int] = Counter()
        self.figures: dict[tuple[int, int], float] = {}
        self.relative = 0.0

    def add_weight(self, key: tuple[int, int], change: Tensor) -> None:
        """Adds the change of a weight's gradient at one call; ``key`` says which weight."""
        known = self._changes.get(key)
        self._changes[key] = change if known is None else known + change

    def add_activations(self, error: Tensor) -> None:
        """Adds a squared relative error of activations' gradients."""
        self._relative = error if self._relative is None else self._relative + error

    def read(self, measured: int, calls: int) -> None:
        """Reads what was gathered at so many of a step's calls, and lets go of it."""
        self.figures = {key: _energy(change) * (calls / measured) ** 2 for key, change in self._changes.items()}
        self.relative = 0.0 if self._relative is None else float(self._relative) / measured
        self._changes, self._relative = {}, None

    def cost(self, total: float) -> float:
        """The squared error in units of the whole gradient, whose squared norm is ``total``."""
        weights = math.fsum(self.figures.values())
        return self.relative + (weights / total if weights else 0.0)

    def tensors(self) -> list[Tensor]:
        """All tensors that it holds."""
        held = list(self._changes.values()) + ([] if self._relative is None else [self._relative])
        return held + ([] if self.codec is None else list(self.codec.state()))


@dataclass
class Calibration:
    """What one step gathers at one site."""

    trials: list[Trial]
    calls: Counter[tuple[int, int]] = field(default_factory=Counter)  # by rows and bytes of an element
    finite: Tensor | None = None
    warm: bool = False
    exact: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # weights' gradients, summed over calls
    measured: set[int] = field(default_factory=set)  # calls

    @property
    def encoded(self) -> int:
        """Calls so far."""
        return sum(self.calls.values())

    def warm_up(self) -> None:
        """Ends the trials' first step, so that they encode as they will in training."""
        if not self.warm:
            self.warm = True
            for trial in self.trials:
                if trial.codec is not None:
                    trial.codec.end_step()

    def tensors(self) -> list[Tensor]:
        """All tensors that it holds."""
        held = [tensor for trial in self.trials for tensor in trial.tensors()] + list(self.exact.values())
        return held if self.finite is None else [*held, self.finite]


class AutoCodec(Codec):
    """The trials at one site, and later the codec of the candidate that was chosen there."""

    def __init__(self, settings: Auto, site: Site, generator: torch.Generator) -> None:
        self.settings = settings
        self.site = site
        self.raw_bytes = 0
        self.trials: list[Trial] = []  # between the calibration step's end and the plan
        self.choice: int | None = None  # number of the candidate
        self.chosen: Compressor | None = None
        self.codec: Codec | None = None  # of the candidate; None: rows are kept
        self._seed = generator.initial_seed()
        self._device = generator.device
        self._generator: torch.Generator | None = None
        self._calibration: Calibration | None = None
        self._energies: dict[tuple[int, int], float] = {}
        self._steps = 0
        self._used = False

    # ---------------------------------------------------------------- the calibration step

    @property
    def settled(self) -> bool:
        """Whether a candidate was chosen."""
        return self.choice is not None

    @property
    def _calibrates(self) -> bool:
        return not self.settled and self._steps >= self.settings.warmup

    @property
    def watches_operators(self) -> bool:  # type: ignore[override]
        """In the calibration step."""
        return self._calibrates

    @property
    def watches_gradients(self) -> bool:  # type: ignore[override]
        """Whether the candidate's codec does."""
        return self.codec is not None and self.codec.watches_gradients

    def _label(self, number: int) -> str:
        return _KEEP if number < 0 else label_of(self.settings.candidates[number])

    def _trial(self, number: int) -> Trial:
        """A new trial of a candidate; every time the same."""
        label = self._label(number)
        if number < 0:
            return Trial(number, label)
        strategy = strategy_of(self.settings.candidates[number], self.site.width)
        generator = seeded(self._seed, "auto", str(number), device=self._device)
        codec = strategy.codec(self.site, generator)
        return Trial(number, label, strategy, codec, generator)

    def encode(self, rows: Tensor) -> Payload:
        self._used = True
        self.trials = []
        if self.settled:
            return Dense(rows) if self.codec is None else self.codec.encode(rows)
        if not self._calibrates:
            return Dense(rows)
        step = self._calibration
        if step is None:
            numbers = range(-1, len(self.settings.candidates))
            step = self._calibration = Calibration([self._trial(number) for number in numbers])
        call = step.encoded
        step.calls[len(rows), rows.itemsize] += 1
        finite = rows.isfinite().all()
        step.finite = finite if step.finite is None else step.finite & finite
        for trial in step.trials:
            if trial.codec is not None:
                trial.codec.encode(rows)
        return Kept(rows, call)

    def observe_operator(self, payload: Payload, gradients_with: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        """Tries every candidate: how far would the operator's gradients be from what they are?"""
        step = self._calibration
        if step is None or not isinstance(payload, Kept):
            return
        step.warm_up()
        if not _is_among(payload.call, step.encoded, self.settings.calibration_calls):
            return
        rows = payload.decode()
        exact = gradients_with(rows)
        of_weights = {i for i, gradient in enumerate(exact) if _is_of_weight(gradient, len(rows))}
        operator, payload.operators = payload.operators, payload.operators + 1
        for i in of_weights:
            known = step.exact.get((operator, i))
            step.exact[operator, i] = exact[i].float() if known is None else known + exact[i].float()
        scale = _summed_energy([gradient for i, gradient in enumerate(exact) if i not in of_weights])
        share = (payload.call + 1) / step.encoded  # of the calls, those to which an error is handed on
        step.measured.add(payload.call)
        for trial in step.trials:
            trial.measured = True
            if trial.codec is None:
                continue
            found = gradients_with(trial.codec.encode(rows).decode())
            changes = [one.float() - other.float() for one, other in zip(found, exact, strict=True)]
            for i in of_weights:
                trial.add_weight((operator, i), changes[i])
            if scale is not None:
                error = _summed_energy([change for i, change in enumerate(changes) if i not in of_weights])
                assert error is not None  # noqa: S101 - there are as many as in the scale
                trial.add_activations(torch.where(error == 0, 0.0, share * error / scale))

    def end_step(self) -> None:
        step, self._calibration = self._calibration, None
        self._steps += self._used
        self._used = False
        if self.settled:
            if self.codec is not None:
                self.codec.end_step()
            return
        if step is None or step.finite is None or not bool(step.finite):
            return
        step.warm_up()
        self.raw_bytes = (
            sum(calls * rows * itemsize for (rows, itemsize), calls in step.calls.items()) * self.site.width
        )
        for trial in step.trials:
            trial.read(max(len(step.measured), 1), step.encoded)
            if trial.codec is not None:
                trial.codec.discard_step()  # what trying it gathered
        self._energies = {
            key: _energy(gradient) * (step.encoded / len(step.measured)) ** 2
            for key, gradient in step.exact.items()
            if any(trial.figures.get(key) for trial in step.trials)
        }
        self.trials = self._smaller(step)
        allowance = self.settings.allowance(self.raw_bytes)
        within = [trial for trial in self.trials if trial.kept_bytes <= allowance]
        self._take(max(within, key=_kept_bytes) if within else min(self.trials, key=_kept_bytes))

    def discard_step(self) -> None:
        self._calibration = None  # the next step begins with new trials, which are the same
        self._used = False
        if self.codec is not None:
            self.codec.discard_step()

    def calibrate_again(self) -> None:
        """Takes back what the calibration step decided: the next step is another one."""
        self.trials, self.choice, self.chosen, self.codec, self._generator = [], None, None, None, None

    def settle(self, trial: Trial) -> None:
        """Makes a candidate that was tried the site's own; the others go."""
        self._take(trial)
        self.trials = []

    def _take(self, trial: Trial) -> None:
        self.choice, self.chosen, self.codec = trial.number, trial.strategy, trial.codec
        self._generator = trial.generator

    def _smaller(self, step: Calibration) -> list[Trial]:
        """The trials that keep less than the rows, and that of keeping them."""
        smaller = []
        for trial in step.trials:
            kept = self.raw_bytes
            if trial.codec is not None:
                sizes = [trial.codec.kept_bytes(rows, n, itemsize) for (rows, itemsize), n in step.calls.items()]
                if any(size is None for size in sizes):
                    continue
                kept = sum(size for size in sizes if size is not None)
                if kept >= self.raw_bytes:
                    continue
            trial.kept_bytes = kept
            smaller.append(trial)
        return smaller

    def weight_energy(self) -> float:
        """The squared norm of the gradients of the weights whose operators saved the rows, in the calibration step."""
        return math.fsum(self._energies.values())

    # ---------------------------------------------------------------- afterwards

    def observe_gradient(self, payload: Payload, gradient: Tensor) -> None:
        if self.codec is not None:
            self.codec.observe_gradient(payload, gradient)

    def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int | None:
        if not self.settled:
            return None  # to be encoded, whatever it keeps
        return (
            calls * rows * self.site.width * itemsize
            if self.codec is None
            else self.codec.kept_bytes(rows, calls, itemsize)
        )

    def coefficient_width(self) -> int | None:
        return None if self.codec is None else self.codec.coefficient_width()

    def state(self) -> Iterable[Tensor]:
        held = [] if self.codec is None else list(self.codec.state())
        held += [tensor for trial in self.trials for tensor in trial.tensors()]
        return held if self._calibration is None else held + self._calibration.tensors()

    def generators(self) -> Iterable[torch.Generator]:
        if self._generator is not None and self.codec is not None:
            yield self._generator
            yield from self.codec.generators()

    def state_dict(self) -> dict[str, Any]:
        codec = None if self.codec is None else self.codec.state_dict()
        return {"steps": self._steps, "choice": self.choice, "codec": codec}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = state["steps"]
        if state["choice"] is not None:
            self._take(self._trial(state["choice"]))
            if self.codec is not None:
                self.codec.load_state_dict(state["codec"])

    def statistics(self) -> dict[str, float]:
        if self.choice is None:
            return {}
        figures = {} if self.codec is None else self.codec.statistics()
        return {**figures, f"chosen {self._label(self.choice)}": 1}


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


def label_of(spec: Spec) -> str:
    """A candidate in words, such as ``laser(rank 0.25)+int8``."""
    if isinstance(spec, list):
        return "+".join(label_of(member) for member in spec)
    if isinstance(spec, str):
        return spec
    name, fields = _named(spec)
    told = {
        field: value for field, value in fields.items() if not (field == "max_rank" and value == fields.get("rank"))
    }
    return f"{name}({', '.join(f'{field} {_short(value)}' for field, value in told.items())})" if told else name


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _kept_bytes(trial: Trial) -> int:
    return trial.kept_bytes


def _bytes_of(budget: int | str) -> int:
    """A budget in bytes; 0 if it can't be read."""
    if isinstance(budget, int):
        return budget
    found = _SIZE.fullmatch(budget)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def _is_among(call: int, calls: int, most: int) -> bool:
    """Whether a call is one of at most ``most`` that are spread evenly over all."""
    return calls <= most or any((2 * i + 1) * calls // (2 * most) == call for i in range(most))


def _is_of_weight(gradient: Tensor, rows: int) -> bool:
    """Whether a gradient is that of a weight, by its shape: an activation's has as many elements for each row."""
    return gradient.dim() < 2 or gradient.numel() % rows != 0 or (gradient.dim() == 2 and len(gradient) != rows)


def _summed_energy(gradients: Sequence[Tensor]) -> Tensor | None:
    """The squared norm of the sums over rows of all tensors, as a scalar on the device; None if there are none."""
    sums = [gradient.reshape(-1, gradient.shape[-1]).sum(dim=0, dtype=torch.float64) for gradient in gradients]
    return torch.stack([torch.linalg.vector_norm(each).square() for each in sums]).sum() if sums else None


def _energy(gradient: Tensor) -> float:
    return float(torch.linalg.vector_norm(gradient, dtype=torch.float32)) ** 2


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``auto``."""
    return [Auto]
