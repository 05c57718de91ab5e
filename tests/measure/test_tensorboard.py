"""TensorBoard itself, started on this machine, reads traces: its profiler plugin is asked as its own page asks it."""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compbench.measure.tracing import Trace, trace_steps
from tests.capture import zoo
from tests.measure.test_passes import parts, session_of

pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
pytest.importorskip("torch_tb_profiler", reason="the extra tensorboard is not installed")

KEY = "half-d2-s0-0123456789ab"
PATIENCE_SECONDS = 90.0
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trace of one cell."""
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def trace(traces: Path) -> Trace:
    step, batch = parts(calls=2)
    with session_of(step, zoo.Half()) as session:
        return trace_steps(step, session, batch, 2, traces / KEY)


def _die_with_the_tests() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also when they are killed themselves


@pytest.fixture(scope="module")
def ask(traces: Path, trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Asks the profiler plugin of a TensorBoard that is looking at the folder; it is gone afterwards, in any case."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "tensorboard.log"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(traces), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--load_fast=false"]
    environment = {**os.environ, "TMPDIR": str(log.parent)}  # the plugin's own copies go there
    with log.open("wb") as file:
        server = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_the_tests,
        )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(endpoint: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{port}/data/plugin/pytorch_profiler/{endpoint}?{urllib.parse.urlencode(parameters)}"
        with opener.open(url, timeout=30) as response:
            content = response.read()
        return json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)

    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                # It loads runs one by one, each in a process of its own.
                if len(get("runs")["runs"]) == 2:
                    break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.1)
        yield get
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def events_of(traces: Path, role: str) -> list[dict[str, Any]]:
    return json.loads(gzip.decompress((traces / KEY / role / f"{role}.pt.trace.json.gz").read_bytes()))["traceEvents"]


@pytest.mark.parametrize("role", ["plain", "strategy"])
def test_a_run_is_found_with_its_views(ask: Ask, role: str) -> None:
    run = f"{KEY}/{role}"
    assert run in ask("runs")["runs"]
    assert ask("views", run=run) == ["Overview", "Operator", "Trace", "Memory"]
    assert ask("workers", run=run, view="Memory") == [role]
    assert ask("spans", run=run, worker=role) in (None, ["default"])


@pytest.fixture
def run(ask: Ask) -> Callable[..., Any]:
    """Asks for the steps under the strategy."""
    return lambda endpoint, **parameters: ask(
        endpoint, run=f"{KEY}/strategy", worker="strategy", span="default", **parameters
    )


def test_the_overview_has_every_step_that_was_traced(run: Callable[..., Any], trace: Trace) -> None:
    overview = run("overview")
    assert [row[0] for row in overview["steps"]["rows"]] == ["0", "1"]
    assert trace.strategy.steps == 2
    assert {"title": "Device Type", "value": "CPU"} in overview["environments"]


def test_operators_have_their_calls_and_shapes_and_regions_are_among_them(
    run: Callable[..., Any], traces: Path
) -> None:
    events = [event for event in events_of(traces, "strategy") if event.get("cat") == "cpu_op"]
    counted = Counter(event["name"] for event in events)
    table = {row["name"]: row["calls"] for row in run("operation/table", group_by="Operation")["data"]}
    regions = [name for name in counted if name.startswith("compbench::half ")]
    assert {name.split()[1] for name in regions} >= {"save", "encode", "decode"}
    for name in ("aten::mm", "aten::silu", *regions):
        assert table[name] == counted[name]
    shapes = Counter(str(event["args"]["Input Dims"]) for event in events if event["name"] == "aten::mm")
    by_shape = run("operation/table", group_by="OperationAndInputShape")["data"]
    assert {row["input_shape"]: row["calls"] for row in by_shape if row["name"] == "aten::mm"} == dict(shapes)


def test_memory_is_what_the_trace_says_of_it(run: Callable[..., Any], traces: Path) -> None:
    memory = [event["args"] for event in events_of(traces, "strategy") if event["name"] == "[memory]"]
    curve = run("memory_curve", time_metric="ms", memory_metric="KB")
    assert curve["metadata"]["devices"] == ["CPU"]
    peak = max(event["Total Allocated"] for event in memory)
    assert max(point[1] for point in curve["rows"]["CPU"]) == pytest.approx(peak / 1024)
    assert curve["metadata"]["peaks"]["CPU"] == f"Peak Memory Usage: {peak / 1024:.1f}KB"
    stats = run("memory", memory_metric="B")
    names = [column["name"] for column in stats["columns"]]
    rows = {row[0]: dict(zip(names, row, strict=True)) for row in stats["rows"]["CPU"]}
    products = rows["aten::mm"]
    assert products["Self Allocation Count"] == products["Calls"] > 0
    assert products["Self Allocation Size (B)"] > 48 * 64 * 4 * products["Calls"] / 2
    encoding = [row for name, row in rows.items() if name.startswith("compbench::half encode ")]
    # Half of what is encoded: the rows of each site as float16.
    widths = [int(row["Operator Name"].rpartition("_")[2].partition("#")[0]) * row["Calls"] for row in encoding]
    assert sum(row["Allocation Size (B)"] for row in encoding) == sum(48 * width * 2 for width in widths) > 0


def test_the_trace_view_is_given_the_file_as_it_is(run: Callable[..., Any], traces: Path) -> None:
    assert run("trace")["traceEvents"] == events_of(traces, "strategy")


def test_the_plain_step_and_that_of_the_strategy_can_be_set_against_each_other(run: Callable[..., Any]) -> None:
    found = run("diff", exp_run=f"{KEY}/plain", exp_worker="plain", exp_span="default")
    strategy, plain = ({agg["name"]: agg["calls"] for agg in found[side]["aggs"]} for side in ("left", "right"))
    assert any(name.startswith("compbench::half encode ") for name in strategy)
    assert not any(name.startswith("compbench::") for name in plain)
    assert strategy["aten::mm"] == plain["aten::mm"] > 0
