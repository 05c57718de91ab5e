"""Where a step's time goes, operator by operator: the strategy's step beside the plain one, under torch's profiler.

Operators are counted with the time that they spend themselves, without that of operators which they call, and each
belongs to one kind. What of a phase no operator accounts for is Python and the engine: the code of the model, autograd,
the session, the strategy and the profiler. So the kinds of a phase add up to the phase.
"""

from __future__ import annotations

import gc
import gzip
import json
import re
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache, wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args
from unittest.mock import patch

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from compbench.capture import Session
from compbench.capture.entry import Entry
from compbench.capture.recipes import Recipe
from compbench.capture.saving import Saver
from compbench.measure.results import PhaseName
from compbench.measure.step import Step
from compbench.measure.timing import PHASES, measure_time
from compbench.records import Batch

Kind = Literal[
    "matrix_products",
    "attention",
    "elementwise",
    "norms",
    "reductions",
    "decompositions",
    "indexing_and_sorting",
    "random_numbers",
    "copies_and_casts",
    "memory",
    "views",
    "compiled_code",
    "device_calls",
    "other_operators",
    "python_and_engine",
]
"""``matrix_products`` has convolutions; ``norms`` are of layers and of vectors; ``reductions`` have softmax and losses;
``decompositions`` are QR, SVD, eigenvectors and the like; ``memory`` is making and filling tensors; ``compiled_code``
is what ``torch.compile`` has made, as a whole; ``device_calls`` start work on a GPU or wait for it."""

KINDS: tuple[Kind, ...] = get_args(Kind)

PHASE_LABEL = "phase: "
"""Before the name of a phase in a trace."""

ROLE_LABEL = "step: "
"""Before the name of what runs a step."""

Role = Literal["plain", "strategy"]
"""What runs a step."""

ROLES: tuple[Role, ...] = get_args(Role)

Work = Literal["save", "encode", "decode", "recompute", "end of step"]
"""What a session does for its strategy; the label of its range in a trace, followed by the site or the function.
``save`` is whatever it does with a tensor that autograd saves, encoding included."""

WORKS: tuple[Work, ...] = get_args(Work)

_WHOLE: frozenset[Kind] = frozenset({"attention", "norms", "decompositions", "random_numbers"})
"""Kinds that also take whatever operators of theirs call, since how these are composed is a detail of torch."""


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

    @property
    def traced_ms(self) -> float:
        """Milliseconds of a traced step on the CPU, the profiler's own among them."""
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


def trace_steps(step: Step, session: Session | None, batch: Batch, steps: int, folder: Path) -> Trace:
    """Traces pairs of one plain step and one under the strategy, the order turning from pair to pair.

    A step is forward, backward and the strategy's end of step; the optimiser, which is the same for both, is left out.
    Before that as many pairs are timed without the profiler, and as many are traced and forgotten.

    Args:
        step: the model.
        session: its session, open; None traces the plain step in the strategy's place too.
        batch: the examples of a training step.
        steps: how many pairs, at least 1.
        folder: where ``plain/`` and ``strategy/`` go, each with one trace: TensorBoard takes them for two runs.

    Raises:
        OSError: a trace can't be written.
    """
    time = measure_time(step, session, batch, steps)
    untraced_ms = {"plain": 1000 * time.uncompressed_step_seconds, "strategy": 1000 * time.step_seconds}
    gc.collect()
    gc.freeze()  # What is there now needs no looking through: collecting before each step then takes no time.
    try:
        with _labelled_works():
            # The first time for memory alone: what the profiler notes comes to lie in places that tensors of the next
            # step would have used, so that each step needs new memory of the system and takes twice as long. The
            # second time all places are there.
            _profile(step, session, batch, steps, on_ready=lambda profiler: None)
            profiler = _profile(step, session, batch, steps, on_ready=lambda profiler: _export(profiler, folder))
    finally:
        gc.unfreeze()
    step.clear_gradients()
    events = [event for event in profiler.events() or [] if event.device_type == DeviceType.CPU]
    works = tuple(_work_times(events, steps))
    plain, strategy = (
        StepTrace(
            steps=steps,
            step_ms=untraced_ms[role],
            times=tuple(operator_times(events, role, steps)),
            works=works if role == "strategy" else (),
            file=_file(role),
        )
        for role in ROLES
    )
    return Trace(plain=plain, strategy=strategy)


