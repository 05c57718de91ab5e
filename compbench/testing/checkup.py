"""All properties of one strategy: told one by one, raised together, or as tests."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from compbench.compressor import Compressor, Site
from compbench.errors import one_line
from compbench.testing.codecs import CODECS
from compbench.testing.models import MODELS
from compbench.testing.payloads import PAYLOADS
from compbench.testing.settings import SETTINGS
from compbench.testing.trial import SITE, NotApplicable, Property, Trial, Violation

if TYPE_CHECKING:
    import pytest

PROPERTIES: tuple[Property, ...] = (*SETTINGS, *PAYLOADS, *CODECS, *MODELS)
"""Everything that a strategy is held to, in the order in which it is told."""

Status = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True)
class Result:
    """Whether one property holds.

    Attributes:
        name: the property's name.
        description: the property in one line.
        status: ``passed``, ``failed`` or ``not applicable``.
        message: for a failure what was found and what is allowed, and why if it does not apply; else empty.
    """

    name: str
    description: str
    status: Status
    message: str = ""


class Checkup:
    """The results of one strategy; each is worked out when it is asked for, and once.

    Args:
        compressor: the strategy with its settings; a chain is one too.
        device: where rows and models are.
        site: the site that codecs are made for, for a strategy that picks sites.
        warm_steps: steps after which the strategy is warm: bases are made, and payloads keep what ``kept_bytes`` says.

    Raises:
        TypeError: the strategy is no instance of a compressor.
    """

    def __init__(
        self,
        compressor: Compressor,
        *,
        device: torch.device | str = "cpu",
        site: Site = SITE,
        warm_steps: int = 3,
    ) -> None:
        if not isinstance(compressor, Compressor):
            found = f"the class {compressor.__name__}" if isinstance(compressor, type) else repr(compressor)
            raise TypeError(f"{found} is no strategy (allowed: an instance of one, such as MyCompressor())")
        self.compressor = compressor
        self._trial = Trial(compressor, torch.device(device), site, warm_steps)
        self._results: dict[str, Result] = {}

    def __iter__(self) -> Iterator[Result]:
        """The results of all properties, in order."""
        return (self.result(each) for each in PROPERTIES)

    def result(self, which: Property) -> Result:
        """The result of one property."""
        if which.name not in self._results:
            status, message = self._status(which)
            self._results[which.name] = Result(which.name, which.description, status, message)
        return self._results[which.name]

    def _status(self, which: Property) -> tuple[Status, str]:
        for need in PROPERTIES:
            if need.name in which.needs and self.result(need).status == "failed":
                return "not applicable", f"says nothing as long as {need.name} fails"
        try:
            with torch.no_grad():
                which.check(self._trial)
        except NotApplicable as reason:
            return "not applicable", str(reason)
        except Violation as violation:
            return "failed", str(violation)
        except Exception as error:
            return "failed", f"raised {one_line(error)} ({_place(error)})"
        return "passed", ""


def _place(error: Exception) -> str:
    """Where an exception was raised: the innermost line that is neither torch's nor of the checks themselves."""
    frames = traceback.extract_tb(error.__traceback__)
    own = Path(__file__).parent
    torchs = Path(torch.__file__).parent
    for frame in reversed(frames):
        parents = Path(frame.filename).parents
        if own not in parents and torchs not in parents:
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"


def check_compressor(
    compressor: Compressor, *, device: torch.device | str = "cpu", site: Site = SITE, warm_steps: int = 3
) -> None:
    """Holds a strategy to all properties; the arguments are those of :class:`Checkup`.

    Raises:
        AssertionError: some property does not hold; the message has a line for each.
        TypeError: the strategy is no instance of a compressor.
    """
    checkup = Checkup(compressor, device=device, site=site, warm_steps=warm_steps)
    failed = [result for result in checkup if result.status == "failed"]
    if failed:
        lines = "\n".join(f"  {result.name}: {result.message}" for result in failed)
        count = f"{len(failed)} of {len(PROPERTIES)} properties"
        raise AssertionError(f"strategy '{_label(compressor)}' fails {count}:\n{lines}")


class Check:
    """One property of one strategy as a test: calling it passes, fails, or skips the test."""

    def __init__(self, checkup: Checkup, which: Property) -> None:
        self._checkup = checkup
        self._which = which

    def __repr__(self) -> str:
        return f"{_label(self._checkup.compressor)}-{self._which.name}"

    def __call__(self) -> None:
        """Looks whether the property holds.

        Raises:
            AssertionError: it does not.
        """
        import pytest

        result = self._checkup.result(self._which)
        if result.status == "not applicable":
            pytest.skip(f"{result.name}: {result.message}")
        if result.status == "failed":
            raise AssertionError(f"{result.description}: {result.message}")


def parametrize_with_checks(
    compressors: Iterable[Compressor],
    *,
    device: torch.device | str = "cpu",
    site: Site = SITE,
    warm_steps: int = 3,
) -> pytest.MarkDecorator:
    """Makes of one test function a test for every strategy and property, which pytest must be there for.

    The function takes an argument ``check``, and calls it::

        @parametrize_with_checks([Half(), Half(brain=False)])
        def test_half_keeps_the_contract(check):
            check()

    The further arguments are those of :class:`Checkup`.
    """
    import pytest

    checkups = [Checkup(each, device=device, site=site, warm_steps=warm_steps) for each in compressors]
    checks = [Check(checkup, each) for checkup in checkups for each in PROPERTIES]
    return pytest.mark.parametrize("check", checks, ids=repr)


def _label(compressor: Compressor) -> str:
    """The name of a strategy, also where it forgot to have one."""
    return str(getattr(compressor, "name", type(compressor).__name__))
