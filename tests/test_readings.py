"""What codecs ask of the device: nothing in forward and backward passes, and all of it at once when a step ends."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from compbench_plugins.int8 import Int8
from compbench_plugins.lance import Lance
from compbench_plugins.laser import Laser
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import compbench
from compbench import Chain, Codec, Compressor, Dense, Payload, Session, Site
from compbench.by_site import BySite
from compbench.capture.settings import CaptureSettings
from compbench.measure.step import Step
from compbench.readings import on_host, read_together
from compbench.registry import Registry
from compbench.seeds import generator
from compbench.workloads.trm_maze import TRMMaze

# ---------------------------------------------------------------- numbers on their way


def test_numbers_come_back_by_group_whatever_their_dtype_and_shape() -> None:
    groups = [
        [torch.tensor(0.1), torch.tensor([2**40 + 1, -3])],
        [],
        [torch.tensor([[1.5, 2.5], [3.5, 4.5]], dtype=torch.bfloat16), torch.tensor(True), torch.zeros(0)],
        [torch.tensor(0.1, dtype=torch.float64), torch.tensor(1e-45), torch.tensor(2**24 + 1)],
    ]
    expected = [[each for tensor in group for each in tensor.flatten().tolist()] for group in groups]
    assert on_host(groups) == expected
    assert on_host([]) == []
    assert on_host([[], []]) == [[], []]


def test_what_is_not_finite_comes_back_as_it_is() -> None:
    ((nan, most, least),) = on_host([[torch.tensor([torch.nan, torch.inf, -torch.inf])]])
    assert math.isnan(nan)
    assert (most, least) == (math.inf, -math.inf)


class AskingCodec(Codec):
    """Notes what it read in each step."""

    def __init__(self, *readings: float) -> None:
        self.asks = [torch.tensor(reading) for reading in readings]
        self.asked = 0
        self.told: list[list[float]] = []

    def encode(self, rows: Tensor) -> Payload:
        return Dense(rows)

    def readings(self) -> Iterable[Tensor]:
        self.asked += 1
        return self.asks

    def end_step(self) -> None:
        self.told.append(self.read())


class OuterCodec(AskingCodec):
    """Holds another codec."""

    def __init__(self, held: AskingCodec, *readings: float) -> None:
        super().__init__(*readings)
        self.held = held

    def inner(self) -> Iterable[Codec]:
        return (self.held,)

    def end_step(self) -> None:
        super().end_step()
        self.held.end_step()


def test_codecs_that_are_read_together_are_asked_once_and_forget_it() -> None:
    first, second, held = AskingCodec(1.0, 2.0), AskingCodec(), AskingCodec(3.0)
    outer = OuterCodec(held, 4.0)
    codecs = (first, second, outer)
    with read_together([("", codec) for codec in codecs]):
        for codec in codecs:
            codec.end_step()
    assert [codec.told for codec in (first, second, outer, held)] == [[[1.0, 2.0]], [[]], [[4.0]], [[3.0]]]
    assert [codec.asked for codec in (first, second, outer, held)] == [1, 1, 1, 1]
    before = vars(AskingCodec()).keys()
    assert vars(first).keys() == before
    first.asks = [torch.tensor(5.0)]
    first.end_step()  # by itself
    assert first.told[-1] == [5.0]


def test_nothing_is_left_of_answers_when_a_step_fails() -> None:
    codec = AskingCodec(1.0)
    with pytest.raises(ZeroDivisionError), read_together([("", codec)]):
        raise ZeroDivisionError
    codec.asks = [torch.tensor(2.0)]
    codec.end_step()
    assert codec.told == [[2.0]]


def test_an_error_in_readings_says_whose_it_is() -> None:
    class Fails(Compressor):
        name = "fails"

        def codec(self, site: Site, generator: torch.Generator) -> Codec:
            codec = AskingCodec()
            codec.asks = [0.5]  # type: ignore[list-item]
            return codec

    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
    with pytest.raises(TypeError, match=r"0.5, a float \(allowed: tensors\)") as raised:
        with compbench.compress(model, Fails()) as session, session.step():
            model(torch.randn(64, 64)).sum().backward()
    (note,) = raised.value.__notes__
    assert note.startswith("raised by readings(): ")
    assert "fails" in note


# ---------------------------------------------------------------- whole steps

ASKING = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__"}
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"}
DECOMPOSING = {"_linalg_eigh", "_linalg_svd"}
"""Operators for which a device's results must be there; decompositions look by themselves whether they succeeded."""

OF_TORCH = {"oracle_svd", "hosvd"}
"""Strategies that decompose in the forward pass by torch's ``eigh``, which waits for a device by itself."""