def _profile(
    step: Step, session: Session | None, batch: Batch, steps: int, on_ready: Callable[[profile], None]
) -> profile:
    """Runs the pairs under the profiler, after one pair that it does not note."""
    profiler = profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if step.device.type == "cuda" else [])],
        schedule=schedule(wait=0, warmup=2, active=2 * steps, repeat=1),
        on_trace_ready=on_ready,
        acc_events=True,
    )
    with profiler:
        for pair in range(-1, steps):
            for role in ROLES if pair % 2 else reversed(ROLES):
                traced = session if role == "strategy" else None
                with session.paused() if session is not None and traced is None else nullcontext():
                    step.clear_gradients()
                    gc.collect()
                    step.synchronize()
                    _labelled_step(role, step, traced, batch)
                    step.synchronize()
                profiler.step()
    return profiler


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


# ---------------------------------------------------------------- labels of what a session does


@contextmanager
def _labelled_works() -> Iterator[None]:
    """Ranges around what sessions do for their strategies; from outside, so that other steps pay nothing for them.

    Autograd's operators call a session while they run. Without the range around ``save`` what it takes would be theirs.
    """
    labels: list[tuple[type, str, Callable[..., str]]] = [
        (Saver, "pack", lambda *_: "save"),
        (Saver, "_encode", lambda saver, tensor, fold, book, *_: f"encode {book.site.name}"),
        (Entry, "_decoded", lambda entry, *_: f"decode {entry.book.site.name}"),
        (Recipe, "_compute", lambda recipe, *_: f"recompute {getattr(recipe._function, '__name__', '')}"),
        (Session, "_end_step", lambda session, book, *_: f"end of step {book.site.name}"),
    ]
    with ExitStack() as stack:
        for owner, method, label in labels:
            stack.enter_context(patch.object(owner, method, _labelled(getattr(owner, method), label)))
        yield


def _labelled(method: Callable[..., Any], label: Callable[..., str]) -> Callable[..., Any]:
    @wraps(method)
    def labelled(*arguments: Any, **keywords: Any) -> Any:
        # Not record_function, which is an operator itself: it takes longer, and sessions would see it run.
        with torch._C._profiler._RecordFunctionFast(label(*arguments)):
            return method(*arguments, **keywords)

    return labelled


def _work_times(events: Iterable[FunctionEvent], steps: int) -> list[WorkTime]:
    sums: dict[tuple[Work, str], tuple[int, float]] = {}
    for event in events:
        work = _work(event)
        if work is None or _is_within(event, work):
            continue
        key = work, event.name.removeprefix(work).strip()
        calls, microseconds = sums.get(key, (0, 0.0))
        sums[key] = calls + 1, microseconds + event.time_range.elapsed_us()
    return [
        WorkTime(work=work, what=what, calls=calls / steps, cpu_ms=microseconds / 1000 / steps)
        for (work, what), (calls, microseconds) in sorted(sums.items(), key=lambda item: WORKS.index(item[0][0]))
    ]


def _work(event: FunctionEvent) -> Work | None:
    return next((work for work in WORKS if event.name == work or event.name.startswith(f"{work} ")), None)


def _is_within(event: FunctionEvent, work: Work) -> bool:
    """Whether work of a kind goes on around an event."""
    around = event.cpu_parent
    while around is not None:
        if _work(around) == work:
            return True
        around = around.cpu_parent
    return False


# ---------------------------------------------------------------- files


def _file(role: Role) -> str:
    return f"{role}/{role}.pt.trace.json.gz"


