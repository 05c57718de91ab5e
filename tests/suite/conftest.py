"""A registry of small plugins: the hooks' examples, a strategy with bounds, and a workload that is hard to please."""

from __future__ import annotations

from pathlib import Path

import pytest

from compbench.registry import Registry
from compbench.suite import Suite, load_suite
from tests.hook_examples import write_examples

SKETCH = '''
from typing import Literal

import compbench
from pydantic import Field


class Sketch(compbench.Compressor):
    """Compresses nothing; its fields are what matters."""

    name = "sketch"
    rank: int = Field(8, ge=1, description="columns")
    redraw: Literal["step", "never"] = "step"

    def codec(self, site, generator):
        return None


class Codes(compbench.Compressor):
    """Compresses nothing either."""

    name = "codes"
    bits: int = Field(8, ge=1)
    rank: int = 1

    def codec(self, site, generator):
        return None


@compbench.hookimpl
def compbench_compressors():
    return [Sketch, Codes]
'''

MAZE = '''
import compbench
import torch
from pydantic import Field, field_validator, model_validator
from compbench.errors import SettingsError


class Maze(compbench.Workload):
    """Wants odd grids, heads that divide the width, and depths in whole cycles."""

    name = "maze"
    grid: int = Field(11, ge=5)
    hidden: int = Field(64, ge=1)
    heads: int = Field(4, ge=1)
    cycle: int = Field(1, ge=1)
    steps: int = 3

    @field_validator("grid")
    @classmethod
    def _odd(cls, grid):
        if grid % 2 == 0:
            raise ValueError("a grid must be odd")
        return grid

    @model_validator(mode="after")
    def _heads_fit(self):
        if self.hidden % self.heads:
            raise ValueError("heads must divide hidden")
        return self

    def at_depth(self, depth):
        if depth == 13:
            raise KeyError("thirteen")
        if depth % self.cycle:
            raise SettingsError(f"depth is {depth} (allowed: multiples of {self.cycle})")
        return self

    def build(self, generator):
        return torch.nn.Identity()

    def data(self, seed):
        return compbench.Data({}, {})

    def forward(self, model, batch):
        return batch

    def loss(self, output, batch):
        return torch.zeros(())

    def metrics(self, output, batch):
        return {}


@compbench.hookimpl
def compbench_workloads():
    return [Maze]
'''

BROKEN = """
import not_to_be_found


class Wonder(compbench.Compressor):
    name = "wonder"
"""

SUITE = """\
name: small
workload:
  name: maze
arms:
  none: none
  sketch: {sketch: {rank: 16}}
matrix:
  depth: [2, 4]
  seed: [0, 1]
"""


class Bench:
    """A project folder: plugins, and suites that are written and loaded by text."""

    def __init__(self, folder: Path) -> None:
        plugins = write_examples(folder / "plugins", "compbench_workloads", "compbench_compressors")
        (plugins / "sketch.py").write_text(SKETCH)
        (plugins / "maze.py").write_text(MAZE)
        (plugins / "broken.py").write_text(BROKEN)
        self.folder = folder
        self.registry = Registry.load(plugins)

    def write(self, text: str) -> Path:
        path = self.folder / "suite.yaml"
        path.write_text(text)
        return path

    def load(self, text: str) -> Suite:
        return load_suite(self.write(text), self.registry)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("project"))
