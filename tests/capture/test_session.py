"""A session's life: steps, probes, nesting, failures, and what it refuses."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from compbench.compressor import Compressor
from compbench.errors import CaptureError, UnsupportedError
from tests.capture import zoo
from tests.capture.zoo import session_of


def test_an_exception_in_a_step_is_forgotten_and_the_next_step_is_clean() -> None:
    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    session = session_of(model, zoo.Recording())
    with session:
        with pytest.raises(ZeroDivisionError), session.step():
            raise ZeroDivisionError(model(x))
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), session.step():
            model(torch.randn(40, 31))
        codec = zoo.CODECS["/gatedmlp_96"]
        assert (codec.discarded, codec.steps) == (1, 0)
        with session.step():
            model(x).sum().backward()
        assert codec.steps == 1
    assert session.saved_bytes == 0


def test_evaluation_without_gradients_needs_no_step_and_saves_nothing() -> None:
    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session:
        with session.step():
            model(x).sum().backward()
            with torch.no_grad():
                model(x)
        with torch.inference_mode():
            model(x)
    assert {site.calls for site in session.sites() if not site.reason} == {1}


def test_a_forward_with_gradients_outside_a_step_is_an_error() -> None:
    model = zoo.GatedMLP()
    with session_of(model, zoo.Half()), pytest.raises(CaptureError, match=r"session\.step\(\)"):
        model(torch.randn(40, 32))


def test_sessions_are_opened_once_and_steps_do_not_nest() -> None:
    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    session = session_of(model, zoo.Half())
    with pytest.raises(CaptureError, match="open session"), session.step():
        pass
    with session:
        with pytest.raises(CaptureError, match="open already"):
            session.__enter__()
        with session.step():
            with pytest.raises(CaptureError, match="began inside step 0, which has not ended"), session.step():
                pass
            model(x).sum().backward()
    with pytest.raises(CaptureError, match="closed after 1 steps"), session.step():
        pass
    with pytest.raises(CaptureError, match="closed after 1 steps; a session is opened once"):
        session.__enter__()


def test_nested_sessions_each_take_their_own_models_tensors() -> None:
    outer, inner = zoo.GatedMLP(), zoo.GatedMLP(inner=20)
    x = torch.randn(40, 32)
    first, second = session_of(outer, zoo.Half()), session_of(inner, zoo.Half())
    with first, second, first.step(), second.step():
        inner(outer(x)).sum().backward()
    assert "/gatedmlp_96" in {site.name for site in first.sites() if not site.reason}
    assert "/gatedmlp_40" not in {site.name for site in first.sites()}
    assert "/gatedmlp_40" in {site.name for site in second.sites() if not site.reason}
    assert "/gatedmlp_96" not in {site.name for site in second.sites()}


def test_a_probe_leaves_codecs_and_streams_as_they_were() -> None:
    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    session = session_of(model, zoo.Recording())
    with session:
        with session.probe():
            model(x).sum().backward()
        assert session.sites() == []
        with session.step():
            model(x).sum().backward()
        codec = zoo.CODECS["/gatedmlp_96"]
        with session.probe():
            model(x).sum().backward()
    assert (codec.steps, codec.discarded) == (1, 1)


@pytest.mark.parametrize("strategy", [zoo.Keep(), zoo.Nothing(), zoo.Half()], ids=["keep", "nothing", "half"])
def test_changes_in_place_between_save_and_use_are_found(strategy: Compressor) -> None:
    class Squares(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = x * 2
            return y, y.square()

    model = Squares()
    with session_of(model, strategy) as session, session.step():
        y, z = model(torch.randn(40, 32, requires_grad=True))
        with torch.no_grad():
            y.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_regions_compress_their_inputs_alone(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = zoo.Recursive(calls=1)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = checkpoint(self.block, x, use_reentrant=reentrant)
            return x

    model = Checkpointed()
    x = torch.randn(4, 9, 32, requires_grad=True)
    model(x * 1).square().mean().backward()
    exact = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with session_of(model, zoo.Half()) as session, session.step():
        model(x * 1).square().mean().backward()
    for a, b in zip(exact, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=1e-4)
    assert not any("attn" in site.name or "mlp" in site.name for site in session.sites() if not site.reason)


def test_compiled_models_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"torch\.compile"):
        session_of(torch.compile(zoo.GatedMLP()), zoo.Half()).__enter__()
    model = zoo.GatedMLP()
    model.down.compile()
    with pytest.raises(UnsupportedError, match="'down' is compiled"):
        session_of(model, zoo.Half()).__enter__()


def test_deep_copies_of_the_model_made_inside_a_session_carry_nothing_of_it() -> None:
    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session, session.step():
        model(x).sum().backward()
        average = copy.deepcopy(model)
    assert not average._forward_hooks
    assert not average._forward_pre_hooks


def test_failed_steps_and_probes_leave_what_later_steps_decide_by() -> None:
    class Shares(Compressor):
        """Pays only where a site has several calls."""

        name = "shares"

        def codec(self, site, generator):
            class SharesCodec(zoo.HalfCodec):
                def kept_bytes(self, rows: int, calls: int, itemsize: int) -> int:
                    return rows * site.width * itemsize + 1

            return SharesCodec()

    model, x = zoo.Recursive(calls=4), torch.randn(4, 9, 32)
    session = session_of(model, Shares())

    def step() -> list[tuple[str, int, str]]:
        with session.step():
            model(x).square().mean().backward()
        return [(site.name, site.kept_bytes, site.reason) for site in session.sites()]

    with session:
        step()
        steady = step()
        with pytest.raises(ZeroDivisionError), session.step():
            raise ZeroDivisionError(model(x).mean())
        assert step() == steady
        model.calls = 1
        with session.probe():
            model(x).square().mean().backward()
        model.calls = 4
        assert [(site.name, site.kept_bytes, site.reason) for site in session.sites()] == steady
        assert step() == steady


def test_an_interrupted_forward_is_forgotten_by_the_next_step() -> None:
    class Interrupted(zoo.GatedMLP):
        stop = True

        def forward(self, x: Tensor) -> Tensor:
            if self.stop:
                raise KeyboardInterrupt
            return super().forward(x)

    model, x = Interrupted(), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session:
        with pytest.raises(KeyboardInterrupt), session.step():
            model(x)
        model.stop = False
        with session.step():
            model(x).exp().sum().backward()
    assert "/loss_32" in {site.name for site in session.sites()}


def test_a_model_and_its_session_are_freed_at_once() -> None:
    model, x = zoo.GatedMLP(), torch.randn(40, 32)
    with session_of(model, zoo.Half()) as session, session.step():
        model(x).sum().backward()
    alive = [weakref.ref(model), weakref.ref(session)]
    gc.disable()
    try:
        del model, session
        assert [reference() for reference in alive] == [None, None]
    finally:
        gc.enable()