def _export(profiler: profile, folder: Path) -> None:
    """Writes the trace, as torch writes it, as two: the plain steps, and those under the strategy."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        whole = Path(temporary) / "whole.json"
        profiler.export_chrome_trace(str(whole))
        trace = json.loads(whole.read_text(encoding="utf-8"))
    for role in ROLES:
        path = folder / _file(role)
        path.parent.mkdir(exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            json.dump({**trace, "traceEvents": _events_of(trace["traceEvents"], role)}, file)


def _events_of(events: Sequence[dict[str, Any]], role: Role) -> list[dict[str, Any]]:
    """The events of a Chrome trace that happen while the profiler is at a step of a role, and what names processes."""
    steps = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("cat") == "user_annotation" and event["name"].startswith("ProfilerStep#")
    )
    starts = [start for start, _ in steps]

    def place(event: dict[str, Any]) -> int | None:
        index = bisect_right(starts, event["ts"]) - 1
        return index if index >= 0 and event["ts"] < steps[index][1] else None

    label = f"{ROLE_LABEL}{role}"
    wanted = {place(event) for event in events if event.get("cat") == "user_annotation" and event["name"] == label}
    return [event for event in events if event["ph"] == "M" or place(event) in wanted - {None}]


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
            passed_on = kind if kind in _WHOLE else None
            yield event, kind
        waiting += [(child, passed_on) for child in event.cpu_children]


# ---------------------------------------------------------------- kinds of operators

_COMPILED = re.compile(r"Torch-Compiled Region|CompiledFunction|## Call CompiledFxGraph|graph_\d+_|triton_")
_DEVICE_CALL = re.compile(r"(?:cuda|cu|hip)[A-Z]\w*$")
_NO_OPERATORS = frozenset({"autograd", "torch", "profiler"})
_NAMES: tuple[tuple[Kind, str], ...] = (
    ("attention", r"scaled_dot_product|flash_attention|efficient_attention|multi_head_attention"),
    ("norms", r"(?:.*_)?norm(?:_.*)?$"),
    (
        "matrix_products",
        r"(?:mm|addmm|bmm|baddbmm|addbmm|int_mm|scaled_mm|matmul|linear|mkldnn_linear|mv|addmv|dot|vdot|inner|outer"
        r"|ger|addr|einsum|tensordot|chain_matmul|linalg_multi_dot|linalg_matmul|linalg_vecdot|linear_backward"
        r"|matmul_backward|(?:\w+_)?conv(?:olution|_|\d)\w*)$",
    ),
    (
        "decompositions",
        r"linalg_(?!cross|diagonal|vecdot)|(?:qr|geqrf|orgqr|ormqr|svd|eig|symeig|cholesky|lu_|triangular_solve|pinverse)",
    ),
    (
        "copies_and_casts",
        r"(?:copy|copy_from|to|to_copy|clone|contiguous|cat|stack|hstack|vstack|item|local_scalar_dense|repeat|tile"
        r"|repeat_interleave|roll|flip|constant_pad_nd|pad|pin_memory|to_dense|float|half|type_as)$",
    ),
    (
        "memory",
        r"(?:(?:new_)?(?:empty|zeros|ones|full)(?:_like|_strided)?|resize|resize_output|fill|zero|set|arange|eye"
        r"|linspace|scalar_tensor|lift_fresh)$",
    ),
    (
        "indexing_and_sorting",
        r"index|gather|scatter|take|embedding|masked_|sort|argsort|topk|kthvalue|median|searchsorted|bucketize"
        r"|bincount|histc|unique|nonzero|count_nonzero|one_hot",
    ),
    ("random_numbers", r"rand|normal|uniform|bernoulli|multinomial|dropout|native_dropout|exponential"),
    (
        "reductions",
        r"(?:log_)?softmax|logsumexp|cum(?:sum|prod|max|min)|nll_loss|cross_entropy|(?:max|min|aminmax|amax|amin"
        r"|argmax|argmin|all|any|sum|mean|var|std|var_mean|std_mean|prod)$",
    ),
    ("elementwise", r"tril|triu|foreach_|fake_quantize|quantize|dequantize"),
    ("views", r"unsafe_view$"),
)
"""What the names of a kind's operators begin with, without underscores around them; the first that fits holds."""


@cache
def kind_of(event: str) -> Kind | None:
    """The kind of the operator that an event of the profiler is named after; None where it is no operator."""
    if _COMPILED.match(event):
        return "compiled_code"
    if _DEVICE_CALL.match(event):
        return "device_calls"
    namespace, separator, name = event.partition("::")
    if not separator or namespace in _NO_OPERATORS:
        return None
    stem = name.strip("_")
    for kind, pattern in _NAMES:
        if re.match(pattern, stem):
            return kind
    return _kind_by_torch(namespace, name)


def _kind_by_torch(namespace: str, name: str) -> Kind:
    """What torch itself says of an operator, by tags and by whether it gives a view."""
    packet = getattr(getattr(torch.ops, namespace), name, None)
    if packet is None:
        return "other_operators"
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    tags = {tag for overload in overloads for tag in overload.tags}
    if torch.Tag.pointwise in tags:
        return "elementwise"
    if torch.Tag.nondeterministic_seeded in tags:
        return "random_numbers"
    aliases = [result.alias_info for result in overloads[0]._schema.returns] if overloads else []
    if any(alias is not None and not alias.is_write for alias in aliases):
        return "views"
    return "other_operators"
