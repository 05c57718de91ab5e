"""Suites of fake cells, and a stand-in for the registry that keeps what observers are told."""

import re
import time
from pathlib import Path

from compbench.capture.settings import CaptureSettings
from compbench.suite.cell import Cell, Measuring, PluginReference, Training
from compbench.suite.suite import Suite, Variant


def make_cell(does="ok", arm="laser", depth=4, seed=0, **fields) -> Cell:
    return Cell(
        suite="fake",
        arm=arm,
        depth=depth,
        seed=seed,
        workload=PluginReference(name="echo"),
        strategy=(PluginReference(name=arm),),
        variant={"does": does},
        **fields,
    )


def make_suite(*does, arms=("laser",), depths=(4,), seeds=(0,), **fields) -> Suite:
    variants = tuple(
        Variant(
            arm=arm,
            values={"does": deed},
            workload=PluginReference(name="echo"),
            strategy=(PluginReference(name=arm),),
            training=Training(),
            capture=CaptureSettings(),
        )
        for deed in does
        for arm in arms
    )
    settings = {
        "name": "fake",
        "description": "cells that do as they are told",
        "workload": None,
        "arms": dict.fromkeys(arms),
        "broken_arms": {},
        "matrix": {"depth": list(depths), "seed": list(seeds)},
        "variants": variants,
        "training": Training(),
        "measuring": Measuring(),
        "capture": CaptureSettings(),
        "margins": {"solved": 0.02},
        "device": "cpu",
        "threads": 1,
        "timeout_seconds": 60.0,
        "path": "fake.yaml",
    }
    return Suite(**(settings | fields))


class FakeRegistry:
    """Keeps what observers would be told."""

    plugins_dir = None

    def __init__(self, *problems):
        self.told = []
        self.problems = list(problems)

    def observe(self, hook, **arguments):
        self.told.append((hook, arguments))
        return self.problems


def pids_in(log: Path) -> list[int]:
    """The processes that a fake cell names in its log."""
    return [int(pid) for pid in re.findall(r"^pid (\d+)$", log.read_text(), re.MULTILINE)]


def all_end(pids: list[int], within_seconds: float = 5.0) -> bool:
    """Whether all these processes are gone; those that were sent SIGKILL take a moment."""
    deadline = time.monotonic() + within_seconds
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}
