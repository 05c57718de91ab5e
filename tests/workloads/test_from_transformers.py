"""Language models of ``transformers`` on the same tasks: from a config, seeded, and masked as the task needs."""

import sys
from contextlib import nullcontext

import pytest
import torch
from pydantic import ValidationError

from compbench.errors import SettingsError
from compbench.fields import FieldsError, construct
from compbench.measure.step import Step
from compbench.workloads.sequences import Parity
from compbench.workloads.sudoku import Sudoku
from compbench.workloads.text import Text
from compbench.workloads.trying import try_transformers

transformers = pytest.importorskip("transformers")

GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LLAMA = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
BERT = {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
ALBERT = {**BERT, "model_type": "albert", "embedding_size": 8}
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def text(config, **fields):
    return Text(characters=2000, context=12, from_transformers={"config": config}, **fields)


@pytest.mark.parametrize("config", [GPT2, LLAMA])
def test_a_causal_model_has_the_tasks_shape_and_sees_nothing_ahead(config):
    workload = text(config).at_depth(3)
    model, tokens = workload.build(generator()), workload.data(0).train["inputs"][:4]
    assert model.model.config.num_hidden_layers == workload.depth == 3
    answer = workload.forward(model, {"inputs": tokens}).logits
    assert answer.shape == (4, 12, workload.vocabulary)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % workload.vocabulary
    torch.testing.assert_close(workload.forward(model, {"inputs": changed}).logits[:, :-1], answer[:, :-1])
    workload.loss(workload.forward(model, workload.data(0).train), workload.data(0).train).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("config", [{**BERT, **QUIET}, {**ALBERT, **QUIET}])
def test_a_masked_model_sees_everything(config):
    fields = {"box": 2, "clues": 8, "train_puzzles": 20, "validation_puzzles": 5}
    workload = Sudoku(**fields, from_transformers={"config": config}).at_depth(2)
    model, tokens = workload.build(generator()), workload.data(0).train["inputs"][:4]
    answer = workload.forward(model, {"inputs": tokens}).logits
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 5
    other = workload.forward(model, {"inputs": changed}).logits
    assert answer.shape == (4, 16, 5)
    assert not torch.allclose(other[:, 0], answer[:, 0])


def test_albert_ties_its_layers_so_that_depth_adds_no_weights():
    counts = []
    for config in (ALBERT, BERT):
        workload = Parity(from_transformers={"config": config, "kind": "masked"})
        counts.append([sum(p.numel() for p in workload.at_depth(d).build(generator()).parameters()) for d in (1, 4)])
    assert counts[0][0] == counts[0][1]
    assert counts[1][0] < counts[1][1]


def test_the_generator_alone_decides_the_weights():
    before = torch.get_rng_state()
    first, again, other = (text(GPT2).at_depth(1).build(generator(seed)).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_pretrained_model_is_taken_from_its_folder(tmp_path):
    saved = text(GPT2).at_depth(2).build(generator(3))
    saved.model.save_pretrained(tmp_path)
    workload = Text(characters=2000, context=12, from_transformers={"pretrained": str(tmp_path)})
    assert workload.depth == 2
    model = workload.at_depth(2).build(generator())
    tokens = workload.data(0).train["inputs"][:4]
    torch.testing.assert_close(model(tokens).logits, saved(tokens).logits)
    with pytest.raises(SettingsError, match=r"2 layers .*allowed: depth 2"):
        workload.at_depth(3)
    longer = workload.model_copy(update={"context": 500})
    with pytest.raises(SettingsError, match=r"14 positions, and the task has \d+ and 500"):
        longer.build(generator())


def test_a_folder_that_lacks_weights_of_its_model_is_refused(tmp_path):
    saved = text(GPT2).at_depth(2).build(generator(3)).model
    saved.save_pretrained(tmp_path)
    workload = Text(characters=2000, context=12, from_transformers={"pretrained": str(tmp_path)}).at_depth(2)
    kept = {name: tensor for name, tensor in saved.state_dict().items() if ".h.1.mlp." not in name}
    for weights, lacks in [(saved.state_dict(), ""), (kept, "transformer.h.1.mlp.c_fc.bias and 3 more")]:
        saved.save_pretrained(tmp_path, state_dict=weights)
        model, data = workload.build(generator()), workload.data(0)
        with pytest.raises(SettingsError, match=lacks) if lacks else nullcontext():
            try_transformers(workload, model, data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"config": {"model_type": "gpt22"}}, "model_type is 'gpt22'; did you mean 'gpt2'"),
        ({"config": {}}, "model_type is None"),
        ({"config": {"model_type": "gpt2", "n_embed": 8}}, "has no 'n_embed'; did you mean 'n_embd'"),
        ({"config": {"model_type": "vit"}}, "no causal language model of type 'vit'"),
        ({"pretrained": "nowhere"}, "there is no file nowhere/config.json"),
        ({"config": GPT2, "pretrained": "nowhere"}, "a config and a pretrained model"),
        ({"config": {**GPT2, "n_head": 3}}, "can't be made"),
    ],
)
def test_what_transformers_does_not_have_is_told(settings, message):
    workload = Text(characters=2000, context=12, from_transformers=settings)
    with pytest.raises(SettingsError, match=message):
        workload.at_depth(2).build(generator())


