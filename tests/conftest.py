"""Settings of the whole test run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

import compbench
from compbench.capture import CaptureSettings

# Small tensors on many threads of a busy machine wait for each other: one thread is several times faster.
torch.set_num_threads(1)

# Nor does a busy machine tell anything about the code under test.
settings.register_profile("compbench", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("compbench")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--routes hooks``: what does not say otherwise leaves the model's operators as they are."""
    parser.addoption("--routes", choices=("operators", "hooks"), default="operators", help="see capture.routes")


def pytest_configure(config: pytest.Config) -> None:
    """Sessions take the route that was asked for, where a test does not choose one."""
    routes = config.getoption("--routes")
    CaptureSettings.model_fields["routes"].default = routes
    CaptureSettings.model_rebuild(force=True)
    compbench.compress.__kwdefaults__["routes"] = routes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
