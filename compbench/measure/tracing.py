"""Where a step's time goes, operator by operator: the strategy's step beside the plain one, under torch's profiler.

Operators are counted with the time that they spend themselves, without that of operators which they call, and each
belongs to one kind. What of a phase no operator accounts for is Python and the engine: the code of the model, autograd,
the session, the strategy and the profiler. So the kinds of a phase add up to the phase.
"""

from __future__ import annotations

import gc
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from compbench.capture import Session
from compbench.measure.memory_history import memory_history
from compbench.measure.operator_kinds import KINDS, WHOLE, Kind, kind_of
from compbench.measure.regions import WORKS, Region, Regions, Work
from compbench.measure.results import PhaseName
from compbench.measure.step import Step
from compbench.measure.timing import PHASES, measure_time
from compbench.measure.trace_files import Event, events_at, handler, read_whole, write_trace
from compbench.records import Batch

PHASE_LABEL = "phase: "
"""Before the name of a phase in a trace."""

ROLE_LABEL = "step: "
"""Before the name of what runs a step."""

Role = Literal["plain", "strategy"]
"""What runs a step."""

ROLES: tuple[Role, ...] = get_args(Role)

MOST_EVENTS = 100_000
"""In a trace's file, if one step has no more: 2.5 MB compressed. Fewer steps are traced where they have more."""

SNAPSHOT = "strategy/memory.pickle"
"""Where the memory snapshot of a GPU goes."""


class OperatorTime(BaseModel):
    """One operator in one phase, for one step: means over the steps that were traced."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: PhaseName
    kind: Kind
    operator: str = Field(description="torch's name, such as aten::mm; empty for what no operator accounts for")
    calls: float
    cpu_ms: float = Field(description="milliseconds on the CPU, without those of operators that it called")
    device_ms: float = Field(0.0, description="milliseconds of what it started on a GPU; 0 without one")


class WorkTime(BaseModel):
    """What a session did at one site, for one step, with all that it called: means over the steps that were traced."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: str = Field(description="whose codec is at the site")
    work: Work
    what: str = Field(description="the site; for what is computed again, the function; empty for all that is saved")
    calls: float
    cpu_ms: float = Field(description="milliseconds, operators and Python; of one kind of work within itself, once")


class StepTrace(BaseModel):
    """One kind of step: plain, or under the strategy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(description="how many were traced")
    step_ms: float = Field(description="median milliseconds of a step that is not traced")
    times: tuple[OperatorTime, ...] = Field(description="all milliseconds of a traced step")
    works: tuple[WorkTime, ...] = ()
    file: str = Field(description="the trace in its folder, as TensorBoard, Perfetto and chrome://tracing read it")
    events: int = Field(description="how many there are in the file")
    file_bytes: int = Field(description="the file's size")

    @property
    def traced_ms(self) -> float:
        """Milliseconds of a traced step on the CPU, the profiler's own among them; without shapes and memory."""
        return sum(time.cpu_ms for time in self.times)

    def milliseconds(self, kind: Kind | None = None, phase: PhaseName | None = None, device: bool = False) -> float:
        """Milliseconds of a traced step that are of a kind and in a phase; None: of all."""
        return sum(
            time.device_ms if device else time.cpu_ms
            for time in self.times
            if kind in (None, time.kind) and phase in (None, time.phase)
        )


