"""Floating-point operations against closed forms, and those that strategies add or don't."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compbench import Batch
from compbench.capture import CaptureSettings, Session
from compbench.measure.arithmetic import UNKNOWN_TO_TORCH, count_flops, measure_arithmetic
from compbench.measure.step import Step
from compbench.registry import Registry
from compbench.workloads.trm_maze import TRMMaze
from tests.capture import zoo
from tests.measure.test_passes import Tied, session_of

N, WIDTHS = 48, (64, 96, 32)


class Layers(Tied):
    """Linear layers, one after the other."""

    name = "layers"

    def build(self, generator: torch.Generator) -> nn.Module:
        pairs = pairwise(WIDTHS)
        return nn.Sequential(*(nn.Linear(d, m, bias=False) for d, m in pairs))


def parts(workload: Tied | TRMMaze, rows: int) -> tuple[Step, Batch]:
    torch.manual_seed(0)
    step = Step(workload, workload.build(torch.Generator().manual_seed(0)), torch.device("cpu"))
    return step, step.batch(workload.data(0).train, slice(rows))


def maze(**fields: object) -> tuple[Step, Batch]:
    settings = {"grid": 7, "hidden": 64, "heads": 2, "inner": 96, "train_mazes": 64, "validation_mazes": 32} | fields
    return parts(TRMMaze(**settings).at_depth(3), 8)


def trained(step: Step, batch: Batch, name: str, settings: CaptureSettings | None = None, **fields: object) -> Session:
    return Session(step.model, Registry.load().compressor(name, **fields), settings or CaptureSettings())


def test_a_linear_layers_products_are_those_of_the_closed_form() -> None:
    step, batch = parts(Layers(), N)
    found = count_flops(step, None, batch)
    first, second = (2 * N * d * m for d, m in pairwise(WIDTHS))
    # Forward; then two products of the same size for each layer, but that nobody needs the first one's input gradient.
    assert found.forward == first + second
    assert found.backward == first + 2 * second
    assert (found.update, found.total) == (0, 2 * first + 3 * second)
    batch["x"].requires_grad_()
    assert count_flops(step, None, batch).total == 3 * (first + second)


def test_attention_on_a_cpu_is_counted() -> None:
    step, batch = maze()
    settings = step.workload
    rows, hidden, inner, depth = 8 * settings.grid**2, settings.hidden, settings.inner, 3
    products = depth * 2 * rows * (3 * hidden**2 + hidden**2 + 3 * inner * hidden)
    head = 2 * rows * hidden * (count_flops(step, None, batch).forward > 0) * step.model.head.weight.shape[0]
    attention = depth * 2 * 2 * rows * settings.grid**2 * hidden
    assert count_flops(step, None, batch).forward == products + head + attention


def test_a_model_without_a_strategy_is_counted_once_and_has_ratio_one() -> None:
    step, batch = parts(Layers(), N)
    found = measure_arithmetic(step, None, batch)
    assert found.flops is found.uncompressed_flops
    assert found.ratio == 1
    assert all(p.grad is None for p in step.model.parameters())


def test_a_model_without_products_has_no_ratio() -> None:
    class Scales(Layers):
        name = "scales"

        def build(self, generator: torch.Generator) -> nn.Module:
            return nn.RMSNorm(64)

    step, batch = parts(Scales(), N)
    assert measure_arithmetic(step, None, batch).ratio is None


def test_checkpointing_adds_one_forward_of_what_it_wraps() -> None:
    step, batch = maze()
    with trained(step, batch, "checkpoint") as session:
        found = measure_arithmetic(step, session, batch)
    head = 2 * 8 * step.workload.grid**2 * step.model.head.weight.numel()  # outside of what is checkpointed
    assert found.flops.forward == found.uncompressed_flops.forward
    assert found.flops.backward == found.uncompressed_flops.backward + found.uncompressed_flops.forward - head


def test_quantising_adds_nothing_but_the_attention_that_is_computed_again() -> None:
    step, batch = maze()
    with trained(step, batch, "int8", CaptureSettings(attention="raw")) as session:
        assert measure_arithmetic(step, session, batch).ratio == 1
    step, batch = maze()
    with trained(step, batch, "int8") as session:
        found = measure_arithmetic(step, session, batch)
    attention = 3 * 2 * 2 * 8 * step.workload.grid**4 * step.workload.hidden
    assert found.flops.total - found.uncompressed_flops.total == attention


def test_projections_are_counted_where_they_happen() -> None:
    rank = 8

    class Projects(zoo.Copy):
        """Products in each phase: N x D by D x k, its way back, and a D x D at the end of the step."""

        name = "projects"

        def codec(self, site, generator):
            basis = torch.eye(site.width)[:, :rank]

            class Payload(zoo.Dense):
                def decode(self) -> Tensor:
                    return super().decode() @ basis.T

            class Codec(zoo.CopyCodec):
                def encode(self, rows: Tensor) -> zoo.Dense:
                    return Payload((rows @ basis).detach())

                @torch.no_grad()
                def end_step(self) -> None:
                    basis @ basis.T

            return Codec()

    step, batch = parts(Layers(), N)
    batch["x"].requires_grad_()
    with session_of(step, Projects()) as session:
        found = measure_arithmetic(step, session, batch)
        widths = [site.width for site in session.sites() if not site.reason]
    more = [getattr(found.flops, p) - getattr(found.uncompressed_flops, p) for p in ("forward", "backward", "update")]
    assert widths
    one_way = sum(2 * N * width * rank for width in widths)
    assert more == [one_way, one_way, sum(2 * width * width * rank for width in widths)]


@pytest.mark.parametrize("product", ["matrix by vector", "added", "whole numbers"])
def test_products_that_torch_does_not_count_are(product: str) -> None:
    class Adds(zoo.Copy):
        name = "adds"

        def codec(self, site, generator):
            class Codec(zoo.CopyCodec):
                def end_step(self) -> None:
                    if product == "matrix by vector":
                        torch.ones(30, 20) @ torch.ones(20)
                    elif product == "added":
                        torch.addmv(torch.ones(30), torch.ones(30, 20), torch.ones(20))
                    else:
                        torch._int_mm(torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 24, dtype=torch.int8))

            return Codec()

    step, batch = parts(Layers(), N)
    with session_of(step, Adds()) as session:
        found = measure_arithmetic(step, session, batch)
        sites = sum(1 for site in session.sites() if not site.reason)
    assert sites > 0
    assert found.flops.update == sites * (2 * 32 * 16 * 24 if product == "whole numbers" else 2 * 30 * 20)


def test_a_product_that_is_added_in_place_is_counted() -> None:
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH) as counter:
        torch.zeros(3, 5).addmm_(torch.ones(3, 7), torch.ones(7, 5))
    assert counter.get_total_flops() == 2 * 3 * 7 * 5
