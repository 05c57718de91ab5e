"""The optimisers of a training step as their sources say, formulas written out here in NumPy."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from compbench.errors import SettingsError
from compbench.run.optimizers import check_optimizer, make_optimizer
from compbench.suite.cell import Training

RATES = [1e-3, 4e-3, 2e-3, 0.0, 3e-3, 1e-3, 5e-4]


class Formula:
    """What the package ``adam-atan2`` computes in its kernel: its constants are written as they are there."""

    def __init__(self, parameter: NDArray[np.float64], settings: Training) -> None:
        self.parameter, self.settings = parameter.copy(), settings
        self.m, self.v, self.count = np.zeros_like(parameter), np.zeros_like(parameter), 0

    def step(self, gradient: NDArray[np.float64], rate: float) -> None:
        beta1, beta2 = self.settings.betas
        self.count += 1
        self.parameter = self.parameter * (1 - rate * self.settings.weight_decay)
        self.m = beta1 * self.m + (1 - beta1) * gradient
        self.v = beta2 * self.v + (1 - beta2) * gradient**2
        denominator = np.sqrt(self.v) / math.sqrt(1 - beta2**self.count)
        self.parameter -= rate / (1 - beta1**self.count) * np.arctan2(self.m, denominator)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()


@pytest.mark.parametrize("weight_decay", [0.0, 1.0])
@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.0, 0.5)])
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 3e-7)])
def test_adam_atan2_is_the_references(
    dtype: torch.dtype, tolerance: float, steps: int, betas: tuple[float, float], weight_decay: float
) -> None:
    settings = Training(optimizer="adam_atan2", betas=betas, weight_decay=weight_decay, learning_rate=7e-4)
    trained = model().to(dtype)
    optimizer = make_optimizer(trained, settings)
    parameters = list(trained.parameters())
    formulas = [Formula(parameter.detach().double().numpy(), settings) for parameter in parameters]
    draw = np.random.default_rng(1)
    for step, rate in enumerate(RATES[:steps]):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for index, (parameter, formula) in enumerate(zip(parameters, formulas, strict=True)):
            # Of all sizes, some zero; one parameter is left out now and then, and counts its own steps.
            gradient = draw.normal(size=parameter.shape) * 10.0 ** draw.integers(-12, 3, size=parameter.shape)
            gradient[0] = 0
            left_out = index == 1 and step % 3 == 1
            parameter.grad = None if left_out else torch.from_numpy(gradient).to(dtype)
            if not left_out:
                formula.step(gradient, rate)
        optimizer.step()
        for parameter, formula in zip(parameters, formulas, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), formula.parameter, rtol=0, atol=tolerance)


def test_it_is_blind_to_the_gradients_scale() -> None:
    ends = []
    for scale in (1.0, 2.0**-40):
        trained = model()
        optimizer = make_optimizer(trained, Training(optimizer="adam_atan2"))
        draw = torch.Generator().manual_seed(2)
        for _ in range(5):
            for parameter in trained.parameters():
                parameter.grad = scale * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            optimizer.step()
        ends.append([parameter.detach() for parameter in trained.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_a_rate_of_zero_leaves_the_weights() -> None:
    trained = model()
    optimizer = make_optimizer(trained, Training(optimizer="adam_atan2", weight_decay=1.0))
    before = [parameter.detach().clone() for parameter in trained.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for _ in range(3):
        trained(torch.ones(5, 4, dtype=torch.float64)).sum().backward()
        optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(before, trained.parameters(), strict=True))


def test_without_its_package_there_is_one_sentence_and_adamw_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adam_atan2_pytorch", None)  # as if it were not installed
    check_optimizer(Training())
    assert isinstance(make_optimizer(model(), Training()), torch.optim.AdamW)
    sentence = (
        "optimizer 'adam_atan2' needs the package 'adam_atan2_pytorch', which is not installed: "
        "pip install 'compbench[atan2]'"
    )
    asked = Training(optimizer="adam_atan2")
    for ask in (lambda: check_optimizer(asked), lambda: make_optimizer(model(), asked)):
        with pytest.raises(SettingsError) as raised:
            ask()
        assert str(raised.value) == sentence