class Trace(BaseModel):
    """A strategy's step and the plain step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plain: StepTrace
    strategy: StepTrace
    stacks: bool = Field(False, description="whether the files have every Python function")
    memory_snapshot: str = Field("", description="the history of a GPU's memory in a step under the strategy, its file")


def trace_steps(
    step: Step, session: Session | None, batch: Batch, steps: int, folder: Path, stacks: bool = False
) -> Trace:
    """Traces pairs of one plain step and one under the strategy, the order turning from pair to pair.

    A step is forward, backward and the strategy's end of step; the optimiser, which is the same for both, is left out.
    Before that as many pairs are timed without the profiler, and as many are traced and forgotten. The files are of
    pairs of which shapes, and whatever is allocated and freed, are noted as well; that takes time, so that the times of
    operators are those of as many further pairs without it.

    Args:
        step: the model.
        session: its session, open; None traces the plain step in the strategy's place too.
        batch: the examples of a training step.
        steps: how many pairs, at least 1. There are fewer where a file would have more than :data:`MOST_EVENTS` events,
            but never none.
        folder: where ``plain/`` and ``strategy/`` go, each with one trace: TensorBoard takes them for two runs. On a
            GPU the second also has a memory snapshot.
        stacks: notes every Python function that runs, for the files.

    Raises:
        OSError: a trace can't be written.
    """
    time = measure_time(step, session, batch, steps)
    untraced_ms = {"plain": 1000 * time.uncompressed_step_seconds, "strategy": 1000 * time.step_seconds}
    folder.mkdir(parents=True, exist_ok=True)
    regions = None if session is None else Regions(session)
    gc.collect()
    gc.freeze()  # What is there now needs no looking through: collecting before each step then takes no time.
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary, _shown(regions):
            profiled = _Profiled(step, session, batch, Path(temporary), stacks)
            # The first time for memory alone: what the profiler notes comes to lie in places that tensors of the next
            # step would have used, so that each step needs new memory of the system and takes twice as long. The
            # second time all places are there. One pair by itself tells how large the files will be.
            profiled.in_detail(1)
            pairs = max(1, min(steps, MOST_EVENTS // max(map(len, profiled.events().values()))))
            if pairs > 1:
                profiled.in_detail(pairs)
            profiled.in_detail(pairs)
            written = profiled.write(folder)
            events = profiled.operators(pairs)
    finally:
        gc.unfreeze()
    snapshot = ""
    if _has_allocator(step):
        snapshot = SNAPSHOT
        _snapshot(step, session, batch, folder / SNAPSHOT)
    step.clear_gradients()
    works = () if regions is None else tuple(_work_times(events, regions, pairs))
    plain, strategy = (
        StepTrace(
            steps=pairs,
            step_ms=untraced_ms[role],
            times=tuple(operator_times(events, role, pairs)),
            works=works if role == "strategy" else (),
            file=_file(role),
            events=written[role][0],
            file_bytes=written[role][1],
        )
        for role in ROLES
    )
    return Trace(plain=plain, strategy=strategy, stacks=stacks, memory_snapshot=snapshot)


def _shown(regions: Regions | None) -> AbstractContextManager[None]:
    return nullcontext() if regions is None else regions.shown()


class _Profiled:
    """Pairs of steps under the profiler.

    Args:
        step: the model.
        session: its session.
        batch: the examples.
        folder: where the profiler's own files go for the moment.
        stacks: whether every Python function is noted.
    """

    def __init__(self, step: Step, session: Session | None, batch: Batch, folder: Path, stacks: bool) -> None:
        self._step = step
        self._session = session
        self._batch = batch
        self._folder = folder
        self._stacks = stacks

    def in_detail(self, pairs: int) -> None:
        """Runs pairs for the files; what is found takes the place of what was found before."""
        self._run(pairs, handler(self._folder), detailed=True)

    def operators(self, pairs: int) -> list[FunctionEvent]:
        """Runs pairs for the times of operators and regions, of which nothing else is noted."""
        profiler = self._run(pairs, lambda profiler: None, detailed=False)
        return [event for event in profiler.events() or [] if event.device_type == DeviceType.CPU]

    def _run(self, pairs: int, on_ready: Callable[[profile], None], detailed: bool) -> profile:
        """Runs pairs, after one pair that is not noted."""
        step, session = self._step, self._session
        profiler = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if step.device.type == "cuda" else [])],
            schedule=schedule(wait=0, warmup=2, active=2 * pairs, repeat=1),
            on_trace_ready=on_ready,
            record_shapes=detailed,
            profile_memory=detailed,
            with_stack=detailed and self._stacks,
        )
        with profiler:
            for pair in range(-1, pairs):
                for role in ROLES if pair % 2 else reversed(ROLES):
                    traced = session if role == "strategy" else None
                    with session.paused() if session is not None and traced is None else nullcontext():
                        step.clear_gradients()
                        gc.collect()
                        step.synchronize()
                        _labelled_step(role, step, traced, self._batch)
                        step.synchronize()
                    profiler.step()
        return profiler

    def events(self) -> dict[Role, list[Event]]:
        """The events of each kind of step that was run in detail."""
        events = read_whole(self._folder)["traceEvents"]
        return {role: events_at(events, f"{ROLE_LABEL}{role}") for role in ROLES}

    def write(self, folder: Path) -> dict[Role, tuple[int, int]]:
        """Writes what was run in detail as two traces, and gives the number of events and bytes of each."""
        whole = read_whole(self._folder)
        written: dict[Role, tuple[int, int]] = {}
        for role in ROLES:
            path = folder / _file(role)
            events = events_at(whole["traceEvents"], f"{ROLE_LABEL}{role}")
            write_trace(path, whole, events)
            written[role] = len(events), path.stat().st_size
        return written


def _has_allocator(step: Step) -> bool:
    """Whether the device has an allocator of torch's own, which knows its history."""
    return step.device.type == "cuda"


def _snapshot(step: Step, session: Session | None, batch: Batch, path: Path) -> None:
    """The history of the memory of one step under the strategy."""
    step.clear_gradients()
    with memory_history(path):
        _labelled_step("strategy", step, session, batch)
        step.synchronize()


