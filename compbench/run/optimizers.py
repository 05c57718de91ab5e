"""The optimisers that a training may have, made of its settings."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from compbench.extras import optional_package
from compbench.run.lean import LeanAdamW, LeanOptimizer
from compbench.suite.cell import Training


def make_optimizer(model: nn.Module, settings: Training) -> Optimizer:
    """The optimiser of a model's parameters, with the settings' peak learning rate.

    Raises:
        SettingsError: the package that has it is not installed.
    """
    if settings.optimizer == "adam_atan2":
        return _adam_atan2(model, settings)
    return LeanAdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )


def check_optimizer(settings: Training) -> None:
    """Whether the optimiser can be made here.

    Raises:
        SettingsError: the package that has it is not installed.
    """
    if settings.optimizer == "adam_atan2":
        _atan2_package()


class _AsTheReference(LeanOptimizer):
    """Has the optimiser that stands behind it in the order of bases step as the reference's package does.

    A step of ``adam-atan2`` 0.0.3, with which the reference Tiny Recursive Model is trained, is, for the ``t``-th
    gradient ``g`` of a parameter ``p``::

        p -= lr * weight_decay * p
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g^2 - v)
        p -= lr / (1 - beta1^t) * atan2(m, sqrt(v / (1 - beta2^t)))

    ``AdamAtan2`` corrects ``m`` within the arctangent, ``a * atan2(m / (1 - beta1^t), b * sqrt(v / (1 - beta2^t)))``:
    with ``a = b = 1`` and ``beta1 = 0.9`` the first step is smaller by a fifth, and late ones are the same. An
    arctangent depends on the ratio of its arguments alone, so that ``a = b = 1 / (1 - beta1^t)`` is the reference's.
    Parameters count their gradients each by itself, and are therefore a group each.
    """

    def step(self, closure: Any = None) -> Any:
        """One step, with the correction of each parameter's own count."""
        for group in self.param_groups:
            (parameter,) = group["params"]
            count = self.state.get(parameter, {}).get("steps", 0) + 1
            group["a"] = group["b"] = 1 / (1 - group["betas"][0] ** count)
        return super().step(closure)


def _adam_atan2(model: nn.Module, settings: Training) -> Optimizer:
    kind: Any = type("AdamATan2", (_AsTheReference, _atan2_package().AdamAtan2), {})
    optimizer: Optimizer = kind(
        [{"params": [parameter]} for parameter in model.parameters()],
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        decoupled_wd=False,  # its decay is decoupled either way; True makes it independent of the peak learning rate
    )
    return optimizer


def _atan2_package() -> Any:
    return optional_package("adam_atan2_pytorch", "atan2", "optimizer 'adam_atan2'")
