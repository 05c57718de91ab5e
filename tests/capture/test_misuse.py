"""What a session is told of that it can't do rightly: each gets an error, or one warning, that says what and where."""

from __future__ import annotations

import re
import threading
import warnings

import pytest
import torch
from torch import Tensor, nn

from compbench.capture import compress
from compbench.compressor import Compressor, Site
from compbench.errors import CaptureError, CaptureWarning, PluginError, SettingsError, UnsupportedError
from tests.capture import zoo
from tests.capture.zoo import session_of


def model_and_batch() -> tuple[nn.Module, Tensor]:
    return zoo.GatedMLP(), torch.randn(40, 32)


def train_step(model: nn.Module, x: Tensor) -> None:
    model(x).square().sum().backward()


@pytest.mark.parametrize("strategy", [zoo.Half(), zoo.Nothing()], ids=lambda strategy: strategy.name)
def test_a_backward_pass_when_its_step_has_ended_names_the_step(strategy: Compressor) -> None:
    model, x = model_and_batch()
    with session_of(model, strategy) as session:
        with session.step():
            train_step(model, x)
        with session.step():
            loss = model(x).square().sum()
            loss.backward(retain_graph=True)
        with pytest.raises(CaptureError, match=r"backward pass of step 1 ran when the step had ended.*session\.step"):
            loss.backward()
    with pytest.raises(CaptureError, match="backward pass of step 1 ran when the step had ended"):
        loss.backward()


def test_a_graph_of_an_earlier_step_may_be_used_in_a_later_one() -> None:
    model, x = model_and_batch()
    with session_of(model, zoo.Half()) as session:
        with session.step():
            loss = model(x).square().sum()
            loss.backward(retain_graph=True)
        once = model.down.weight.grad.clone()
        with session.step():
            (model(x).sum() * 0 + loss).backward()
        torch.testing.assert_close(model.down.weight.grad, 2 * once)


def test_a_step_without_a_backward_pass_names_the_step_and_is_forgotten() -> None:
    model, x = model_and_batch()
    with session_of(model, zoo.Recording()) as session:
        with session.step():
            train_step(model, x)
        with pytest.raises(CaptureError, match=r"step 1 ended without a backward pass: .*loss\.backward\(\)"):
            with session.step():
                model(x)
        codec = zoo.CODECS["/gatedmlp_96"]
        assert (session.steps, codec.steps, codec.discarded) == (1, 1, 1)
        with session.step():
            train_step(model, x)
    assert session.steps == 2


@pytest.mark.filterwarnings("ignore::compbench.errors.CaptureWarning")
def test_a_step_in_which_the_model_never_ran_is_an_error() -> None:
    model, x = nn.Linear(32, 64), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session:
        with pytest.raises(CaptureError, match=r"step 0 ended and the session's model never ran with gradients"):
            with session.step():
                model.forward(x).sum().backward()  # goes past every hook
        with pytest.raises(CaptureError, match="never ran with gradients"), session.step():
            with torch.no_grad():
                model(x)
        with session.step():
            train_step(model, x)


def test_a_step_can_be_skipped_with_its_forward_and_without_its_backward() -> None:
    model, x = model_and_batch()
    with session_of(model, zoo.Recording()) as session:
        with pytest.raises(CaptureError, match="no step is under way"):
            session.skip()
        with session.step():
            train_step(model, x)
        with session.step():
            loss = model(x).sum()
            session.skip()
            del loss
        with session.step():
            session.skip()
        assert (session.steps, zoo.CODECS["/gatedmlp_96"].steps, zoo.CODECS["/gatedmlp_96"].discarded) == (1, 1, 1)
        assert session.saved_bytes == 0


def test_a_model_that_moves_between_steps_is_told_of() -> None:
    model, x = model_and_batch()
    with session_of(model, zoo.Half()) as session:
        with session.step():
            train_step(model, x)
        model.to("meta")
        with pytest.raises(CaptureError, match=r"on cpu in step 0 and is on meta in step 1.*open a session then"):
            with session.step():
                pass


def test_pauses_leave_the_model_plain_and_the_strategy_as_it_was() -> None:
    model, x = model_and_batch()
    session = session_of(model, zoo.Recording())
    with pytest.raises(CaptureError, match="pause needs an open session"), session.paused():
        pass
    with session:
        with session.step():
            train_step(model, x)
            with pytest.raises(CaptureError, match="pause began inside step 0"), session.paused():
                pass
        sites = str(session.sites())
        with session.paused():
            train_step(model, x)  # outside any step, and no error
        assert str(session.sites()) == sites
        with session_of(zoo.GatedMLP(), zoo.Half()):
            with pytest.raises(CaptureError, match="another one that was opened inside it"), session.paused():
                pass
        with session.step():
            train_step(model, x)
        assert zoo.CODECS["/gatedmlp_96"].steps == 2


