"""The profile ``trm`` against the reference's forward pass, by its weights' names; and Maze-Hard's files."""

import csv
import math

import numpy as np
import pytest
import torch

from compbench.errors import SettingsError
from compbench.workloads.maze_files import read_split, write_look_alikes
from compbench.workloads.maze_hard import MazeHard, dihedral
from compbench.workloads.maze_task import Mazes
from compbench.workloads.mazes import Token, generate
from compbench.workloads.reference_weights import (
    load_reference_checkpoint,
    load_reference_state,
    reference_state,
    save_reference_checkpoint,
)
from compbench.workloads.task import IGNORED

SIZES = {"grid": 5, "train_mazes": 30, "validation_mazes": 10, "hidden": 32, "heads": 2}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def profile(**changes):
    return Mazes(profile="trm", **{**SIZES, **changes})


def drawn(model, seed=3):
    """Weights of a checkpoint that is not the initialisation: also what begins at zero is something.

    They are small enough for 42 layers, one after the other, not to blow rounding errors up.
    """
    return {
        f"_orig_mod.model.{name}": torch.randn(value.shape, generator=generator(seed)) * 0.1
        for name, value in reference_state(model).items()
    }


def reference_forward(w, tokens, heads, h_cycles, l_cycles, layers, prefix):
    """One supervision step from the initial states, in float64, by the reference's names alone."""
    w = {name.removeprefix("_orig_mod.model.inner."): value.double() for name, value in w.items()}
    hidden = w["H_init"].shape[0]
    width = hidden // heads
    embedded = w["embed_tokens.embedding_weight"][tokens]
    front = torch.zeros(len(tokens), prefix * hidden, dtype=torch.float64)
    front[:, :hidden] = w["puzzle_emb.weights"][0]
    x = math.sqrt(hidden) * torch.cat((front.view(len(tokens), prefix, hidden), embedded), dim=1)
    length = x.shape[1]
    angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
    cos, sin = (function(angle.double())[:, None, :] for function in (torch.cos, torch.sin))

    def rotate(y):
        a, b = y[..., : width // 2], y[..., width // 2 :]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def norm(y):
        return y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def level(state, injected):
        y = state + injected
        for layer in range(layers):
            at = f"L_level.layers.{layer}."
            qkv = (y @ w[f"{at}self_attn.qkv_proj.weight"].T).view(len(tokens), length, 3 * heads, width)
            q, k, v = rotate(qkv[:, :, :heads]), rotate(qkv[:, :, heads : 2 * heads]), qkv[:, :, 2 * heads :]
            scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(width)
            mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2)
            y = norm(y + mixed @ w[f"{at}self_attn.o_proj.weight"].T)
            gate, up = (y @ w[f"{at}mlp.gate_up_proj.weight"].T).chunk(2, dim=-1)
            y = norm(y + (gate * gate.sigmoid() * up) @ w[f"{at}mlp.down_proj.weight"].T)
        return y

    z_H, z_L = (w[name].expand_as(x) for name in ("H_init", "L_init"))
    for _ in range(h_cycles):
        for _ in range(l_cycles):
            z_L = level(z_L, z_H + x)
        z_H = level(z_H, z_L)
    q = z_H[:, 0] @ w["q_head.weight"].T + w["q_head.bias"]
    return (z_H @ w["lm_head.weight"].T)[:, prefix:], q[:, 0]


