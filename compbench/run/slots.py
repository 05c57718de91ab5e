"""Slots: what one cell at a time is placed on, a share of the cores or a whole GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compbench.errors import SettingsError
from compbench.measure.allocator import Allocator, allocator_environment
from compbench.run.affinity import ASKED_CORES, usable_cores


@dataclass(frozen=True)
class Slot:
    """A place for one cell at a time.

    Attributes:
        name: What the progress display calls it.
        threads: Threads that torch and its libraries are given.
        gpu: The only CUDA device that the cell sees, as ``CUDA_VISIBLE_DEVICES`` names it; None on a CPU.
        cores: The cores that are this slot's alone, by the system's numbers; empty where it shares all there are.
    """

    name: str
    threads: int
    gpu: str | None = None
    cores: tuple[int, ...] = ()

    def environment(self, inherited: Mapping[str, str], allocator: Allocator = "reuse") -> dict[str, str]:
        """The environment of a cell's process on this slot; what the user has set for glibc's allocator holds."""
        environment = {
            **allocator_environment(allocator, inherited),
            "PYTHONFAULTHANDLER": "1",  # A segmentation fault leaves its Python stack in the log.
            "PYTHONUNBUFFERED": "1",  # A killed process leaves in the log all that it printed.
            **inherited,
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
        }
        if self.cores:
            environment[ASKED_CORES] = ",".join(map(str, sorted(self.cores)))
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
    cores = usable_cores()
    kind, separator, index = device.partition(":")
    if device == "cpu":
        return with_cores(cpu_slots(len(cores), jobs, threads), cores)
    if kind != "cuda" or (separator and not index.isdecimal()):
        raise SettingsError(f"unknown device '{device}' (allowed: cpu, cuda, cuda:N)")
    gpus = visible_gpus()
    if separator and int(index) >= len(gpus):
        there = ", ".join(["cpu", *(f"cuda:{number}" for number in range(len(gpus)))])
        raise SettingsError(f"device '{device}': this machine has {len(gpus)} CUDA devices (allowed here: {there})")
    slots = gpu_slots([gpus[int(index)]] if separator else gpus, len(cores), jobs, threads)
    return with_cores(slots, cores)


def with_cores(slots: Sequence[Slot], cores: Sequence[int]) -> list[Slot]:
    """The slots with the cores shared out among them, neighbours together, as evenly as it goes.

    A single slot is left to the system's scheduler, which may move it away from what else runs on the machine. So are
    slots that there are not cores enough for.
    """
    if not 1 < len(slots) <= len(cores):
        return list(slots)
    bounds = [len(cores) * index // len(slots) for index in range(len(slots) + 1)]
    return [replace(slot, cores=tuple(cores[bounds[i] : bounds[i + 1]])) for i, slot in enumerate(slots)]


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
