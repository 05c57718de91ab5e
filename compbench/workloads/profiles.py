"""Named settings of architectures: what a profile says is the default of whatever a suite leaves out.

Sources: ``trm`` is the reference implementation's configuration (SamsungSAILMontreal/TinyRecursiveModels), that of
Sudoku; Maze and ARC run with ``l_cycles: 4``. ``ouro_1.4b`` and ``ouro_2.6b`` are the shapes of arXiv 2510.25741's
models, whose counts are published rounded, as 1.4 and 2.6 billion. With their vocabulary of 49,152 ids they have
1,434,652,673 and 2,667,974,657 parameters here; an exact count to compare with is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Profile = Literal["trm", "looped_lm_tiny", "ouro_1.4b", "ouro_2.6b"]

_OURO = {
    "architecture": "looped_lm",
    "hidden": 2048,
    "heads": 16,
    "inner": 5632,
    "loops": 4,
    "rope_theta": 1e6,
    "exits": True,
    "exit_entropy": 0.05,
}

PROFILES: Mapping[Profile, Mapping[str, Any]] = {
    "trm": {
        "architecture": "trm",
        "hidden": 512,
        "heads": 8,
        "layers": 2,
        "expansion": 4.0,
        "h_cycles": 3,
        "l_cycles": 6,
        "gradient": "last_cycle",
        "loss_function": "stablemax",
        "prefix": 16,
        "halting": True,
        "supervision_steps": 16,
    },
    "looped_lm_tiny": {
        "architecture": "looped_lm",
        "hidden": 64,
        "heads": 4,
        "inner": 192,
        "layers": 2,
        "loops": 4,
        "exits": True,
        "exit_entropy": 0.05,
    },
    "ouro_1.4b": {**_OURO, "layers": 24},
    "ouro_2.6b": {**_OURO, "layers": 48},
}
