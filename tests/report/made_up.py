"""Made-up results: cells that nobody ran, with figures that a test can work out by hand."""

from compbench.measure.results import Arithmetic, Fidelity, Flops, Memory, Phase, Time
from compbench.report.outcome import Outcome
from compbench.run.machine import Machine
from compbench.run.result import CellResult
from compbench.run.store import Store, SuiteRecord
from compbench.suite.cell import Cell, PluginReference, Training

MACHINE = Machine(
    cpu="Imaginary 9000",
    cores=2,
    memory_bytes=8_000_000_000,
    os="Linux",
    glibc="2.36",
    python="CPython 3.11.7",
    torch="2.13.0",
    compbench="0.1.0",
)


def cell(arm="laser", depth=4, seed=0, strategy=None, **fields) -> Cell:
    names = strategy or (arm,)
    return Cell(
        suite="made_up",
        arm=arm,
        depth=depth,
        seed=seed,
        workload=fields.pop("workload", PluginReference(name="trm_maze", fields={"hidden": 64})),
        strategy=tuple(PluginReference(name=name) for name in names),
        training=fields.pop("training", Training(steps=20)),
        **fields,
    )


def result(arm="laser", depth=4, seed=0, *, saved=250_000, peak=300_000, phase="backward", ratio=1.5, cosine=0.9, **f):
    """A record; fields of it or of its cell may be given, and with a ``status`` other than ok it has no figures."""
    of_record = {name: f.pop(name) for name in list(f) if name in CellResult.model_fields}
    made = cell(arm, depth, seed, **f)
    figures = {
        "status": "ok",
        "machine": MACHINE.hash,
        "started_at": f"2026-01-0{1 + seed % 9}T03:04:05+00:00",
        "seconds": 30.0,
        "weights_hash": f"weights {depth} {seed}",
        "order_hash": f"order {depth} {seed}",
        "metrics": {"token_accuracy": 0.9, "solved": 0.5},
        "memory": memory(saved, peak, phase),
        "time": time(ratio),
        "fidelity": Fidelity(gradient_cosine_start=0.8, gradient_cosine=cosine, smallest_parameter_cosine=0.5),
    }
    if of_record.get("status", "ok") != "ok":
        figures |= {"metrics": {}, "memory": None, "time": None, "fidelity": None}
    return CellResult(key=made.key, cell=made, **(figures | of_record))


def memory(saved=250_000, peak=300_000, phase="backward") -> Memory:
    return Memory(
        saved_bytes=saved,
        uncompressed_bytes=1_000_000,
        training_peak_saved_bytes=saved,
        state_bytes=0,
        peak_delta_bytes=peak,
        uncompressed_peak_delta_bytes=1_200_000,
        peak_phase=phase,
        process_peak_bytes=10**8,
    )


def time(ratio) -> Time:
    return Time(
        ratio=ratio,
        ratio_quartiles=(ratio, ratio),
        pairs=5,
        step_seconds=0.1,
        uncompressed_step_seconds=0.1,
        threads=1,
        allocator="glibc.malloc.trim_threshold=1",
    )


def phased(seconds=(0.2, 0.3, 0.01), plain=(0.1, 0.2), faults=(20, 300)) -> Time:
    """A time with phases, of one pair."""
    phases = {
        "forward": Phase(seconds=seconds[0], uncompressed_seconds=plain[0], ratio=seconds[0] / plain[0]),
        "backward": Phase(seconds=seconds[1], uncompressed_seconds=plain[1], ratio=seconds[1] / plain[1]),
        "update": Phase(seconds=seconds[2], uncompressed_seconds=0.0),
    }
    update = {
        "step_seconds": sum(seconds),
        "uncompressed_step_seconds": sum(plain),
        "phases": phases,
        "page_faults": faults[0],
        "uncompressed_page_faults": faults[1],
    }
    return time(sum(seconds) / sum(plain)).model_copy(update=update)


def arithmetic(flops=(3_000_000_000, 6_000_000_000, 200_000_000), plain=(2_000_000_000, 4_000_000_000)) -> Arithmetic:
    """Operations of a step and of a plain one, by phase."""
    return Arithmetic(
        flops=Flops(forward=flops[0], backward=flops[1], update=flops[2]),
        uncompressed_flops=Flops(forward=plain[0], backward=plain[1], update=0),
    )


def outcome(results, margins=None, missing=(), **fields) -> Outcome:
    """The outcome of a suite whose planned cells are the given ones, in that order, and then ``missing``."""
    records = {made.key: made for made in results}
    keys = [*records, *(made.key for made in missing)]
    settings = {
        "name": "made_up",
        "description": "Nobody ran this.",
        "command": "compbench run made_up",
        "machines": {MACHINE.hash: MACHINE},
    }
    return Outcome(margins=margins or {}, keys=keys, results=records, **(settings | fields))


def scores(arm, values, metric="solved", **fields):
    """One record a seed, with these values of a metric."""
    return [result(arm, seed=seed, metrics={metric: value}, **fields) for seed, value in enumerate(values)]


def write(folder, made: Outcome):
    """Puts an outcome into a store, and returns the suite's folder and record."""
    store = Store.create(folder, made.name)
    for record in made.results.values():
        store.save(record)
    for machine in made.machines.values():
        store.save_machine(machine)
    suite = SuiteRecord(
        name=made.name,
        description=made.description,
        margins=dict(made.margins),
        lower_is_better=sorted(made.lower_is_better),
        keys=list(made.keys),
        command=made.command,
    )
    store.save_suite(suite)
    return store.directory, suite