class Asked(TorchDispatchMode):
    """Counts the values that were asked for on the host, by calls on tensors and by operators below them."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._calls = _Calls(self.counts)

    def __enter__(self) -> Asked:
        self._calls.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._calls.__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITING | DECOMPOSING or by_mask:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ASKING or (name == "to" and "cpu" in [*args[1:], *(kwargs or {}).values()]):
            self._counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("ask", "counted"),
    [
        (lambda x: x.sum().item(), {"item": 1, "_local_scalar_dense": 1}),
        (lambda x: x.tolist(), {"tolist": 1}),
        (lambda x: 1 if x.any() else 0, {"__bool__": 1, "_local_scalar_dense": 1}),
        (lambda x: x[x > 0], {"index": 1}),
        (lambda x: x.cpu(), {"cpu": 1}),
        (lambda x: torch.linalg.eigh(x), {"_linalg_eigh": 1}),
        (lambda x: torch.linalg.qr(x), {}),
        (lambda x: (x @ x)[:2].softmax(0), {}),
    ],
)
def test_the_count_sees_every_way_to_ask(ask: Callable[[Tensor], object], counted: dict[str, int]) -> None:
    with Asked() as asked:
        ask(torch.eye(3))
    assert asked.counts == counted


def recursive_model() -> tuple[Step, Any]:
    """A recursive model with attention, and a batch."""
    workload = TRMMaze(grid=7, hidden=64, heads=2, inner=192, train_mazes=64, validation_mazes=32).at_depth(2)
    step = Step(workload, workload.build(generator(0, "initialisation")), torch.device("cpu"), "fp32")
    return step, step.batch(workload.data(0).train, slice(8))


def shipped(*left_out: str) -> dict[str, Compressor]:
    """The strategies that ship, at small ranks."""
    registry = Registry.load()
    found: dict[str, Compressor] = {}
    for name, plugin in registry.compressors.items():
        fields = plugin.record.model_fields
        if plugin.record.__module__.startswith("compbench_plugins.") and name not in left_out:
            given = {"rank": 8, "max_rank": 16, "sequence_length": 49, "quiet": True}
            found[name] = registry.compressor(name, **{field: given[field] for field in given if field in fields})
    return found


# What is compiled runs without dispatch modes.
SHIPPED = shipped("memory_budget")
LOW_RANK: dict[str, Compressor] = {
    **{
        name: SHIPPED[name]
        for name in "laser lance gale loract asi hosvd past oracle_svd lance_tucker velora".split()  # noqa: SIM905
    },
    "laser with a basis per call": Laser(rank=8, basis="per_call"),
    "laser in three iterations": Laser(rank=8, iterations=3),
    "laser that grows": Laser(rank=8, fidelity=0.999, growth="deficit", expansion_rows="residual"),
    "laser+int8": Chain(members=(Laser(rank=8), Int8())),
    "lance+laser+int8": Chain(members=(Lance(rank=16), Laser(rank=8), Int8())),
    "by site": BySite(choices=(("*", Laser(rank=8)), ("*.mlp", Lance(rank=4)))),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_is_asked_in_forward_and_backward_passes(name: str) -> None:
    step, batch = recursive_model()
    session = Session(step.model, SHIPPED[name], CaptureSettings())
    with session:
        for number in range(4):
            with session.step():
                with Asked() as asked:
                    step.loss(batch).backward()
                calibrates = name == "auto" and number == 0
                if name in OF_TORCH:
                    assert set(asked.counts) <= DECOMPOSING
                elif not calibrates:
                    assert asked.counts == {}, number


@pytest.mark.parametrize("name", LOW_RANK)
def test_all_sites_of_a_low_rank_strategy_are_read_by_one_transfer_a_step(name: str) -> None:
    step, batch = recursive_model()
    session = Session(step.model, LOW_RANK[name], CaptureSettings())
    transfers = []
    with session:
        for _ in range(5):
            with session.step():
                step.loss(batch).backward()
                asked = Asked().__enter__()
            asked.__exit__(None, None, None)
            calibrates = name == "lance_tucker" and not transfers  # which looks at its eigenvalues for a rank
            assert calibrates or set(asked.counts) <= {"tolist"} | DECOMPOSING
            transfers.append(asked.counts["tolist"])
        assert sum(not report.reason for report in session.sites()) > 3
    # Of strategies that take norms for their fidelity alone, one step of ten is read, and that of a calibration.
    expected = {
        **{name: [1, 0, 0, 0, 0] for name in ("gale", "loract", "velora")},
        **{name: [1, 1, 0, 0, 0] for name in ("lance", "lance_tucker")},
    }
    assert transfers == expected.get(name, [1] * 5)


def test_a_codec_that_auto_has_chosen_is_read_with_the_others() -> None:
    step, batch = recursive_model()
    auto = Registry.load().compressor(
        "auto", candidates=[{"laser": {"rank": 4}}], saved=0.5, recompute="none", quiet=True
    )
    with Session(step.model, auto, CaptureSettings()) as session:
        for number in range(3):
            with session.step():
                step.loss(batch).backward()
                asked = Asked().__enter__()
            asked.__exit__(None, None, None)
            if number:
                assert asked.counts == {"tolist": 1}
        assert any(name.startswith("fidelity") for name in session.statistics())