@pytest.mark.parametrize("gradient", [True, False])
def test_a_forward_pass_in_another_thread_is_refused(gradient: bool) -> None:
    model, x = model_and_batch()
    raised: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with torch.set_grad_enabled(gradient):
                model(x)
        except BaseException as error:
            raised.append(error)

    with session_of(model, zoo.Half()) as session, session.step():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        train_step(model, x)
    assert [type(error) for error in raised] == ([UnsupportedError] if gradient else [])
    assert not gradient or "another thread than the one that opened its session" in str(raised[0])


def test_threads_with_sessions_of_their_own_do_not_disturb_each_other() -> None:
    model, x = model_and_batch()
    model(x).square().sum().backward()
    exact = model.down.weight.grad.clone()
    failures: list[BaseException] = []

    def train() -> None:
        try:
            own = zoo.GatedMLP()
            own.load_state_dict(model.state_dict())
            with session_of(own, zoo.Copy()) as session:
                for _ in range(20):
                    own.zero_grad()
                    with session.step():
                        train_step(own, x)
                    assert torch.equal(own.down.weight.grad, exact)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=train) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_models_whose_activations_do_not_come_as_such_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="module '0' is TorchScript"):
        session_of(nn.Sequential(torch.jit.script(nn.Linear(4, 4))), zoo.Half()).__enter__()

    class FullyShardedDataParallel(nn.Module):
        pass

    with pytest.raises(UnsupportedError, match=r"module '0' has sharded parameters \(FSDP\)"):
        session_of(nn.Sequential(FullyShardedDataParallel()), zoo.Half()).__enter__()
    replicated = nn.DataParallel(zoo.GatedMLP())
    replicated.device_ids = [0, 1]
    with pytest.raises(UnsupportedError, match=r"'DataParallel' is DataParallel.*DistributedDataParallel"):
        session_of(replicated, zoo.Half()).__enter__()


def test_a_function_that_is_compiled_inside_forward_is_refused_by_its_module() -> None:
    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = zoo.GatedMLP()
            self.function = torch.compile(lambda y: (y.sin() * y.cos()).exp(), backend="aot_eager")

        def forward(self, x: Tensor) -> Tensor:
            return self.function(self.inner(x))

    model, x = Compiled(), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session:
        with pytest.raises(UnsupportedError, match=r"the model's own forward runs a function that torch\.compile made"):
            with session.step():
                train_step(model, x)


def test_hooks_of_the_model_in_front_of_the_sessions_are_told_of_once() -> None:
    class Offloads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = zoo.GatedMLP()
            self.outer = zoo.GatedMLP()

        def forward(self, x: Tensor) -> Tensor:
            with torch.autograd.graph.save_on_cpu():
                x = self.inner(x)
            return self.outer(x)

    model, x = Offloads(), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            with session.step():
                train_step(model, x)
    (once,) = told
    assert "module 'inner.gate_up' runs inside saved-tensor hooks of its own (torch.autograd.graph.save_on_cpu" in str(
        once.message
    )
    assert {site.module.split(".")[0] for site in session.sites() if not site.reason} == {"outer"}


class Bends(Compressor):
    """Gives back something else than was encoded."""

    name = "bends"
    how: str

    def codec(self, site: Site, generator: torch.Generator) -> zoo.HalfCodec:
        how = self.how

        class Payload(zoo.HalfPayload):
            def decode(self) -> Tensor:
                rows = super().decode()
                if how == "fails":
                    raise ZeroDivisionError("bent")
                return {"shape": rows[1:], "dtype": rows.double(), "device": rows.to("meta")}[how]

        class Codec(zoo.HalfCodec):
            def encode(self, rows: Tensor) -> Payload:
                return Payload(rows)

        return Codec()


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("shape", r"float32 rows of shape \(39, \d+\) on cpu; .* of shape \(40, \d+\) on cpu were encoded"),
        ("dtype", r"float64 rows of shape \(40, \d+\) on cpu; torch.float32"),
        ("device", r"rows of shape \(40, \d+\) on meta; .* on cpu"),
    ],
)
def test_a_payload_that_decodes_to_something_else_names_strategy_and_site(how: str, what: str) -> None:
    model, x = model_and_batch()
    with session_of(model, Bends(how=how), routes="hooks") as session, pytest.raises(PluginError, match=what) as raised:
        with session.step():
            train_step(model, x)
    assert "strategy 'bends' at site down/down_48" in str(raised.value)