def test_a_causal_model_is_refused_where_answers_depend_on_what_comes():
    workload = Sudoku(box=2, clues=8, from_transformers={"config": GPT2, "kind": "causal"})
    with pytest.raises(SettingsError, match="kind is causal, but the task"):
        workload.at_depth(1).build(generator())
    cheating = Text(characters=2000, context=12, from_transformers={"config": BERT, "kind": "masked"})
    with pytest.raises(SettingsError, match="kind is masked, but the task"):
        cheating.at_depth(1).build(generator())


def tried(config, **fields):
    workload = text(config, **fields).at_depth(2)
    return workload, workload.build(generator()), workload.data(0)


def test_a_model_that_sees_what_it_is_to_predict_is_refused():
    """BERT's causal head has attention to all positions, whatever its name."""
    with pytest.raises(SettingsError, match=r"sees the tokens that it is to predict .*is_decoder: true"):
        try_transformers(*tried({**BERT, **QUIET}))
    for config in ({**BERT, "is_decoder": True}, GPT2, LLAMA):
        try_transformers(*tried(config))


def test_trying_leaves_the_model_and_the_random_stream(monkeypatch):
    workload, model, data = tried({**BERT, "is_decoder": True})
    before, stream = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    try_transformers(workload, model, data)
    assert model.training
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_that_can_not_be_run_is_told():
    with pytest.raises(SettingsError, match="can't be run on the task's tokens: RuntimeError"):
        try_transformers(*tried({**LLAMA, "num_key_value_heads": 3}))


def test_a_field_within_is_told_as_any_other():
    with pytest.raises(FieldsError, match=r"from_transformers: unknown field 'confg'; did you mean 'config'"):
        construct(Text, {"from_transformers": {"confg": {}}}, "text")
    with pytest.raises(FieldsError, match=r"from_transformers.kind is 'mask' \(allowed: 'causal' or 'masked' or null"):
        construct(Text, {"from_transformers": {"kind": "mask"}}, "text")


def test_metrics_are_those_without_dropout():
    workload, model, data = tried({**GPT2, "embd_pdrop": 0.5})
    step = Step(workload, model, torch.device("cpu"))
    first, again = (step.prediction(data.validation).logits for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(step.output(data.validation).logits, first)


def test_fields_of_architectures_are_refused_beside_it():
    with pytest.raises(ValidationError, match="hidden is given beside from_transformers"):
        text(GPT2, hidden=64)
    with pytest.raises(ValidationError, match="transformers_layers is a field of from_transformers"):
        Text(transformers_layers=3)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SettingsError, match=r"pip install 'compbench\[transformers\]'"):
        text(GPT2).at_depth(1)
