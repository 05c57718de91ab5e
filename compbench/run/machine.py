"""What a result was made on: hardware and versions, and nothing that names a person, a host or a folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

PACKAGE = Path(__file__).resolve().parents[1]


class Machine(BaseModel):
    """A machine's description, stored once in ``machines/HASH.json`` and referred to by its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    cpu: str = Field(description="the processor's model name")
    cores: int = Field(description="cores that this process may use")
    memory_bytes: int = Field(description="memory of the machine, or of the control group where that is less")
    cuda_devices: list[str] = Field(default_factory=list, description="names of the CUDA devices that are visible")
    os: str = Field(description="distribution, kernel and architecture")
    glibc: str = Field(description="version of the C library, whose allocator bears on time")
    python: str
    torch: str
    compbench: str
    commit: str = Field("", description="git commit of the checkout that runs, '+' when its code has been changed")

    @property
    def hash(self) -> str:
        """The first 12 digits of the description's SHA-256: its file's name."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


def describe_machine() -> Machine:
    """This machine as it is now; what can't be found out is ``unknown``, 0 or empty."""
    return Machine(
        cpu=cpu_model(),
        cores=available_cores(),
        memory_bytes=memory_bytes(),
        cuda_devices=cuda_devices(),
        os=operating_system(),
        glibc=glibc_version(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        torch=distribution_version("torch"),
        compbench=distribution_version("compbench"),
        commit=checkout_commit(PACKAGE.parent),
    )


def available_cores() -> int:
    """Cores that the scheduler of the operating system lets this process use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name, from the kernel's own list: ``lscpu`` is missing from many containers."""
    fields: dict[str, str] = {}
    for line in _text(cpuinfo).splitlines():
        name, separator, value = line.partition(":")
        if separator:
            fields.setdefault(name.strip().lower(), value.strip())
    # Arm kernels give no model name but numbers of the implementer and the part.
    arm = " ".join(f"{name} {fields[name]}" for name in ("cpu implementer", "cpu part") if name in fields)
    return fields.get("model name") or fields.get("hardware") or arm or platform.processor() or "unknown"


def memory_bytes(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory: the machine's, or the control group's limit where that is less (as in a container)."""
    totals = [line.split()[1] for line in _text(proc / "meminfo").splitlines() if line.startswith("MemTotal:")]
    limits = [_text(groups / "memory.max").strip(), _text(groups / "memory" / "memory.limit_in_bytes").strip()]
    known = [int(total) * 1024 for total in totals] + [int(limit) for limit in limits if limit.isdigit()]
    return min(known, default=0)


def cuda_devices() -> list[str]:
    """Names of the CUDA devices that torch sees, in its order; empty without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def operating_system() -> str:
    """Distribution, architecture and the kernel's first two numbers: what follows these may name who built it."""
    try:
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        distribution = ""
    kernel = f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"
    return ", ".join(part for part in (distribution, kernel, platform.machine()) if part)


def glibc_version() -> str:
    """The version of glibc, or ``none`` where the C library is another one."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "none").removeprefix("glibc ")
    except (ValueError, OSError, AttributeError):
        return "none"


def checkout_commit(root: Path) -> str:
    """The commit of the git checkout at ``root``, with ``+`` when tracked code differs from it; empty without one."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""
    commit = _output([git, "-C", str(root), "rev-parse", "HEAD"])
    # Results are committed beside the code and rewritten by a run: they don't make the code another one.
    # Without optional locks: one that is cut off would leave its lock in the user's checkout.
    changed = _output(
        [
            git,
            "--no-optional-locks",
            "-C",
            str(root),
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            ".",
            ":!results",
        ]
    )
    return f"{commit}+" if commit and changed else commit


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def distribution_version(distribution: str) -> str:
    """The version of an installed distribution, found without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
