"""The ledger of live bytes, against torch's own memory tracker and closed forms."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker

from compbench.measure.live import LiveLedger


def test_counts_what_is_made_and_alive_and_its_maximum() -> None:
    before = torch.zeros(100)
    with LiveLedger() as ledger:
        a = torch.ones(1000)
        view = a[10:20]
        before.add_(1)
        assert ledger.live_bytes == 4000
        b = a * 2
        assert ledger.live_bytes == 8000
        del b
        assert ledger.live_bytes == 4000
        del a
        assert ledger.live_bytes == 4000  # the view keeps the whole storage
        del view
        assert ledger.live_bytes == 0
    assert ledger.peak_bytes == 8000


def test_names_the_phase_of_the_peak() -> None:
    with LiveLedger() as ledger:
        ledger.phase = "forward"
        small = torch.ones(10)
        ledger.phase = "backward"
        large = torch.ones(1000)
        ledger.phase = "update"
        del small, large
    assert ledger.peak_phase == "backward"


def test_peak_agrees_with_torchs_memory_tracker() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64), nn.GELU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x).square().mean()

    model, x = Whole(), torch.randn(128, 64)
    tracker = MemTracker()
    tracker.track_external(model, x)
    with tracker:
        model(x).backward()
    static = sum(p.nbytes for p in model.parameters()) + x.nbytes
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    model.zero_grad(set_to_none=True)
    with LiveLedger() as ledger:
        model(x).backward()
    assert ledger.peak_bytes == peak - static