@pytest.mark.parametrize("layers", [1, 2])
def test_a_checkpoint_of_the_reference_gives_its_logits_within_1e_5(layers, tmp_path):
    workload = profile(layers=layers)
    state = drawn(workload.build(generator()))
    torch.save(state, tmp_path / "step_100")
    model = workload.model_copy(update={"weights": str(tmp_path / "step_100")}).build(generator(1))
    tokens = workload.data(0).train["inputs"][:6]
    answer = model(tokens)
    logits, halt = reference_forward(state, tokens, heads=2, h_cycles=3, l_cycles=6, layers=layers, prefix=16)
    assert logits.abs().max() > 0.5
    torch.testing.assert_close(answer.logits.double(), logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(answer.halt.double(), halt, atol=1e-5, rtol=0)


def test_names_and_shapes_are_the_references_and_come_back(tmp_path):
    model = profile().build(generator())
    state = reference_state(model)
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "inner.H_init": (32,),
        "inner.L_init": (32,),
        "inner.embed_tokens.embedding_weight": (5, 32),
        "inner.lm_head.weight": (5, 32),
        "inner.q_head.weight": (2, 32),
        "inner.q_head.bias": (2,),
        "inner.puzzle_emb.weights": (1, 32),
        **{
            f"inner.L_level.layers.{layer}.{name}": shape
            for layer in (0, 1)
            for name, shape in {
                "self_attn.qkv_proj.weight": (96, 32),
                "self_attn.o_proj.weight": (32, 32),
                "mlp.gate_up_proj.weight": (512, 32),
                "mlp.down_proj.weight": (32, 256),
            }.items()
        },
    }
    save_reference_checkpoint(model, tmp_path / "weights")
    other = profile().build(generator(8))
    load_reference_checkpoint(other, tmp_path / "weights")
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_the_profile_has_the_seven_million_parameters_of_the_paper(tmp_path):
    model = MazeHard(profile="trm", folder=str(tmp_path)).build(generator())
    assert sum(p.numel() for p in model.block.parameters()) == 2 * 3_407_872
    assert sum(p.numel() for p in model.parameters()) == 2 * 3_407_872 + 2 * 6 * 512 + 512 + 2 * 512 + 2
    assert model.block[0].attn.rotary.cos.shape[0] == 916


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("_orig_mod.model.inner.lm_head.weight"), r"inner.lm_head.weight is missing .*shape \(5, 32\)"),
        (
            lambda s: s.update({"_orig_mod.model.inner.H_init": torch.zeros(16)}),
            r"inner.H_init has shape \(16,\) .*expected: \(32,\)",
        ),
        (
            lambda s: s.update({"inner.embed_pos.embedding_weight": torch.zeros(3)}),
            "embed_pos.embedding_weight is no weight",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_told_and_changes_nothing(change, message):
    model = profile().build(generator())
    state = drawn(model)
    change(state)
    before = model.head.weight.clone()
    with pytest.raises(SettingsError, match=message):
        load_reference_state(model, state)
    assert torch.equal(model.head.weight, before)


def test_files_that_are_no_checkpoint_and_models_that_the_reference_has_not_are_told(tmp_path):
    with pytest.raises(SettingsError, match="none can't be read: No such file"):
        load_reference_checkpoint(profile().build(generator()), tmp_path / "none")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(SettingsError, match="text are no checkpoint"):
        load_reference_checkpoint(profile().build(generator()), tmp_path / "text")
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(SettingsError, match="dictionary of tensors"):
        load_reference_checkpoint(profile().build(generator()), tmp_path / "list")
    with pytest.raises(SettingsError, match="one block for all calls"):
        reference_state(profile(tied=False).build(generator()))


def test_what_belongs_to_a_training_is_passed_over():
    model = profile().build(generator())
    state = drawn(model)
    state["_orig_mod.model.inner.puzzle_emb.local_weights"] = torch.zeros(768, 32)
    load_reference_state(model, state)
    assert torch.equal(model.head.weight, state["_orig_mod.model.inner.lm_head.weight"])


# Maze-Hard


@pytest.mark.parametrize("form", ["npy", "csv"])
@pytest.mark.parametrize("side", [7, 8])
def test_look_alikes_are_read_as_the_mazes_that_they_were_made_of(tmp_path, form, side):
    write_look_alikes(tmp_path, side, train=12, test=5, seed=3, form=form)
    made = generate(7, 17, 3)
    data = MazeHard(folder=str(tmp_path), side=side).data(0)
    assert data.train["inputs"].shape == (12, side * side)
    for split, start in ((data.train, 0), (data.validation, 12)):
        for row, (inputs, targets) in enumerate(zip(split["inputs"], split["targets"], strict=True)):
            for tokens, grid in ((inputs, made.inputs[start + row]), (targets, made.targets[start + row])):
                square = tokens.view(side, side).numpy()
                for token, character in zip(Token, "# SGo", strict=True):
                    expected = np.zeros((side, side), dtype=bool)
                    expected[:7, :7] = grid == token
                    if token == Token.WALL:
                        expected[7:], expected[:, 7:] = True, True
                    assert ((square == 1 + "# SGo".index(character)) == expected).all()


def test_both_forms_hold_the_same_and_have_their_hashes_in_the_record(tmp_path):
    splits = []
    for form in ("npy", "csv"):
        write_look_alikes(tmp_path / form, 7, train=6, test=3, seed=0, form=form)
        splits.append(MazeHard(folder=str(tmp_path / form), side=7).data(0))
        files = MazeHard(folder=str(tmp_path / form), side=7).data_files()
        assert len(files) == {"npy": 4, "csv": 2}[form]
    assert all(torch.equal(splits[0].train[name], splits[1].train[name]) for name in ("inputs", "targets"))


def test_all_rotations_and_reflections_are_trained_on(tmp_path):
    write_look_alikes(tmp_path, 7, train=4, test=2, seed=0)
    data = MazeHard(folder=str(tmp_path), side=7, augment=True).data(0)
    assert data.train["inputs"].shape[0] == 32
    square = np.arange(9).reshape(1, 9)
    assert len(np.unique(dihedral(square, 3), axis=0)) == 8
    first = dihedral(square, 3).reshape(8, 3, 3)
    assert all(
        any((np.rot90(g, t) == first[0]).all() or (np.rot90(g.T, t) == first[0]).all() for t in range(4)) for g in first
    )


def test_padding_is_no_target(tmp_path):
    write_look_alikes(tmp_path, 7, train=4, test=2, seed=0)
    labels = np.load(tmp_path / "train" / "all__labels.npy")
    labels[:, :7] = 0
    np.save(tmp_path / "train" / "all__labels.npy", labels)
    targets = MazeHard(folder=str(tmp_path), side=7).data(0).train["targets"]
    assert (targets[:, :7] == IGNORED).all()
    assert (targets[:, 7:] > 0).all()


def _rewritten(file, change):
    rows = list(csv.reader(file.open()))
    change(rows)
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[3].__setitem__(1, rows[3][1][:-1]),
            "train.csv', line 4: q has 48 characters .*expected: 49",
        ),
        (
            lambda rows: rows[2].__setitem__(2, "x" + rows[2][2][1:]),
            "train.csv', line 3: a has 'x' as character 1 .*expected: one of '# SGo'",
        ),
        (lambda rows: rows[0].__setitem__(1, "question"), "line 1: no column 'q' .*found: source, question, a, rating"),
        (lambda rows: rows.__delitem__(slice(1, None)), "has no row"),
        (lambda rows: rows[2].append("more"), "line 3: 5 columns .*expected: 4, as in line 1"),
        (lambda rows: rows[0].__setitem__(slice(1, 3), ["a", "q"]), r"line 2: at position \d+ the label is 2, .* is 5"),
        (
            lambda rows: rows[2].__setitem__(2, rows[3][2]),
            r"line 3: at position \d+ the label is \d, and the maze's is .*in another order",
        ),
        (lambda rows: rows[4].__setitem__(1, "#" * 200_000), "line 5 is no CSV: field larger"),
    ],
)
def test_a_table_with_a_mistake_is_told_with_its_line(tmp_path, change, message):
    write_look_alikes(tmp_path, 7, train=4, test=2, seed=0, form="csv")
    _rewritten(tmp_path / "train.csv", change)
    with pytest.raises(SettingsError, match=message):
        MazeHard(folder=str(tmp_path), side=7).data(0)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 50), np.uint8), r"has shape \(4, 50\) .*expected: \(N, 49\), for side 7"),
        (np.ones((4, 49), np.float32), "holds float32"),
        (np.where(np.arange(49) == 17, 9, np.ones((4, 49), np.uint8)), "row 0, position 17: token 9 .*0 to 5"),
        (np.ones((3, 49), np.uint8), "has 3 rows .*expected: 4"),
        (np.array([{}], dtype=object), "no array that can be read"),
        (np.zeros((4, 49), np.uint8), "row 0: the label is padding throughout"),
        (np.ones((4, 49), np.uint8), r"row 0: at position \d+ the label is 1, and the maze's is 2"),
        (np.full((4, 49), 5, np.uint8), "row 0: at position 0 the label is 5, and the maze's is 1"),
    ],
)
def test_an_array_with_a_mistake_is_told_with_its_row(tmp_path, array, message):
    write_look_alikes(tmp_path, 7, train=4, test=2, seed=0)
    np.save(tmp_path / "train" / "all__labels.npy", array)
    with pytest.raises(SettingsError, match=f"all__labels.npy'.*{message}"):
        read_split(tmp_path, "train", 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no array that can be read: EOFError"),
        (b"PK\x03\x04no archive", "no array that can be read: BadZipFile"),
        (
            b"\x93NUMPY\x01\x00\x76\x00"
            + b"{'descr': '|u1', 'fortran_order': False, 'shape': (999999999999, 49)}".ljust(117)
            + b"\n",
            "no array that can be read: MemoryError",
        ),
    ],
)
def test_a_file_that_is_no_array_is_told(tmp_path, content, message):
    write_look_alikes(tmp_path, 7, train=4, test=2, seed=0)
    (tmp_path / "train" / "all__inputs.npy").write_bytes(content)
    with pytest.raises(SettingsError, match=f"all__inputs.npy' is {message}"):
        read_split(tmp_path, "train", 7)