def _labelled_step(role: Role, step: Step, session: Session | None, batch: Batch) -> None:
    """One step with its phases, those that the timing pass measures, as labelled ranges."""
    with record_function(f"{ROLE_LABEL}{role}"), _Phases() as phases:
        phases.begin("forward")
        with session.step() if session is not None else nullcontext():
            loss = step.loss(batch)
            phases.begin("backward")
            loss.backward()
            del loss  # and the graph with it, as where nothing but the backward pass refers to it
            phases.begin("update")


class _Phases:
    """Ranges of a trace that follow each other without a gap."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def begin(self, phase: PhaseName) -> None:
        """Ends the phase before, and begins this one."""
        self._open.close()
        self._open.enter_context(record_function(f"{PHASE_LABEL}{phase}"))


def _file(role: Role) -> str:
    return f"{role}/{role}.pt.trace.json.gz"


# ---------------------------------------------------------------- times of a session's work


def _work_times(events: Iterable[FunctionEvent], regions: Regions, steps: int) -> list[WorkTime]:
    sums: dict[Region, tuple[int, float]] = {}
    for event in events:
        region = regions.find(event.name)
        if region is None or _is_within(event, region.work, regions):
            continue
        calls, microseconds = sums.get(region, (0, 0.0))
        sums[region] = calls + 1, microseconds + event.time_range.elapsed_us()
    return [
        WorkTime(
            strategy=region.strategy,
            work=region.work,
            what=region.what,
            calls=calls / steps,
            cpu_ms=microseconds / 1000 / steps,
        )
        for region, (calls, microseconds) in sorted(sums.items(), key=lambda item: WORKS.index(item[0].work))
    ]


def _is_within(event: FunctionEvent, work: Work, regions: Regions) -> bool:
    """Whether work of a kind goes on around an event."""
    around = event.cpu_parent
    while around is not None:
        region = regions.find(around.name)
        if region is not None and region.work == work:
            return True
        around = around.cpu_parent
    return False


# ---------------------------------------------------------------- times of operators


def operator_times(events: Sequence[FunctionEvent], role: Role, steps: int) -> list[OperatorTime]:
    """The time of every operator in every phase, and what is left of the phase; together they are the phase.

    Args:
        events: what the profiler has of the CPU, with the ranges of steps and phases among it.
        role: which of the steps.
        steps: how many of them.
    """
    phases = _phases_of(events, role)
    starts = [start for start, _, _ in phases]
    sums: dict[tuple[PhaseName, Kind, str], tuple[int, float, float]] = {}
    left = dict.fromkeys(PHASES, 0.0)
    for start, end, phase in phases:
        left[phase] += end - start
    for event, kind in _with_kinds(events):
        # By time and not by what it is nested in: a GPU's backward pass runs in a thread of its own.
        place = bisect_right(starts, event.time_range.start) - 1
        if place < 0 or event.time_range.start >= phases[place][1]:
            continue
        phase = phases[place][2]
        key = phase, kind, event.name
        calls, cpu, device = sums.get(key, (0, 0.0, 0.0))
        sums[key] = calls + 1, cpu + event.self_cpu_time_total, device + event.self_device_time_total
        left[phase] -= event.self_cpu_time_total
    times = [
        OperatorTime(
            phase=phase,
            kind=kind,
            operator=operator,
            calls=calls / steps,
            cpu_ms=cpu / 1000 / steps,
            device_ms=device / 1000 / steps,
        )
        for (phase, kind, operator), (calls, cpu, device) in sums.items()
    ]
    times += [
        OperatorTime(phase=phase, kind="python_and_engine", operator="", calls=0, cpu_ms=rest / 1000 / steps)
        for phase, rest in left.items()
    ]
    return sorted(times, key=lambda time: (PHASES.index(time.phase), KINDS.index(time.kind), -time.cpu_ms))


def _phases_of(events: Iterable[FunctionEvent], role: Role) -> list[tuple[float, float, PhaseName]]:
    """Begin, end and name of every phase of the steps of a role, in their order; in microseconds."""
    labels = {f"{PHASE_LABEL}{phase}": phase for phase in PHASES}
    return sorted(
        (event.time_range.start, event.time_range.end, labels[event.name])
        for event in events
        if event.name in labels and event.cpu_parent is not None and event.cpu_parent.name == f"{ROLE_LABEL}{role}"
    )


def _with_kinds(events: Iterable[FunctionEvent]) -> Iterator[tuple[FunctionEvent, Kind]]:
    """Every operator with its kind; autograd's nodes and labelled ranges are no operators."""
    waiting: list[tuple[FunctionEvent, Kind | None]] = [(event, None) for event in events if event.cpu_parent is None]
    while waiting:
        event, within = waiting.pop()
        kind = None if event.is_user_annotation else kind_of(event.name)
        # What is called while a tensor is saved is not the operator's that saves it.
        passed_on = None
        if kind is not None:
            kind = within or kind
            passed_on = kind if kind in WHOLE else None
            yield event, kind
        waiting += [(child, passed_on) for child in event.cpu_children]
