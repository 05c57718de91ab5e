"""The recursive model against a NumPy reference, and the properties that its parts must have."""

import math

import numpy as np
import pytest
import torch

from compbench.workloads import trm

SMALL = {
    "vocabulary": 5,
    "positions": 9,
    "hidden": 16,
    "heads": 2,
    "inner": 24,
    "layers": 1,
    "theta": 1e4,
    "h_cycles": 1,
    "l_cycles": 3,
}


def build(seed=0, **changes):
    settings = {**SMALL, "gradient": "all", **changes}
    return trm.TinyRecursiveModel(**settings, generator=torch.Generator().manual_seed(seed))


def tokens(batch=4, seed=1):
    return torch.randint(0, 5, (batch, SMALL["positions"]), generator=torch.Generator().manual_seed(seed))


def saved_tensors(model, x):
    """The number of tensors that autograd keeps, and the output."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape), lambda _: None):
        output = model(x)
    return len(kept), output


def numpy_block(x, block, heads, theta):
    """One block in float64, head by head and position by position, written from the paper's formulas."""
    qkv, out, gate_up, down = (
        layer.weight.detach().double().numpy()
        for layer in (block.attn.qkv, block.attn.out, block.mlp.gate_up, block.mlp.down)
    )
    length, hidden = x.shape
    width = hidden // heads

    def norm(rows):
        return rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5)

    def rotate(head):
        turned = np.empty_like(head)
        for position in range(length):
            for i in range(width // 2):
                angle = position * theta ** (-2 * i / width)
                a, b = head[position, i], head[position, i + width // 2]
                turned[position, i] = a * math.cos(angle) - b * math.sin(angle)
                turned[position, i + width // 2] = b * math.cos(angle) + a * math.sin(angle)
        return turned

    q, k, v = np.split(x @ qkv.T, 3, axis=1)
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = np.exp(rotate(q[:, part]) @ rotate(k[:, part]).T / math.sqrt(width))
        mixed.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, part])
    x = norm(x + np.concatenate(mixed, axis=1) @ out.T)
    gate, up = np.split(x @ gate_up.T, 2, axis=1)
    return norm(x + (gate / (1 + np.exp(-gate)) * up) @ down.T)


def test_block_equals_a_numpy_reference():
    block = build().block
    x = torch.randn(3, SMALL["positions"], SMALL["hidden"], generator=torch.Generator().manual_seed(2))
    expected = np.stack([numpy_block(example.double().numpy(), block, SMALL["heads"], SMALL["theta"]) for example in x])
    np.testing.assert_allclose(block(x).detach().numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(("h_cycles", "l_cycles", "layers"), [(1, 3, 1), (2, 2, 1), (2, 1, 2)])
def test_recursion_equals_its_written_out_schedule(h_cycles, l_cycles, layers):
    model = build(h_cycles=h_cycles, l_cycles=l_cycles, layers=layers)
    x = model.embedding.weight[tokens()] * math.sqrt(SMALL["hidden"])
    z_H, z_L = model.z_H.expand_as(x), model.z_L.expand_as(x)
    for call in range(1, h_cycles * (l_cycles + 1) + 1):
        if call % (l_cycles + 1):
            z_L = model.block(z_L + z_H + x)
        else:
            z_H = model.block(z_H + z_L)
    torch.testing.assert_close(model(tokens()), z_H @ model.head.weight.T)


@pytest.mark.parametrize("layers", [1, 3])
def test_block_is_called_once_a_recursion_call(layers):
    model = build(layers=layers, h_cycles=2, l_cycles=3)
    calls = []
    model.get_submodule("block").register_forward_hook(lambda *_: calls.append(1))
    model(tokens())
    assert len(calls) == 8


def test_laser_profile_has_3407872_parameters_in_the_block():
    model = build(hidden=512, heads=8, inner=trm.inner_width(512, 4.0), positions=4)
    assert sum(p.numel() for p in model.block.parameters()) == 3_407_872
    assert sum(p.numel() for p in model.parameters()) == 3_407_872 + 2 * 5 * 512


def test_one_layer_gives_the_module_paths_that_sites_are_named_after():
    assert [name for name, _ in build().named_parameters()] == [
        "embedding.weight",
        "block.attn.qkv.weight",
        "block.attn.out.weight",
        "block.mlp.gate_up.weight",
        "block.mlp.down.weight",
        "head.weight",
    ]
    assert "block.1.mlp.down.weight" in dict(build(layers=2).named_parameters())


@pytest.mark.parametrize(
    ("hidden", "expansion", "inner"),
    [(512, 4.0, 1536), (384, 4.0, 1024), (64, 4.0, 256), (256, 4.0, 768), (512, 3.0, 1024)],
)
def test_inner_width_is_rounded_up_to_a_multiple_of_256(hidden, expansion, inner):
    assert trm.inner_width(hidden, expansion) == inner


def test_rotary_scores_depend_on_the_distance_alone():
    length, width = 12, 8
    rotary = trm.Rotary(length, width, theta=100.0)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(width, generator=generator).expand(1, length, 1, width) for _ in range(2))
    scores = rotary(q)[0, :, 0] @ rotary(k)[0, :, 0].T  # (L, L)
    for offset in range(-length + 1, length):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert scores.diagonal(1)[0] != scores.diagonal(-1)[0]


def test_rotary_keeps_lengths_and_dtype():
    x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0))
    rotary = trm.Rotary(5, 8, theta=1e4)
    torch.testing.assert_close(rotary(x).norm(dim=-1), x.norm(dim=-1))
    assert rotary(x.bfloat16()).dtype == torch.bfloat16
    assert rotary.cos.dtype == torch.float32
    assert not rotary.state_dict()


