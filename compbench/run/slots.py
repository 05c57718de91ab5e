"""Slots: what one cell at a time is placed on, a share of the cores or a whole GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compbench.errors import SettingsError
from compbench.run.machine import available_cores

ALLOCATOR = (
    "glibc.malloc.mmap_threshold=8000000000:glibc.malloc.trim_threshold=16000000000"
    ":glibc.malloc.top_pad=268435456:glibc.malloc.hugetlb=1"
)
"""Makes glibc keep freed memory. With its defaults every step maps and page-faults its activations anew: the
uncompressed step, which holds most, pays most for it, and recomputation looks free."""


@dataclass(frozen=True)
class Slot:
    """A place for one cell at a time.

    Attributes:
        name: What the progress display calls it.
        threads: Threads that torch and its libraries are given.
        gpu: The only CUDA device that the cell sees, as ``CUDA_VISIBLE_DEVICES`` names it; None on a CPU.
    """

    name: str
    threads: int
    gpu: str | None = None

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment of a cell's process on this slot."""
        environment = {
            "GLIBC_TUNABLES": ALLOCATOR,
            "PYTHONFAULTHANDLER": "1",  # A segmentation fault leaves its Python stack in the log.
            "PYTHONUNBUFFERED": "1",  # A killed process leaves in the log all that it printed.
            **inherited,
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
        }
        if self.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu
        return environment


def plan_slots(device: str, jobs: int | None = None, threads: int | None = None) -> list[Slot]:
    """The slots of this machine for cells on ``device``.

    Args:
        device: ``cpu``; ``cuda``, for all visible GPUs; or ``cuda:N``, for the one of that index.
        jobs: Number of slots; by default one a pair of cores, or one a GPU.
        threads: Threads of each cell; by default the cores are shared out evenly.

    Raises:
        SettingsError: The device is not there, or there are fewer GPUs than ``jobs``.
    """
    cores = available_cores()
    kind, separator, index = device.partition(":")
    if device == "cpu":
        return cpu_slots(cores, jobs, threads)
    if kind != "cuda" or (separator and not index.isdecimal()):
        raise SettingsError(f"unknown device '{device}' (allowed: cpu, cuda, cuda:N)")
    gpus = visible_gpus()
    if separator and int(index) >= len(gpus):
        there = ", ".join(["cpu", *(f"cuda:{number}" for number in range(len(gpus)))])
        raise SettingsError(f"device '{device}': this machine has {len(gpus)} CUDA devices (allowed here: {there})")
    return gpu_slots([gpus[int(index)]] if separator else gpus, cores, jobs, threads)


def cpu_slots(cores: int, jobs: int | None = None, threads: int | None = None) -> list[Slot]:
    """Slots that share ``cores`` evenly, unless ``threads`` says what each takes."""
    count = jobs or max(1, cores // (threads or 2))
    share = threads or max(1, cores // count)
    return [Slot(f"cpu {index}", share) for index in range(count)]


def gpu_slots(gpus: Sequence[str], cores: int, jobs: int | None = None, threads: int | None = None) -> list[Slot]:
    """One slot a GPU, for at most ``jobs`` of them: two cells on one would disturb each other's times and memory."""
    if not gpus:
        raise SettingsError("device 'cuda': this machine has no CUDA device that torch can use (allowed here: cpu)")
    if jobs is not None and jobs > len(gpus):
        raise SettingsError(f"--jobs {jobs}: a CUDA device takes one cell at a time (allowed: 1 to {len(gpus)})")
    used = gpus[:jobs]
    share = threads or max(1, cores // len(used))
    return [Slot(f"gpu {gpu}", share, gpu) for gpu in used]


def visible_gpus() -> list[str]:
    """The CUDA devices that this process sees, as ``CUDA_VISIBLE_DEVICES`` would name them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]
