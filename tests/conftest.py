"""Settings of the whole test run."""

from __future__ import annotations

import pytest
import torch

# Small tensors on many threads of a busy machine wait for each other: one thread is several times faster.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
