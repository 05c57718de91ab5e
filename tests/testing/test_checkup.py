"""Each property is broken by one strategy and by no other; the ways in which results are told."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from compbench import Codec, Compressor, Dense, Payload, Site
from compbench.chain import Chain
from compbench.testing import PROPERTIES, Checkup, check_compressor, parametrize_with_checks
from tests.testing import strategies
from tests.testing.strategies import ALSO_BROKEN, BROKEN, Checkpointing, Hides, Picky, Sound, Unsaved

PROPERTY = {each.name: each for each in PROPERTIES}


def failed(strategy: Compressor) -> dict[str, str]:
    return {result.name: result.message for result in Checkup(strategy) if result.status == "failed"}


def test_every_property_has_a_strategy_that_breaks_it() -> None:
    assert [each.name for each in PROPERTIES] == list(BROKEN)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_strategy_fails_its_own_property_and_no_other(name: str) -> None:
    assert set(failed(BROKEN[name])) == {name}, failed(BROKEN[name])


@pytest.mark.parametrize(("name", "message", "strategy"), ALSO_BROKEN, ids=[f"{n}: {m}" for n, m, _ in ALSO_BROKEN])
def test_every_way_to_break_a_property_is_told_in_words(name: str, message: str, strategy: Compressor) -> None:
    result = Checkup(strategy).result(PROPERTY[name])
    assert result.status == "failed"
    assert message in result.message


@pytest.mark.parametrize(
    "strategy",
    [Sound(), Chain(members=(Sound(), Sound())), Checkpointing(), Chain(members=(Checkpointing(), Sound()))],
    ids=lambda strategy: strategy.name,
)
def test_a_strategy_that_keeps_the_contract_passes(strategy: Compressor) -> None:
    check_compressor(strategy)


@pytest.mark.parametrize("strategy", [Checkpointing(), Chain(members=(Checkpointing(), Checkpointing()))])
def test_a_strategy_on_the_graph_alone_is_trained_with(strategy: Compressor) -> None:
    results = {result.name: result for result in Checkup(strategy)}
    assert results["comes_back"].status == "not applicable"
    assert "leaves site block.mlp/mlp_192 to autograd" in results["comes_back"].message
    trained = ("gradients_are_sound", "saved_bytes_are_alive", "nothing_is_left", "wrap_is_undone")
    assert [results[name].status for name in trained] == ["passed"] * 4


@pytest.mark.parametrize("reading", strategies.READS)
def test_every_way_to_read_values_on_the_host_is_noticed(reading: str) -> None:
    result = Checkup(strategies.Reads(how=reading)).result(PROPERTY["never_waits_for_the_device"])
    assert result.status == "failed"
    assert result.message.startswith("encode() needs a value on the host in the first step (")


@pytest.mark.parametrize("way", ["encode", "end_step", "decode"])
def test_an_exception_is_a_failure_with_its_place(way: str) -> None:
    class Raises(strategies.SoundCodec):
        pass

    def fail(*args: object) -> None:
        raise ZeroDivisionError("so it is")

    class RaisesPayload(strategies.Pairs):
        decode = fail

    if way == "decode":
        Raises.encode = lambda self, rows: RaisesPayload(rows)
    else:
        setattr(Raises, way, fail)

    class RaisesAlways(Sound):
        """Raises."""

        made = Raises

    message = failed(RaisesAlways())["comes_back"]
    assert message.startswith("raised ZeroDivisionError: so it is (test_checkup.py:")


def test_all_failures_are_told_together() -> None:
    class Both(Hides):
        made = type("BothCodec", (strategies.HidesCodec, strategies.TellsTensorsCodec), {})

    with pytest.raises(AssertionError) as caught:
        check_compressor(Both())
    title, *lines = str(caught.value).splitlines()
    assert title == f"strategy 'sound' fails 3 of {len(PROPERTIES)} properties:"
    assert [line.split(":")[0].strip() for line in lines] == [
        "describes_itself",
        "keeps_what_it_declares",
        "statistics_are_numbers",
    ]


def test_properties_that_say_nothing_new_are_left_out_with_the_reason() -> None:
    results = {result.name: result for result in Checkup(BROKEN["keeps_what_it_declares"])}
    assert results["saved_bytes_are_alive"].status == "not applicable"
    assert results["saved_bytes_are_alive"].message == "says nothing as long as keeps_what_it_declares fails"


def test_a_strategy_that_picks_sites_is_checked_at_one_of_its_own() -> None:
    at_mlp = {result.name: result.status for result in Checkup(Picky())}
    at_attention = {result.name: result for result in Checkup(Picky(), site=Site("block.attn", "attn_64", 64))}
    assert at_mlp["comes_back"] == "not applicable"
    assert at_attention["comes_back"].status == "passed"
    check_compressor(Picky(), site=Site("block.attn", "attn_64", 64))


class LateCodec(Codec):
    def __init__(self) -> None:
        self.steps = 0

    def encode(self, rows: Tensor) -> Payload:
        return strategies.Pairs(strategies.means(rows)) if self.steps >= 5 else Dense(rows)

    def end_step(self) -> None:
        self.steps += 1


class Late(Compressor):
    """Keeps rows as they are for five steps."""

    name = "late"

    def codec(self, site: Site, generator: torch.Generator) -> Codec | None:
        return LateCodec()


def test_a_strategy_that_is_late_says_after_how_many_steps_it_is_warm() -> None:
    assert set(failed(Late())) >= {"rows_are_freed"}
    results = {result.name: result for result in Checkup(Late(), warm_steps=6)}
    assert results["rows_are_freed"].status == "passed"


def test_a_class_is_no_strategy() -> None:
    with pytest.raises(TypeError, match=r"the class Sound is no strategy \(allowed: an instance"):
        check_compressor(Sound)


def test_the_global_random_state_and_the_gradient_mode_are_left_alone() -> None:
    before = torch.get_rng_state()
    check_compressor(Sound())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_the_kit_does_not_need_pytest() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "import compbench.testing\n"
        "from compbench.compressor import Compressor\n"
        "from compbench.registry import Registry\n"
        "compbench.testing.check_compressor(Registry.load().compressor('none'))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@parametrize_with_checks([Sound()])
def test_each_property_is_a_test_of_its_own(check) -> None:
    check()


def test_checks_have_readable_names_and_fail_or_skip() -> None:
    checks = {repr(check): check for check in parametrize_with_checks([Unsaved()]).args[1]}
    assert len(checks) == len(PROPERTIES)
    checks["sound-comes_back"]()
    with pytest.raises(
        AssertionError, match=r"A codec that is saved, .* goes on bit-identically: loaded after 1 steps"
    ):
        checks["sound-can_be_saved_and_loaded"]()
    with pytest.raises(pytest.skip.Exception, match="exact is False"):
        checks["sound-exact_is_exact"]()
