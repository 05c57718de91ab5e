"""Cells whose processes do as they are told, without torch: run as a script, this file is such a process.

A cell's ``variant`` may have the value ``does``, the name of a function below; one without ends well.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def command(spec: Path, out: Path) -> list[str]:
    return [sys.executable, __file__, str(spec), str(out)]


def write_record(spec: Path, out: Path, **fields) -> None:
    record = {"key": spec.name.removesuffix(".cell.json"), "cell": json.loads(spec.read_text()), "status": "ok"}
    temporary = out.with_suffix(".part")
    temporary.write_text(json.dumps(record | fields))
    temporary.rename(out)


def ok(spec: Path, out: Path) -> None:
    write_record(spec, out, metrics={"solved": 0.5})


def tells_environment(spec: Path, out: Path) -> None:
    names = ("GLIBC_TUNABLES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "COMPBENCH_CORES")
    print(json.dumps({name: os.environ.get(name) for name in names}))
    print(os.getsid(0) == os.getpid())
    print(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)
    ok(spec, out)


def slow(spec: Path, out: Path) -> None:
    time.sleep(0.3)
    ok(spec, out)


def notes_times(spec: Path, out: Path) -> None:
    began = time.monotonic()
    time.sleep(0.2)
    write_record(spec, out, statistics={"began": began, "ended": time.monotonic()})


def diverges(spec: Path, out: Path) -> None:
    write_record(spec, out, status="diverged", reason="loss is nan at step 3", loss_curve=[1.0, "NaN"])


def crashes_after_record(spec: Path, out: Path) -> None:
    ok(spec, out)
    os.kill(os.getpid(), signal.SIGSEGV)


def raises(spec: Path, out: Path) -> None:
    print("\n".join(f"line {number}" for number in range(40)), flush=True)
    raise ValueError("this went wrong")


def ends_without_record(spec: Path, out: Path) -> None:
    pass


def writes_rubbish(spec: Path, out: Path) -> None:
    out.write_text('{"key": ')


def writes_another_cells_record(spec: Path, out: Path) -> None:
    cell = json.loads(spec.read_text()) | {"seed": 99}
    out.write_text(json.dumps({"key": spec.name.removesuffix(".cell.json"), "cell": cell, "status": "ok"}))


def hangs(spec: Path, out: Path) -> None:
    print(f"pid {os.getpid()}", flush=True)
    time.sleep(600)


def ignores_sigterm(spec: Path, out: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hangs(spec, out)


def _child() -> None:
    ignoring = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", ignoring], stdout=subprocess.PIPE)
    child.stdout.readline()
    print(f"pid {child.pid}", flush=True)


def leaves_child_behind(spec: Path, out: Path) -> None:
    _child()
    ok(spec, out)


def hangs_with_child(spec: Path, out: Path) -> None:
    _child()
    hangs(spec, out)


def kills_itself(spec: Path, out: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfaults(spec: Path, out: Path) -> None:
    import ctypes

    ctypes.string_at(0)


if __name__ == "__main__":
    spec_path, out_path = Path(sys.argv[1]), Path(sys.argv[2])
    globals()[json.loads(spec_path.read_text())["variant"].get("does", "ok")](spec_path, out_path)
