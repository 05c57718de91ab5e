"""``compbench check``: holds strategies to their contract, one line a property."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import torch
import typer

from compbench.cli.options import PluginsDir, registry_of
from compbench.compressor import Compressor
from compbench.errors import SettingsError
from compbench.registry import Registry
from compbench.suite.source import Source
from compbench.testing import Checkup, Result

HELP = """
Checks that strategies keep the contract that every strategy must keep.

Payloads decode to what they encoded, whatever is kept is declared, no random stream but their own is drawn from,
encoding never waits for the device, a small recursive model trains: one line a property. From Python it is
compbench.testing.check_compressor.

\b
Examples:
  compbench check laser                            a strategy with its defaults
  compbench check 'laser: {rank: 16}' '[laser, int8]'
                                                   as suites write them, and several
  compbench check --all                            every strategy that is installed

Exit status: 0 all properties hold, 1 some fail, 2 bad input.
"""

_MARKS = {"passed": "ok", "failed": "FAIL", "not applicable": "-"}


def check(
    strategies: Annotated[
        list[str] | None,
        typer.Argument(
            help="Strategies as suites write them: a name, {name: {field: value}}, or a list of those for a chain.",
            metavar="STRATEGY...",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every strategy that is installed.")] = False,
    plugins_dir: PluginsDir = None,
    device: Annotated[str, typer.Option(help="Where rows and models are: cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Checks that strategies keep the contract that every strategy must keep."""
    if every == bool(strategies):
        raise SettingsError("which strategies to check (allowed: one or more of them, or --all)")
    registry = registry_of(plugins_dir)
    unusable = _unusable(registry) if every else []
    chosen = _installed(registry, unusable) if every else [(text, _read(text, registry)) for text in strategies or ()]
    on = _device(device)
    torch.set_num_threads(1)  # matrices are small: threads would wait for each other
    counts: Counter[str] = Counter()
    for text, compressor in chosen:
        typer.echo(text)
        for result in Checkup(compressor, device=on):
            typer.echo(_line(result))
            counts[result.status] += 1
        typer.echo("")
    for reason in unusable:
        typer.echo(f"{reason}\n")
    typer.echo(_summary(len(chosen), counts, len(unusable)))
    raise typer.Exit(1 if counts["failed"] or unusable else 0)


def _read(text: str, registry: Registry) -> Compressor:
    """A strategy from the words of the command line.

    Raises:
        PluginError: the plugin of a name is broken, or two plugins claim the name.
        SettingsError: the words are no strategy.
    """
    source = Source.parse(text, "strategy")
    if source.problems:
        raise SettingsError(f"strategy '{text}': {source.problems[0].message}")
    return registry.compressor(source.data)


def _installed(registry: Registry, unusable: list[str]) -> list[tuple[str, Compressor]]:
    """Every strategy with its defaults; why one can't be made goes to the others that can't be checked."""
    made = []
    for name in registry.compressors:
        try:
            made.append((name, registry.compressor(name)))
        except SettingsError as error:
            unusable.append(f"without settings, {error}")
    return made


def _device(name: str) -> torch.device:
    """The device of a name, if this machine has it.

    Raises:
        SettingsError: it is no device, or not here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise SettingsError(f"--device {name}: {reason} (allowed: cpu, cuda or cuda:N, where there is one)") from error


def _unusable(registry: Registry) -> list[str]:
    """Why a plugin or a name could not be checked, where all should be."""
    broken = [f"{plugin} is broken: {plugin.reason}" for plugin in registry.broken]
    return broken + [str(conflict) for conflict in registry.conflicts if conflict.kind == "strategy"]


def _line(result: Result) -> str:
    line = f"  {_MARKS[result.status]:<5} {result.description}"
    if result.status == "failed":
        return f"{line}\n        {result.name}: {result.message}"
    return f"{line} ({result.message})" if result.message else line


def _summary(strategies: int, counts: Counter[str], unusable: int) -> str:
    parts = [
        f"{counts['passed']} properties hold",
        f"{counts['failed']} fail",
        f"{counts['not applicable']} do not apply",
    ]
    parts += [f"{unusable} can't be checked"] if unusable else []
    return f"{strategies} {'strategy' if strategies == 1 else 'strategies'}: {', '.join(parts)}"
