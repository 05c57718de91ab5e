"""Tasks against plain Python: what is asked has one answer, the target; splits are apart; bad input is named."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compbench.errors import SettingsError
from compbench.registry import Registry
from compbench.run.cell import run_cell
from compbench.suite.cell import Cell, Measuring, PluginReference, Training
from compbench.workloads import sudoku
from compbench.workloads.architecture import ARCHITECTURES
from compbench.workloads.corpus import PYTHON_TOPICS, make_vocabulary
from compbench.workloads.sequences import Addition, Parity
from compbench.workloads.sudoku import Sudoku
from compbench.workloads.text import Text
from tests.workloads.learning import TINY, learnt

MODEL = {"hidden": 16, "heads": 2, "inner": 24}
SMALL = {
    "sudoku": {"box": 2, "clues": 7, "train_puzzles": 40, "validation_puzzles": 10},
    "parity": {"length": 9, "train_sequences": 100, "validation_sequences": 20},
    "addition": {"length": 5, "train_sequences": 100, "validation_sequences": 20},
    "text": {"characters": 3000, "context": 16},
    "mazes": {"grid": 5, "train_mazes": 30, "validation_mazes": 10},
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def registry():
    return Registry.load()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", SMALL)
def test_every_task_runs_on_every_architecture(registry, name, architecture):
    workload = registry.workload(name, **SMALL[name], **MODEL, architecture=architecture, tied=2).at_depth(4)
    data, model = workload.data(0), workload.build(generator())
    batch = {key: values[:8] for key, values in data.train.items()}
    output = workload.forward(model, batch)
    assert output.logits.shape == (8, batch["inputs"].shape[1], workload.vocabulary)
    workload.loss(output, batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    metrics = workload.metrics(workload.forward(model, data.validation), data.validation)
    assert "token_accuracy" in metrics
    assert all(values.shape == (len(data.validation["inputs"]),) for values in metrics.values())


@pytest.mark.parametrize("name", SMALL)
def test_data_are_the_same_bytes_for_the_same_seed_and_token_ids_of_the_vocabulary(registry, name):
    workload = registry.workload(name, **SMALL[name])
    first, again, other = (workload.data(seed) for seed in (1, 1, 2))
    for split in ("train", "validation"):
        for key, values in getattr(first, split).items():
            assert torch.equal(values, getattr(again, split)[key])
            assert values.dtype == torch.int64
            assert values.min() >= 0
            assert values.max() < workload.vocabulary
            assert values.shape[1] <= workload.positions
    if name != "text":  # a text is the same whatever the seed
        assert not torch.equal(first.train["inputs"], other.train["inputs"])
    train = {row.numpy().tobytes() for row in first.train["inputs"]}
    assert not train & {row.numpy().tobytes() for row in first.validation["inputs"]}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("name", "blind"), [("text", True), ("parity", None), ("sudoku", False)])
def test_no_answer_depends_on_what_it_must_not_see(registry, name, blind, architecture):
    """A position of ``text`` sees none behind it; ``parity`` needs none; in ``sudoku`` all see all."""
    workload = registry.workload(name, **SMALL[name], **MODEL, architecture=architecture).at_depth(3)
    model, tokens = workload.build(generator()), workload.data(0).train["inputs"][:4]
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % workload.vocabulary
    before, after = (workload.forward(model, {"inputs": x}).logits[:, :-1] for x in (tokens, changed))
    expected = architecture == "looped_lm" if blind is None else blind
    assert torch.equal(before, after) == expected


def test_a_fixed_seed_gives_a_fixed_loss_curve(monkeypatch):
    fields, training, metric = TINY["parity"]
    monkeypatch.setitem(TINY, "parity", (fields, {**training, "steps": 5}, metric))
    curves = [learnt("parity", seed)[1].loss_curve for seed in (0, 0, 1)]
    assert curves[0] == curves[1] != curves[2]
    assert len(curves[0]) == 5


@pytest.mark.learns
@pytest.mark.parametrize("name", TINY)
def test_each_task_is_learnt_above_95_percent_at_its_tiny_setting(name):
    metrics, _ = learnt(name)
    assert metrics[TINY[name][2]] > 0.95


# Sudoku


def completions(puzzle, side, box):
    """All ways to fill a grid in, by trying every digit in every empty cell in turn."""
    if 0 not in puzzle:
        return [puzzle]
    cell = puzzle.index(0)
    row, column = divmod(cell, side)
    taken = {puzzle[row * side + c] for c in range(side)} | {puzzle[r * side + column] for r in range(side)}
    top, left = row // box * box, column // box * box
    taken |= {puzzle[r * side + c] for r in range(top, top + box) for c in range(left, left + box)}
    free = set(range(1, side + 1)) - taken
    return [full for digit in free for full in completions([*puzzle[:cell], digit, *puzzle[cell + 1 :]], side, box)]


@pytest.mark.parametrize("clues", [5, 8, 15])
def test_a_puzzle_has_its_clues_and_exactly_one_solution(clues):
    data = Sudoku(box=2, clues=clues, train_puzzles=20, validation_puzzles=5).data(0)
    for puzzle, solution in zip(data.train["inputs"].tolist(), data.train["targets"].tolist(), strict=True):
        assert sum(cell > 0 for cell in puzzle) == clues
        assert completions(puzzle, 4, 2) == [solution]


def test_grids_of_9x9_are_solved_to_the_one_solution():
    data = Sudoku(clues=40, train_puzzles=3, validation_puzzles=1).data(0)
    for puzzle, solution in zip(data.train["inputs"].tolist(), data.train["targets"].tolist(), strict=True):
        assert completions(puzzle, 9, 3) == [solution]


def test_a_puzzle_that_cannot_be_completed_has_no_solution():
    assert sudoku.solve([1, 1, *[0] * 14], 2) is None
    assert sudoku.solve([1, 2, 3, 0, *[0] * 3, 4, *[0] * 8], 2) is None


def test_held_out_puzzles_are_no_renamed_training_puzzles_and_copies_are_renamed():
    plain = Sudoku(box=2, clues=8, train_puzzles=60, validation_puzzles=30)
    data = plain.model_copy(update={"relabellings": 3}).data(0)
    assert len(data.train["inputs"]) == 180
    named = {tuple(sudoku.first_come(puzzle)) for puzzle in data.train["inputs"].tolist()}
    assert len(named) == 60
    assert not named & {tuple(sudoku.first_come(puzzle)) for puzzle in data.validation["inputs"].tolist()}
    assert torch.equal(plain.data(0).train["inputs"], data.train["inputs"][:60])
    for puzzle, solution in zip(data.train["inputs"][60:].tolist(), data.train["targets"][60:].tolist(), strict=True):
        assert completions(puzzle, 4, 2) == [solution]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"box": 2, "clues": 16}, "clues is 16 with box 2 .*allowed: 4 to 15"),
        ({"clues": 20}, "clues is 20 with box 3 .*allowed: 23 to 80"),
        ({"box": 4}, "box"),
    ],
)
def test_impossible_sudokus_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Sudoku(**fields)


def test_more_puzzles_than_there_are_is_told():
    # Twelve grids without the digits' names, each with sixteen cells to leave out.
    with pytest.raises(SettingsError, match=r"300 different sudokus of 15 clues .* after 1[5-9][0-9] of them"):
        Sudoku(box=2, clues=15, train_puzzles=200, validation_puzzles=100).data(0)


# Parity and addition


def test_parity_is_that_of_all_bits_so_far():
    data = Parity(**SMALL["parity"], validation_length=14).data(0)
    assert data.train["inputs"].shape == (100, 9)
    assert data.validation["inputs"].shape == (20, 14)
    for split in (data.train, data.validation):
        for bits, answers in zip(split["inputs"].tolist(), split["targets"].tolist(), strict=True):
            assert answers == [sum(bits[: i + 1]) % 2 for i in range(len(bits))]


@pytest.mark.parametrize("validation_length", [None, 12])
def test_sums_are_those_of_whole_numbers(validation_length):
    data = Addition(**SMALL["addition"], validation_length=validation_length).data(0)
    for split in (data.train, data.validation):
        for pairs, answers in zip(split["inputs"].tolist(), split["targets"].tolist(), strict=True):
            a, b, total = (
                sum(digit * 10**i for i, digit in enumerate(digits))
                for digits in ([p // 10 for p in pairs], [p % 10 for p in pairs], answers)
            )
            assert a + b == total
    assert data.validation["inputs"].shape[1] == (validation_length or 5) + 1


def test_carries_run_as_long_as_they_are_asked_to():
    def share_of_nines(chance):
        inputs = Addition(length=20, carry_chance=chance).data(0).train["inputs"][:, :-1]
        return (inputs // 10 + inputs % 10 == 9).double().mean().item()

    assert share_of_nines(0) == pytest.approx(0.1, abs=0.01)
    assert share_of_nines(0.5) == pytest.approx(0.55, abs=0.01)


def test_too_few_sequences_are_told():
    with pytest.raises(ValidationError, match=r"distinct sequences of 6 bits .* there are 64"):
        Parity(length=6)
    with pytest.raises(SettingsError, match="distinct sequences of 2 tokens"):
        Addition(length=1).data(0)


def test_a_model_sees_lengths_that_it_was_not_trained_on():
    workload = Parity(**SMALL["parity"], **MODEL, validation_length=14)
    model = workload.build(generator())
    assert workload.forward(model, workload.data(0).validation).logits.shape == (20, 14, 2)


# Text


def test_the_corpus_that_ships_with_python_is_cut_into_windows_that_follow_one_another():
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    workload = Text(context=32)
    assert workload.text == text
    train = workload.data(0).train
    whole = workload.tokens.decode([*train["inputs"].flatten().tolist(), train["targets"][-1, -1].item()])
    assert text.startswith(whole)
    assert len(whole) > 0.89 * len(text)
    assert torch.equal(train["inputs"].flatten()[1:], train["targets"].flatten()[:-1])
    assert workload.data_files() == {"corpus": hashlib.sha256(text.encode()).hexdigest()}


def test_byte_pairs_are_the_most_frequent_and_give_the_text_back():
    text = Text(characters=20_000).text
    vocabulary = make_vocabulary(text, 40)
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert len(ids) < 0.75 * len(text)
    assert len(vocabulary.tokens) == len(set(text)) + 40


def test_byte_pairs_of_a_text_small_enough_to_do_by_hand():
    # The words are abc, twice " abc" and " abd": a b comes four times, then both of its neighbours three times.
    vocabulary = make_vocabulary("abc abc abd abc", 10)
    assert vocabulary.merges == (("a", "b"), (" ", "ab"), (" ab", "c"))
    assert vocabulary.tokens[:5] == (" ", "a", "b", "c", "d")
    assert vocabulary.decode(vocabulary.encode("abc abd")) == "abc abd"


@pytest.mark.parametrize("merges", [1, 7, 60])
def test_byte_pairs_equal_a_count_from_scratch_after_every_merge(merges):
    text = Text(characters=3000).text
    found = make_vocabulary(text, merges).merges
    from compbench.workloads.corpus import _merged, _words

    words = [list(word) for word in _words(text)]
    for pair in found:
        counts = {}
        for parts in words:
            for neighbours in itertools.pairwise(parts):
                counts[neighbours] = counts.get(neighbours, 0) + 1
        assert pair == min(counts, key=lambda key: (-counts[key], key))
        words = [_merged(parts, pair) for parts in words]


def test_held_out_text_is_the_end_of_it(tmp_path):
    (tmp_path / "text.txt").write_text("".join(chr(ord("a") + i % 26) for i in range(1080)) + "Z" * 120)
    data = Text(corpus=str(tmp_path / "text.txt"), context=20).data(0)
    z = Text(corpus=str(tmp_path / "text.txt")).tokens.tokens.index("Z")
    assert (data.validation["inputs"] == z).all()
    assert len(data.validation["inputs"]) == (120 - 1) // 20


def test_what_is_wrong_with_a_corpus_is_named(tmp_path):
    missing = tmp_path / "missing.txt"
    with pytest.raises(SettingsError, match=r"missing.txt' can't be read: No such file.*expected: a UTF-8 text file"):
        Text(corpus=str(missing)).data(0)
    (tmp_path / "latin.txt").write_bytes(b"one\ntwo\n\xe9t\xe9\n")
    with pytest.raises(SettingsError, match=r"latin.txt', line 3: .*expected: UTF-8"):
        Text(corpus=str(tmp_path / "latin.txt")).data(0)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(SettingsError, match="is empty"):
        Text(corpus=str(tmp_path / "empty.txt")).data(0)
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(SettingsError, match=r"0 sequences of 64 tokens .* 9 characters"):
        Text(corpus=str(tmp_path / "short.txt")).data(0)
    with pytest.raises(SettingsError, match=f"corpus '{PYTHON_TOPICS}' is another text: .* {'0' * 64} was expected"):
        Text(sha256="0" * 64).data(0)
    with pytest.raises(SettingsError, match="line 3: character 'é' is outside the vocabulary of 4 tokens"):
        make_vocabulary("abc\n", 0).encode("a\nb\ncaé")


def test_a_record_has_the_hash_of_the_text_among_its_sources():
    cell = Cell(
        suite="s",
        arm="none",
        depth=2,
        seed=0,
        workload=PluginReference(name="text", fields={**SMALL["text"], **MODEL}),
        strategy=(PluginReference(name="none"),),
        training=Training(steps=1, batch_size=4),
        measuring=Measuring(memory=False, time_pairs=0, flops=False, gradient_cosine=False),
    )
    result = run_cell(cell)
    assert result.status == "ok"
    assert result.sources["corpus"] == Text().data_files()["corpus"]
    wrong = cell.model_copy(update={"workload": PluginReference(name="text", fields={"corpus": "nowhere.txt"})})
    failed = run_cell(wrong)
    assert (failed.status, failed.loss_curve) == ("failed", [])
    assert "corpus 'nowhere.txt' can't be read" in failed.reason


def test_bits_per_token_are_the_cross_entropy_in_numpy():
    workload = Text(**SMALL["text"], **MODEL)
    batch = {name: values[:5] for name, values in workload.data(0).train.items()}
    output = workload.forward(workload.build(generator()), batch)
    logits = output.logits.detach().double().numpy()
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(logs, batch["targets"].numpy()[..., None], -1)[..., 0]
    found = workload.metrics(output, batch)["bits_per_token"]
    np.testing.assert_allclose(found.detach().numpy(), -chosen.mean(1) / np.log(2), rtol=1e-5)