def test_an_archive_of_arrays_is_told(tmp_path):
    write_look_alikes(tmp_path, 7, train=4, test=2, seed=0)
    with (tmp_path / "train" / "all__inputs.npy").open("wb") as stream:
        np.savez(stream, np.ones((4, 49), np.uint8))
    with pytest.raises(SettingsError, match="is an archive of arrays"):
        read_split(tmp_path, "train", 7)


def test_a_mark_in_front_of_a_table_is_passed_over_and_other_encodings_are_told_with_their_line(tmp_path):
    write_look_alikes(tmp_path, 7, train=400, test=2, seed=0, form="csv")
    table = tmp_path / "train.csv"
    before, _ = read_split(tmp_path, "train", 7)
    table.write_bytes(table.read_bytes().replace(b"source,q,a", b"q,a,source", 1).replace(b"look-alike,", b""))
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b",0\r\n", b",look-alike,0\r\n"))
    after, _ = read_split(tmp_path, "train", 7)
    assert (after == before).all()
    table.write_bytes(table.read_bytes() + b"\xe4\r\n")  # far behind what is decoded at once
    with pytest.raises(SettingsError, match=r"train\.csv', line 402: no UTF-8 text"):
        read_split(tmp_path, "train", 7)


def test_a_folder_that_can_not_be_looked_at_is_told(tmp_path):
    with pytest.raises(SettingsError, match="can't be read: File name too long"):
        read_split(tmp_path / ("x" * 300), "train", 7)


