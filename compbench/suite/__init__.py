"""A YAML file as a validated suite, and a suite as a list of cells. It knows nothing of processes."""

from compbench.suite.cell import Cell, Measuring, PluginReference, Training
from compbench.suite.loader import load_suite
from compbench.suite.shipped import shipped_suites
from compbench.suite.suite import Suite, Variant

__all__ = [
    "Cell",
    "Measuring",
    "PluginReference",
    "Suite",
    "Training",
    "Variant",
    "load_suite",
    "shipped_suites",
]