def test_initialisation_has_lecun_spread_and_is_truncated():
    model = build(hidden=256, heads=4, inner=512)
    for layer in (model.block.attn.qkv, model.block.mlp.gate_up, model.block.mlp.down):
        std = layer.in_features**-0.5
        assert layer.weight.std().item() == pytest.approx(std, rel=0.01)
        assert layer.weight.abs().max().item() <= 2 * std / trm.TRUNCATED_STD
    embedded = model.embedding.weight * model.scale
    for unit in (embedded, model.z_H, model.z_L):
        assert unit.std().item() == pytest.approx(1, abs=0.15)


def test_truncated_std_is_that_of_the_cut_distribution():
    density, mass = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(2 / math.sqrt(2))
    assert pytest.approx(math.sqrt(1 - 4 * density / mass), rel=1e-12) == trm.TRUNCATED_STD


def test_initialisation_draws_from_the_given_generator_alone():
    before = torch.get_rng_state()
    first, again, other = build(seed=4), build(seed=4), build(seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert not torch.equal(value, other.state_dict()[name]), name


def test_initial_states_are_saved_and_not_trained():
    model = build()
    assert {"z_H", "z_L"} <= set(model.state_dict())
    assert not {"z_H", "z_L"} & set(dict(model.named_parameters()))


def test_last_cycle_gives_the_same_output_and_keeps_fewer_tensors():
    everything, last, one = (
        build(h_cycles=h_cycles, gradient=gradient)
        for h_cycles, gradient in ((3, "all"), (3, "last_cycle"), (1, "all"))
    )
    kept_all, output_all = saved_tensors(everything, tokens())
    kept_last, output_last = saved_tensors(last, tokens())
    kept_one, _ = saved_tensors(one, tokens())
    assert torch.equal(output_all, output_last)
    assert kept_last == kept_one < kept_all / 2


def test_gradient_reaches_every_parameter_and_all_cycles_change_it():
    gradients = []
    for gradient in ("all", "last_cycle"):
        model = build(h_cycles=2, gradient=gradient)
        model(tokens()).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        gradients.append(model.block.attn.qkv.weight.grad)
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("gradient", ["all", "last_cycle"])
def test_bf16_autocast_runs_and_stays_near_fp32(gradient):
    model = build(h_cycles=2, gradient=gradient)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(tokens())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), model(tokens()), atol=0.1, rtol=0.1)


def test_last_cycle_under_autocast_has_the_gradients_of_fp32():
    gradients = []
    for enabled in (False, True):
        model = build(h_cycles=2, gradient="last_cycle")
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = model(tokens()).float().square().mean()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
