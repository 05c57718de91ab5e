"""Autoencoders beat projections where rows lie on a curved manifold, and not where they are linear and Gaussian."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from compbench.analysis.autoencoder import PCA, Schedule, fit, relative_error
from compbench.analysis.linearity import Linearity, contest

SCHEDULE = Schedule(hidden=32, steps=300, rows=128, learning_rate=1e-2)


def parabola(rows: int, seed: int) -> Tensor:
    """One coordinate of freedom, ``(x, x^2 / 2)``, turned into six dimensions."""
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, 1, generator=random) * 4 - 2
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(9)))[0]
    return torch.cat([x, x.square() / 2], dim=1) @ turn[:2]


def gaussian(rows: int, seed: int) -> Tensor:
    """Independent Gaussian coordinates of different variances: PCA is the best there is (principal subspaces)."""
    scales = torch.tensor([3.0, 2.0, 1.0, 0.7, 0.5, 0.3])
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)) * scales


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("rank", [1, 3])
def test_pca_is_numpys_svd(centred, rank):
    rows = gaussian(200, 0) + 2
    X = rows.double().numpy()
    mean = X.mean(axis=0) if centred else 0.0
    U, s, V = np.linalg.svd(X - mean, full_matrices=False)
    expected = (U[:, :rank] * s[:rank]) @ V[:rank] + mean
    assert PCA.fitted(rows, rank, centred).rebuilt(rows).numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["random", "pca"])
def test_an_autoencoder_follows_a_parabola_that_no_line_does(kind):
    fitted = fit(parabola(800, 0), parabola(200, 1), 1, kind, SCHEDULE, seed=0)
    held = parabola(500, 2)
    line = relative_error(held, PCA.fitted(parabola(800, 0), 1, centred=True).rebuilt(held))
    assert fitted.error(held) < 0.5 * line


def test_one_that_begins_as_pca_is_that_pca_and_is_chosen_only_if_it_is_better():
    rows, selection = gaussian(800, 0), gaussian(400, 1)
    untrained = fit(rows, selection, 2, "pca", Schedule(hidden=8, steps=1, learning_rate=1e-12), seed=0)
    projection = PCA.fitted(rows, 2, centred=True)
    assert untrained.model(selection).detach().numpy() == pytest.approx(projection.rebuilt(selection).numpy(), abs=1e-4)
    trained = fit(rows, selection, 2, "pca", SCHEDULE, seed=0)
    assert trained.selection_error <= relative_error(selection, projection.rebuilt(selection)) + 1e-6


def test_the_contest_says_which_of_the_two_it_is():
    options = Linearity(hidden=32, training_steps=300, learning_rate=1e-2, restarts=2)
    gains = {}
    for name, rows in (("curved", parabola), ("linear", gaussian)):
        parts = {"fit": rows(1600, 0), "select": rows(400, 1), "held out": rows(2000, 2)}
        summary, measured = contest(parts, 1 if name == "curved" else 2, options, seed=0)
        gains[name] = summary["gain", ""]
        errors = {row["value"] for row in measured if row["rows"] == "held out"}
        assert len([row for row in measured if row["rows"] == "held out"]) == 2 + 2 * 2
        assert summary["autoencoder_error", ""] in errors
        rival = min(summary["pca_error", ""], summary["centred_pca_error", ""])
        assert summary["gain", ""] == pytest.approx(1 - summary["autoencoder_error", ""] / rival)
    assert gains["curved"] > 0.5
    assert abs(gains["linear"]) < 0.02


def test_two_layers_and_a_fixed_seed_give_the_same_twice_and_leave_torchs_generator_alone():
    schedule = Schedule(hidden=8, layers=2, steps=5, rows=16)
    before = torch.get_rng_state()
    once, again = (fit(parabola(64, 0), parabola(32, 1), 1, "random", schedule, seed=4) for _ in range(2))
    assert once.selection_error == again.selection_error
    assert torch.equal(before, torch.get_rng_state())
    assert sum(isinstance(module, torch.nn.SiLU) for module in once.model.modules()) == 4
