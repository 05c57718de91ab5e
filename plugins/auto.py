"""``auto``: for each site the strategy that costs the gradient least, all within one budget of bytes.

What follows from what is kept is not kept but computed again (``recompute``), which costs no error; only the rest need
be compressed, and only as far as the budget asks for. In one calibration step the rows are kept as they are, and every
candidate is tried at every site: what would the gradients of the operators be that take these rows, or take what is
computed from them, if the rows were those that the candidate rebuilds? What is measured is the change of these
gradients, not that of the rows. When the step has ended, each site is given one of the candidates, or keeps its rows,
so that the sum of the measured errors is the smallest that the budget allows (an integer program). From then on the
site's codec is that candidate's, and all goes on as if it had been asked for there.

The error of a candidate at a site is in units of the model's whole gradient:

- The gradient of a weight: ``|sum_c (G^_c - G_c)|^2 / |G|^2``. Over calls ``c`` of a weight-tied module errors add up
  as gradients do: those of a rounding at random cancel, those of a basis do not. ``G`` are the gradients of all weights
  whose operators take encoded rows. If nothing else were compressed, this would be the squared relative error of the
  model's gradient. Where candidates are tried at some of the calls, the sum over all is estimated by the mean square
  of a call's change and by how alike the changes of two calls are.
- The gradient of an activation: the mean over ``c`` of ``(c / C) |1^T (G^_c - G_c)|^2 / |1^T G_c|^2``, for calls 1 to
  ``C``, all inputs of an operator together. ``1^T`` adds up rows, as the gradients of the weights that lie before do:
  what cancels there does no harm, and while a model's rows are much alike, before it has learnt, nearly all of a
  rounding cancels. The error is handed on to a share ``c / C`` of a recursion. That it grows or shrinks on its way as
  the gradient itself does is an assumption.

Errors of sites are added up, as if they were independent. There is no source for the whole; that bits should go where
gradients need them is ActNN's idea (arXiv 2104.14129), and that sites differ in the rank that they bear ASI's.

Error: none if the budget allows it; else that of the strategies it chooses, the least in the gradient that there is.

What it does not do:

- The plan is made once and printed, and the training may outgrow it. ``warmup`` steps before the calibration step let
  the model leave its initialisation; rows are kept in them.
- The calibration step keeps all rows, and what operators took besides, and tries the candidates at
  ``calibration_calls`` calls of each site: it takes as long as several others, and its memory is that of plain training
  and more. A candidate that rebuilds rows much worse than one that keeps no more is left out without a look at
  gradients.
- ``saved`` is a share of the bytes of encoded sites and of what is computed again, ``budget`` what encoded sites may
  keep, both with the shapes of the calibration step. What a model keeps otherwise (masks, the loss) is in neither, and
  candidates that grow (``laser`` below its ``max_rank``, ``actnn`` with ``allocate``) may leave them.
- Which preset of ``recompute`` is best it does not find out: none of them costs an error, and those that keep less have
  more to compute and less to compress. ``inputs`` took no more time than ``cheap`` at equal bytes where it was
  measured. In a chain, ``recompute`` or ``checkpoint`` before it take its preset's place.
- It takes payloads of low rank for the rows that they rebuild. What the engine does with them else, to compute a
  widening layer's output and not keep it, would leave the plan.
- An operator that saves what it gave, as ReLU does, can't be tried: a site's other operators then decide alone. A
  site where no operator could be tried has, for each candidate, the mean error of the others. After another strategy
  that encodes, none can be tried, which is an error. A codec that nobody coordinates, outside a session, takes the
  candidate that keeps most within its own share.
- A calibration step with rows or gradients that are not finite, or without any gradient, decides nothing: the next
  one is another. Sites that are met later are calibrated then, and share what the budget has left.

Candidates are shipped strategies and chains of them, as suites write them, and ``bits`` (2 to 16, rounded to nearest).
A ``rank`` or ``max_rank`` below 1 is a share of the site's width. To keep the rows is always among the choices.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from compbench import Codec, Compressor, Dense, Payload, Recomputation, Site, SiteUse, hookimpl
from compbench.errors import SettingsError
from compbench.seeds import generator as seeded

from ._auto_calibration import Calibration, Kept, Trial
from ._auto_candidates import DEFAULT, Spec, kind_of, label_of, only_first_learns, strategy_of
from ._auto_plan import costs_of, plan, table

_KEEP = "none"
"""In labels: the rows are kept. That is always among the choices."""
_DEFAULT_SAVED = 0.9
_UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = re.compile(rf"\s*(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS)})\s*")
_OPERATORS: dict[str, Literal["cheap", "expanding", "any"]] = {"cheap": "cheap", "inputs": "expanding", "calls": "any"}


class Auto(Compressor):
    """Recomputation and a strategy for each site, chosen by measured gradient error within a budget of bytes."""

    name: ClassVar[str] = "auto"

    saved: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share to save of the bytes of encoded sites and of what is computed again; "
        f"{_DEFAULT_SAVED} without a budget",
    )
    budget: int | str | None = Field(
        None, description="bytes that encoded sites may keep, a number or such as 256 MiB; in the place of saved"
    )
    recompute: Literal["none", "cheap", "inputs", "calls"] = Field(
        "inputs",
        description="computed again, not kept, without error; none: nothing that the engine does not by itself; cheap: "
        "what costs next to nothing; inputs: also linear layers wider than their input; calls: all but blocks' inputs",
    )
    candidates: tuple[Spec, ...] = Field(
        DEFAULT,
        min_length=1,
        description="strategies to choose from, as suites write them; a rank below 1 is a share of the site's width",
    )
    calibration_calls: int = Field(3, ge=1, description="calls of a site at which candidates are tried, at most")
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

    def recomputation(self) -> Recomputation | None:
        operators = _OPERATORS.get(self.recompute)
        return None if operators is None else Recomputation(operators, gives_way=True)

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return AutoCodec(self, site, generator)

    def coordinate(self, sites: Sequence[SiteUse]) -> None:
        """Makes the plan after the calibration step; later, lets candidates coordinate the sites that they were given.

        Raises:
            SettingsError: even the smallest candidates keep more than the budget.
        """
        own = [(use, use.codec) for use in sites if isinstance(use.codec, AutoCodec)]
        fresh = [(use, codec) for use, codec in own if codec.trials]
        if fresh:
            earlier = [(use, codec) for use, codec in own if codec.settled and not codec.trials]
            spent = sum(codec.kept_bytes(use.rows, use.calls, use.itemsize) or 0 for use, codec in earlier)
            # What is computed again is set off against the sites of the first plan.
            self._plan(fresh, spent, 0 if earlier else fresh[0][0].recomputed_bytes)
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

    def _plan(self, fresh: Sequence[tuple[SiteUse, AutoCodec]], spent: int, recomputed: int) -> None:
        """Settles sites that were calibrated.

        Args:
            fresh: the sites.
            spent: bytes that other sites keep.
            recomputed: bytes of what is computed again.
        """
        codecs = [codec for _, codec in fresh]
        if not any(trial.measured for codec in codecs for trial in codec.trials):
            raise SettingsError(
                "auto: no operator could be tried at any site (allowed: auto alone, or in a chain with strategies on "
                "the graph, such as recompute)"
            )
        raw_bytes = sum(codec.raw_bytes for codec in codecs)
        budget = self.allowance(raw_bytes + recomputed) - (spent if self.budget is not None else 0)
        costs = costs_of([codec.trials for codec in codecs], math.fsum(codec.weight_energy for codec in codecs))
        if costs is None:
            for codec in codecs:
                codec.calibrate_again()
            return
        lines = plan([(use.site.name, codec.raw_bytes, codec.trials) for use, codec in fresh], costs, budget)
        if lines is None:
            least = sum(min(trial.kept_bytes for trial in codec.trials) for codec in codecs)
            raise SettingsError(
                f"auto: {max(budget, 0):,} of {raw_bytes:,} bytes may be kept, and the smallest candidates keep "
                f"{least:,} (allowed: a budget of {least + spent:,} or more, saved up to "
                f"{_down(1 - least / (raw_bytes + recomputed))}, smaller candidates, or recompute: inputs or calls)"
            )
        for codec, line in zip(codecs, lines, strict=True):
            codec.settle(line.trial)
        if not self.quiet:
            print(table(lines, budget, recomputed))


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
        self.weight_energy = 0.0  # |G|^2 of the weights whose operators take the rows, in the calibration step
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
        spec = self.settings.candidates[number]
        strategy = strategy_of(spec, self.site.width)
        generator = seeded(self._seed, "auto", str(number), device=self._device)
        codec = strategy.codec(self.site, generator)
        shared = json.dumps(spec[0]) if isinstance(spec, list) and only_first_learns(strategy) else ""
        return Trial(number, label, strategy, codec, generator, kind_of(spec), shared)

    def encode(self, rows: Tensor) -> Payload:
        self._used = True
        self.trials = []
        if self.settled:
            return Dense(rows) if self.codec is None else _by_rows(self.codec.encode(rows))
        if not self._calibrates:
            return Dense(rows)
        step = self._calibration
        if step is None:
            trials = [self._trial(number) for number in range(-1, len(self.settings.candidates))]
            step = self._calibration = Calibration(trials, self.settings.calibration_calls)
        return step.keep(rows)

    def observe_operator(self, payload: Payload, gradients_with: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        if self._calibration is not None and isinstance(payload, Kept):
            self._calibration.observe(payload, gradients_with)

    def inner(self) -> Iterable[Codec]:
        return () if self.codec is None else (self.codec,)

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
        step.teach()
        self.raw_bytes = (
            sum(calls * rows * itemsize for (rows, itemsize), calls in step.calls.items()) * self.site.width
        )
        self.weight_energy = math.fsum(step.read().values())
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
            kept = self.raw_bytes if trial.codec is None else step.kept_bytes(trial)
            if kept is not None and (trial.codec is None or kept < self.raw_bytes):
                trial.kept_bytes = kept
                smaller.append(trial)
        return smaller

    # ---------------------------------------------------------------- afterwards

    def observe_gradient(self, payload: Payload, gradient: Tensor) -> None:
        if self.codec is not None:
            self.codec.observe_gradient(payload.payload if isinstance(payload, Rebuilt) else payload, gradient)

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


class Rebuilt(Payload):
    """A payload of low rank of which the engine makes no use but for its rows, as in the calibration step.

    From rows of low rank the engine would compute what a widening layer gave, and not keep it: at another error and
    in other bytes than those that the plan was made with.

    Args:
        payload: what the site's own codec made.
    """

    def __init__(self, payload: Payload) -> None:
        self.payload = payload

    def decode(self) -> Tensor:
        return self.payload.decode()

    def tensors(self) -> tuple[Tensor, ...]:
        return self.payload.tensors()

    def opaque_bytes(self) -> int:
        return self.payload.opaque_bytes()

    def coefficients(self) -> Tensor | None:
        return self.payload.coefficients()

    def with_coefficients(self, coefficients: Tensor | None) -> Payload:
        return Rebuilt(self.payload.with_coefficients(coefficients))


def _by_rows(payload: Payload) -> Payload:
    return payload if payload.rank() is None else Rebuilt(payload)


def _kept_bytes(trial: Trial) -> int:
    return trial.kept_bytes


def _down(share: float) -> str:
    """A share to four places, never rounded up: with it the budget is one that can be kept."""
    return f"{math.floor(share * 10_000) / 10_000:.4f}"


def _bytes_of(budget: int | str) -> int:
    """A budget in bytes; 0 if it can't be read."""
    if isinstance(budget, int):
        return budget
    found = _SIZE.fullmatch(budget)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


@hookimpl
def compbench_compressors() -> Iterable[type[Compressor]]:
    """The strategy ``auto``."""
    return [Auto]
