"""What is saved is what `transformers` computes, in both directions."""

import json
import logging

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2Model

from core import hf
from core.model import GPT, GPTConfig


def perturbed(**changes) -> GPT:
    """A model away from its initial weights, where biases and gains would hide mistakes."""
    model = GPT(GPTConfig(**{"num_tokens": 23, "n_positions": 40, "n_layer": 3, "n_head": 4, "n_embd": 32, **changes}))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.2)
    return model.eval()


KINDS = [
    {"positions": positions, "tied": tied} | ({"rope_theta": 5000.0} if positions == "rope" else {})
    for positions in ("learned", "rope")
    for tied in (True, False)
] + [{"tokens_per_number": 3}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 7, 40])
def test_transformers_loads_every_key_and_computes_the_same_logits(tmp_path, caplog, kind, length):
    model = perturbed(**kind)
    hf.save(model, tmp_path, pad_token=5)
    with caplog.at_level(logging.WARNING):
        theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert "key" not in caplog.text.lower()
    assert (theirs.config.pad_token_id, theirs.config.eos_token_id, theirs.config.bos_token_id) == (5, None, None)
    ids = torch.randint(0, 23, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, model(ids), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_of_folder_come_back_bit_for_bit(tmp_path, kind):
    model = perturbed(**kind)
    hf.save(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "theirs").mkdir()
    theirs.save_pretrained(tmp_path / "theirs")
    folders = [tmp_path] if "tokens_per_number" in kind else [tmp_path, tmp_path / "theirs"]  # theirs has no parts
    for folder in folders:
        loaded = hf.load(folder)
        assert loaded.config == model.config
        for name, parameter in model.named_parameters():
            assert torch.equal(dict(loaded.named_parameters())[name], parameter), name


def test_a_gpt2_without_its_head_is_read(tmp_path):
    theirs = GPT2Model(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2)).eval()
    theirs.save_pretrained(tmp_path)
    model = hf.load(tmp_path).eval()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = theirs(ids).last_hidden_state @ theirs.wte.weight.T
        torch.testing.assert_close(model(ids), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("learned", {"model_type": "llama"}, "model_type is 'llama'"),
        ("learned", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("learned", {"n_inner": 7}, "n_inner is 7"),
        ("learned", {"n_embd": 64}, "not"),
        ("learned", {"vocab_size": 24}, "wte.weight is (23, 32), not (24, 32)"),
        ("learned", {"n_layer": 4}, "missing"),
        ("learned", {"n_layer": 2}, "not part of the model"),
        ("learned", {"n_head": 5}, "cannot be split over 5 heads"),
        ("rope", {"use_parallel_residual": True}, "use_parallel_residual is True"),
        ("rope", {"use_parallel_residual": None}, "use_parallel_residual"),
        ("rope", {"hidden_act": "gelu"}, "hidden_act"),
        ("rope", {"intermediate_size": 5}, "intermediate_size"),
        ("rope", {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters"),
        ("rope", {"rope_parameters": None}, "rope_parameters"),
    ],
)
def test_a_model_that_ours_cannot_express_is_refused_in_words(tmp_path, kind, changes, words):
    hf.save(perturbed(positions=kind), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config = {key: value for key, value in (config | changes).items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(hf.UnreadableModel) as error:
        hf.load(tmp_path)
    assert words in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_missing_and_broken_files_are_named(tmp_path, file):
    hf.save(perturbed(), tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(hf.UnreadableModel, match="holds no readable model"):
        hf.load(tmp_path)
    path.unlink()
    with pytest.raises(hf.UnreadableModel, match="holds no readable model"):
        hf.load(tmp_path)


def test_positions_by_number_and_digit_are_the_table_they_add_up_to(tmp_path):
    model = perturbed(tokens_per_number=3)
    table = model.position_table()
    for position in range(40):
        expected = model.wpe.weight[position // 3] + model.wde.weight[position % 3]
        assert torch.equal(table[position], expected)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    hf.save(model, ours)
    AutoModelForCausalLM.from_pretrained(ours).save_pretrained(theirs)  # which does not know the parts
    read = hf.load(theirs)
    assert (hf.load(ours).config.tokens_per_number, read.config.tokens_per_number) == (3, 1)
    assert torch.equal(read.wpe.weight, table)
    with pytest.raises(hf.UnreadableModel, match=r"wde\.weight is missing, not \(3, 32\)"):
        hf.restore(model, theirs)


@pytest.mark.parametrize("kind", [*KINDS, {"positions": "rope", "n_positions": 64}])
def test_a_grown_model_keeps_every_weight_and_its_new_rows(tmp_path, kind):
    hf.save(perturbed(**{**kind, "n_positions": 40}), tmp_path)
    old = hf.load(tmp_path)
    new = GPT(
        GPTConfig(31, kind.get("n_positions", 40), 3, 4, 32, **{k: v for k, v in kind.items() if k != "n_positions"})
    )
    fresh = {name: p.clone() for name, p in new.named_parameters()}
    assert hf.load_grown(new, tmp_path) == 23
    before = dict(old.named_parameters())
    for name, p in new.named_parameters():
        assert torch.equal(p[: len(before[name])], before[name]), name
        assert torch.equal(p[len(before[name]) :], fresh[name][len(before[name]) :]), name
    assert not torch.equal(new.wte.weight[23:], torch.zeros(8, 32))
    ids = torch.randint(0, 23, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(new.eval()(ids)[..., :23], old.eval()(ids))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_layer": 2}, "n_layer is 3, not 2"),
        ({"n_embd": 16}, "n_embd is 32, not 16"),
        ({"num_tokens": 20}, "num_tokens is 23, more than 20"),
        ({"n_positions": 41}, "n_positions is 40, not 41"),
        ({"positions": "rope"}, "positions is learned, not rope"),
    ],
)
def test_a_model_of_another_shape_does_not_grow_into_a_new_one(tmp_path, changes, words):
    hf.save(perturbed(), tmp_path)
    shape = {"num_tokens": 23, "n_positions": 40, "n_layer": 3, "n_head": 4, "n_embd": 32}
    new = GPT(GPTConfig(**{**shape, **changes}))
    before = {name: p.clone() for name, p in new.named_parameters()}
    with pytest.raises(hf.UnreadableModel, match=words):
        hf.load_grown(new, tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in new.named_parameters())
