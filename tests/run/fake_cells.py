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


def scores(spec: Path, out: Path) -> None:
    """Ends well after a moment, with figures that follow from the cell alone; a child of a child goes on by itself."""
    cell = json.loads(spec.read_text())
    if not os.fork():
        if not os.fork():
            os.setsid()
            time.sleep(600)
        os._exit(0)
    time.sleep(0.1)
    score = 1 / (cell["depth"] + cell["seed"] + len(cell["arm"]))
    write_record(spec, out, metrics={"solved": score}, loss_curve=[score] * 200)


def tells_environment(spec: Path, out: Path) -> None:
    names = ("GLIBC_TUNABLES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "COMPBENCH_CORES")
    print(json.dumps({name: os.environ.get(name) for name in names}))
    print(os.getsid(0) == os.getpid())
    print(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)
    ok(spec, out)


def marks(spec: Path, out: Path) -> None:
    """Leaves a line for each time that it is run in the file that the environment names."""
    descriptor = os.open(os.environ["FAKE_CELL_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{spec.name} {os.environ.get('FAKE_RUN')}\n".encode())
    os.close(descriptor)
    time.sleep(0.05)
    ok(spec, out)


def marks_and_hangs(spec: Path, out: Path) -> None:
    print(f"pid {os.getpid()}", flush=True)
    if os.environ.get("FAKE_RUN") == "first":
        time.sleep(600)
    marks(spec, out)


def slow(spec: Path, out: Path) -> None:
    time.sleep(0.3)
    ok(spec, out)


def notes_times(spec: Path, out: Path) -> None:
    began = time.monotonic()
    time.sleep(0.2)
    write_record(spec, out, statistics={"began": began, "ended": time.monotonic()})


def trains_in_steps(spec: Path, out: Path) -> None:
    """Forty steps, each with its time, between which it gives way."""
    from compbench.run.turns import Turns

    turns, steps = Turns.inherited(), {}
    for step in range(40):
        steps[f"began {step}"] = time.monotonic()
        time.sleep(0.05)
        steps[f"ended {step}"] = time.monotonic()
        turns.give_way()
    write_record(spec, out, statistics=steps)


def takes_times(spec: Path, out: Path) -> None:
    from compbench.run.turns import Turns

    with Turns.inherited().alone():
        began = time.monotonic()
        time.sleep(0.3)
        ended = time.monotonic()
    write_record(spec, out, statistics={"began 0": began, "ended 0": ended})


def _traces(description: str) -> None:
    """Writes what it is asked to trace; nothing where nobody asks."""
    if "--trace" in sys.argv:
        folder = Path(sys.argv[sys.argv.index("--trace") + 1])
        (folder / "strategy").mkdir(parents=True)
        steps = sys.argv[sys.argv.index("--trace-steps") + 1]
        (folder / "strategy" / "strategy.pt.trace.json.gz").write_bytes(f"{steps} steps".encode())
        (folder / "trace.json").write_text(description)


def is_traced(spec: Path, out: Path) -> None:
    ok(spec, out)
    _traces('{"status": "ok", "reason": ""}')


def cannot_be_traced(spec: Path, out: Path) -> None:
    ok(spec, out)
    _traces('{"status": "failed", "reason": "No space left on device"}')


def dies_while_it_is_traced(spec: Path, out: Path) -> None:
    ok(spec, out)
    Path(sys.argv[sys.argv.index("--trace") + 1]).mkdir()
    os.kill(os.getpid(), signal.SIGSEGV)


def fails_and_has_a_trace(spec: Path, out: Path) -> None:
    write_record(spec, out, status="diverged", reason="loss is nan")
    _traces('{"status": "ok", "reason": ""}')


def diverges(spec: Path, out: Path) -> None:
    write_record(spec, out, status="diverged", reason="loss is nan at step 3", loss_curve=[1.0, "NaN"])


def crashes_after_record(spec: Path, out: Path) -> None:
    ok(spec, out)
    os.kill(os.getpid(), signal.SIGSEGV)


def has_a_long_curve(spec: Path, out: Path) -> None:
    write_record(spec, out, loss_curve=[0.5] * 5000)


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


def oom_from_depth_8(spec: Path, out: Path) -> None:
    deep = json.loads(spec.read_text())["depth"] >= 8
    write_record(spec, out, **({"status": "oom", "reason": "MemoryError"} if deep else {}))


def crashes_twice(spec: Path, out: Path) -> None:
    """Crashes in its first two attempts, which it counts in a file of the current folder."""
    count = Path(f"attempts-{json.loads(spec.read_text())['seed']}")
    with count.open("a") as file:
        file.write(".")
    if len(count.read_text()) <= 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    ok(spec, out)


def hangs_in_native_code(spec: Path, out: Path) -> None:
    """Sleeps in C with the interpreter's lock, deaf to SIGTERM, beside a child in its own session that does so too."""
    import ctypes

    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(tell, b".")
        ctypes.PyDLL(None).pause()
    os.read(ready, 1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(f"pid {child}\npid {os.getpid()}\npid {os.getppid()}", flush=True)
    ctypes.PyDLL(None).pause()


def leaves_daemon_behind(spec: Path, out: Path) -> None:
    """Ends well; a grandchild whose parent has ended goes on in a session of its own."""
    read, write = os.pipe()
    if not os.fork():
        if not os.fork():
            os.setsid()
            os.write(write, str(os.getpid()).encode())
            time.sleep(600)
        os._exit(0)
    os.wait()
    print(f"pid {int(os.read(read, 20))}", flush=True)
    ok(spec, out)


def takes_memory(spec: Path, out: Path) -> None:
    """Has 60 MB, and then asks for one more GB than it may have; what comes of it is told by Python's own error."""
    kept = bytearray(60 * 10**6)
    try:
        more = bytearray(10**9)
    except MemoryError:
        write_record(spec, out, status="oom", reason="MemoryError", statistics={"kept": len(kept)})
        return
    write_record(spec, out, statistics={"kept": len(kept) + len(more)})


def dies_of_memory(spec: Path, out: Path) -> None:
    """Fills the memory that it may have, and then dies as libraries do that can't be told: by abort()."""
    kept = []
    try:
        while True:
            kept.append(b"x" * 2**20)
    except MemoryError:
        os.abort()


def signs(spec: Path, out: Path) -> None:
    """Leaves a line when it begins and one when it ends, in a file that all nodes of a cluster on one machine see."""
    with Path(os.environ["COMPBENCH_TEST_SIGNATURES"]).open("a") as file:
        file.write(f"began {spec.name.removesuffix('.cell.json')} {os.getpid()}\n")
        file.flush()
        time.sleep(float(json.loads(spec.read_text())["variant"].get("seconds", 1.0)))
        ok(spec, out)
        file.write(f"ended {spec.name.removesuffix('.cell.json')} {os.getpid()}\n")


def signs_and_hangs(spec: Path, out: Path) -> None:
    with Path(os.environ["COMPBENCH_TEST_SIGNATURES"]).open("a") as file:
        file.write(f"began {spec.name.removesuffix('.cell.json')} {os.getpid()}\n")
    time.sleep(600)


def kills_its_worker(spec: Path, out: Path) -> None:
    """Kills the process of Ray that it runs under: the parent of its guard."""
    guard = os.getppid()
    os.kill(int(Path(f"/proc/{guard}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    time.sleep(600)


def reads_plugins(spec: Path, out: Path) -> None:
    folder = Path(json.loads(spec.read_text())["plugins_dir"])
    print(sorted((path.relative_to(folder).as_posix(), path.read_text()) for path in folder.rglob("*.*")))
    ok(spec, out)


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
