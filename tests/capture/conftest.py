"""What this machine can't run."""

from __future__ import annotations

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """LSTMs in 16 bits are skipped where oneDNN has none for the processor: torch itself fails there."""
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    for item in items:
        parameters = getattr(item, "callspec", None)
        if parameters is not None and parameters.params.get("bf16") and "lstm" in parameters.id.split("-"):
            item.add_marker(pytest.mark.skip(reason="no 16-bit LSTM on this processor"))