def test_a_label_may_have_the_path_on_start_and_goal(tmp_path):
    write_look_alikes(tmp_path, 7, train=4, test=2, seed=0)
    labels = np.load(tmp_path / "train" / "all__labels.npy")
    labels[(labels == 3) | (labels == 4)] = 5
    np.save(tmp_path / "train" / "all__labels.npy", labels)
    assert (read_split(tmp_path, "train", 7)[1] == labels).all()


def test_missing_files_and_mazes_that_are_in_both_splits_are_told(tmp_path):
    with pytest.raises(SettingsError, match=r"there is no folder '.*nowhere'"):
        MazeHard(folder=str(tmp_path / "nowhere")).data(0)
    with pytest.raises(SettingsError, match=r"there is no file '.*train/all__inputs.npy' .*train.csv"):
        MazeHard(folder=str(tmp_path)).data(0)
    write_look_alikes(tmp_path, 7, train=4, test=2, seed=0)
    for part in ("inputs", "labels"):
        train = np.load(tmp_path / "train" / f"all__{part}.npy")
        np.save(tmp_path / "test" / f"all__{part}.npy", train[2:])
    with pytest.raises(SettingsError, match="2 mazes of test are in train as well, the first in row 0"):
        MazeHard(folder=str(tmp_path), side=7).data(0)
