"""Settings of the whole test run."""

from __future__ import annotations

import torch

# Small tensors on many threads of a busy machine wait for each other: one thread is several times faster.
torch.set_num_threads(1)