def test_a_strategys_own_errors_carry_strategy_and_site() -> None:
    model, x = model_and_batch()
    with session_of(model, Bends(how="fails")) as session, pytest.raises(ZeroDivisionError) as raised:
        with session.step():
            train_step(model, x)
    assert any("raised by decode(): strategy 'bends' at site " in note for note in raised.value.__notes__)


def test_patterns_choose_sites() -> None:
    model, x = zoo.Recursive(calls=2), torch.randn(4, 9, 32)
    with session_of(model, zoo.Half(), sites=["mlp*", "!width:>=96"], routes="hooks") as session, session.step():
        train_step(model, x)
    compressed = {site.name for site in session.sites() if not site.reason}
    left = {site.name for site in session.sites() if site.reason == "not among the chosen sites"}
    assert compressed
    assert all(name.startswith("mlp") for name in compressed)
    assert {"mlp/mlp_96", "attn/attn_96"} <= left
    assert not any(site.width >= 96 for site in session.sites() if not site.reason)


@pytest.mark.parametrize("inside", ["step", "probe"])
def test_a_pattern_that_matches_nothing_is_an_error_with_the_nearest_sites(inside: str) -> None:
    model, x = zoo.Recursive(calls=2), torch.randn(4, 9, 32)
    with session_of(model, zoo.Recording(), sites=["mpl/*", "attn*"]) as session:
        with pytest.raises(CaptureError, match=r"sites pattern 'mpl/\*' matches none of the \d+ sites; nearest: mlp/"):
            with getattr(session, inside)():
                train_step(model, x)
        assert session.steps == 0


def test_settings_that_are_not_allowed_are_told_as_such() -> None:
    model, _ = model_and_batch()
    with pytest.raises(SettingsError, match="sites pattern 'width:abc' compares with no width"):
        compress(model, "int8", sites=["width:abc"])
    with pytest.raises(SettingsError, match="attention"):
        compress(model, "int8", attention="exact")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="minimum_elements"):
        compress(model, "int8", minimum_elements=0)


def test_a_strategy_that_compresses_nothing_says_so_once() -> None:
    model, x = model_and_batch()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with compress(model, "laser", rank=128, minimum_elements=64) as session:
            for _ in range(3):
                with session.step():
                    train_step(model, x)
    (once,) = told
    assert once.category is CaptureWarning
    assert re.search("'laser' compressed nothing in the first step.*would keep", str(once.message))
    assert once.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for quiet in (compress(model, "none"), compress(model, "identity", minimum_elements=64)):
            with quiet as session, session.step():
                train_step(model, x)


def test_a_state_goes_on_bit_identically_and_only_where_it_belongs() -> None:
    torch.manual_seed(0)
    model = zoo.Recursive(calls=3)
    batches = torch.randn(8, 20, 9, 32)

    def laser(**fields: object) -> object:
        return compress(model, "laser", rank=4, fidelity=0.99, minimum_elements=64, **fields)

    def gradients(session: object, batch: Tensor) -> list[Tensor]:
        model.zero_grad()
        with session.step():
            train_step(model, batch)
        return [parameter.grad.clone() for parameter in model.parameters()]

    with laser() as whole:
        for batch in batches[:5]:
            gradients(whole, batch)
        state = whole.state_dict()
        with whole.step():
            whole.skip()
            with pytest.raises(CaptureError, match="inside step 5"):
                whole.state_dict()
    with laser() as first:
        for batch in batches[:5]:
            gradients(first, batch)
        expected = [gradients(first, batch) for batch in batches[5:]]
    with laser() as second:
        second.load_state_dict(state)
        assert second.steps == 5
        for batch, exact in zip(batches[5:], expected, strict=True):
            for a, b in zip(gradients(second, batch), exact, strict=True):
                assert torch.equal(a, b)
        assert second.statistics() == first.statistics()
        with pytest.raises(CaptureError, match="loaded before the first step, and 8 are done"):
            second.load_state_dict(state)
    with pytest.raises(CaptureError, match="the state is that of seed 0, and this session has 1"):
        laser(seed=1).load_state_dict(state)
    with pytest.raises(CaptureError, match="the state is that of strategy 'laser'"):
        compress(model, "int8", minimum_elements=64).load_state_dict(state)
