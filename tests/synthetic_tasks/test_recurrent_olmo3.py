"""The recurrent model against transformers' OLMo 3, and against loops written out by hand."""

import json

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F
from transformers import Olmo3Config, Olmo3ForCausalLM

from core.batch import IGNORE, Batch
from core.hf import UnreadableModel
from core.model import loss_sum
from core.packing import packed
from synthetic_tasks.models.olmo3_config import Act, Olmo3Shape, Recurrence
from synthetic_tasks.models.recurrent_olmo3 import RecurrentOLMo3

SMALL = {
    "vocab_size": 31, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "sliding_window": 5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def ids(rows: int = 3, length: int = 12) -> torch.Tensor:
    return torch.randint(3, 31, (rows, length), generator=torch.Generator().manual_seed(5))


def batch(rows: int = 3, length: int = 12):
    x = ids(rows, length)
    return Batch(x, torch.where(torch.arange(length) % 3 == 0, IGNORE, x.roll(-1, dims=1))).supervised()


def small(shape: dict | None = None, **recurrence) -> RecurrentOLMo3:
    model = RecurrentOLMo3(Olmo3Shape(**{**SMALL, **(shape or {})}), Recurrence(**recurrence), seed=3)
    with torch.no_grad():  # norms other than one, so that none may be left out or mixed up
        for number, (name, p) in enumerate(model.named_parameters()):
            if p.dim() == 1 and not name.startswith("exit"):
                p.add_(torch.linspace(-0.3, 0.3, len(p)).roll(number))
    return model


# --- Plain OLMo 3


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"num_key_value_heads": None},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "layer_types": ["full_attention"] * 4},
        {"rope_theta": 100.0, "rope_scaling": YARN},
        {"rope_scaling": {**YARN, "attention_factor": 1.5, "beta_fast": 4.0, "beta_slow": 2.0}},
        {"layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]},
    ],
    ids=["grouped", "all heads", "tied", "biases", "yarn", "yarn with all settings", "layer types"],
)
@pytest.mark.parametrize("mode", ["self", "cross"])
def test_one_loop_is_transformers_olmo3_and_weights_go_both_ways(tmp_path, shape, mode):
    layers = {"encoder_layers": 1, "loop_layers": 1, "decoder_layers": 2}  # with one layer, cross is self attention
    ours = small(shape, num_loops=1, loop_attention_mode=mode, **layers).eval()
    ours.save_pretrained(tmp_path / "ours")
    theirs, report = Olmo3ForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    x = ids()
    torch.testing.assert_close(ours(x), theirs.eval()(x).logits, atol=1e-5, rtol=0)

    theirs.save_pretrained(tmp_path / "theirs")
    back = RecurrentOLMo3.from_pretrained(
        tmp_path / "theirs", Recurrence(num_loops=1, loop_attention_mode=mode, **layers)
    )
    assert torch.equal(back.eval()(x), ours(x))


def test_a_model_that_transformers_made_is_read_with_its_own_settings(tmp_path):
    torch.manual_seed(0)
    config = Olmo3Config(**{**SMALL, "hidden_size": 64}, num_hidden_layers=8, tie_word_embeddings=True)
    theirs = Olmo3ForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = RecurrentOLMo3.from_pretrained(tmp_path, Recurrence(num_loops=1, encoder_layers=3, decoder_layers=3)).eval()
    torch.testing.assert_close(ours(ids()), theirs(ids()).logits, atol=1e-5, rtol=0)
    assert ours.lm_head.weight is ours.embed_tokens.weight


def test_tied_weights_stay_tied_and_are_counted_once():
    tied, free = small({"tie_word_embeddings": True}), small()
    assert tied.lm_head.weight is tied.embed_tokens.weight
    assert free.num_parameters() - tied.num_parameters() == 31 * 32
    loss_sum(tied, batch()).backward()
    assert tied.lm_head.weight.grad is tied.embed_tokens.weight.grad


# --- Loops


def by_hand(
    model: RecurrentOLMo3, x: torch.Tensor, loops: int, first: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Logits after each loop, as the specification writes them, without packing or positions."""
    r, views = model.recurrence, model._views(x, None)
    e, d = r.encoder_layers, len(model.layers) - r.decoder_layers
    s = model.embed_tokens(x)
    for i in range(e):
        s = model.layers[i](s, views[model.shape.types[i]])
    z = s
    found = []
    for t in range(1, loops + 1):
        if r.inject_input_each_step:
            z = F.linear(torch.cat([s, z], dim=-1), model.inject.weight)
        for i in range(e, d):
            layer, view = model.layers[i], views[model.shape.types[i]]
            source = layer.self_attn.read(s, view) if r.loop_attention_mode == "cross" else None
            z = layer(z, view, source)
        y = z
        for i in range(d, len(model.layers)):
            y = model.layers[i](y, views[model.shape.types[i]])
        found.append(model.lm_head(model.norm(y)))
        if r.tbptt_steps and t % r.tbptt_steps == 0 and t != loops:
            z = z.detach()
    return found


LOOPS = [
    {},
    {"inject_input_each_step": True},
    {"loop_attention_mode": "cross"},
    {"inject_input_each_step": True, "tbptt_steps": 1},
    {"loop_attention_mode": "cross", "tbptt_steps": 2},
    {"inject_input_each_step": True, "loop_attention_mode": "cross", "tbptt_steps": 3},
    {"encoder_layers": 0, "loop_layers": 4, "decoder_layers": 0},
    {"encoder_layers": 2, "loop_layers": 1, "decoder_layers": 1, "num_loops": 1},
]


@pytest.mark.parametrize("settings", LOOPS, ids=str)
def test_loss_and_gradients_are_those_of_loops_written_out(settings):
    model, other, some = small(**settings), small(**settings), batch()
    loss_sum(model, some).backward()
    logits = by_hand(other, some.input_ids, other.recurrence.num_loops)[-1]
    F.cross_entropy(logits.flatten(0, 1)[some.positions], some.labels, reduction="sum").backward()
    for (name, p), (_, q) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert p.grad is not None, name
        torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_truncation_changes_gradients_and_nothing_else():
    whole, cut = (small(inject_input_each_step=True, tbptt_steps=b) for b in (0, 1))
    losses = [loss_sum(model, batch()) for model in (whole, cut)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    assert not torch.allclose(whole.embed_tokens.weight.grad, cut.embed_tokens.weight.grad)


def test_evaluation_may_loop_more_often_than_training():
    model, x = small(num_loops=2, eval_loops=5), ids()
    expected = by_hand(model, x, 5)
    torch.testing.assert_close(model(x), expected[1])
    torch.testing.assert_close(model.eval()(x), expected[4])


@pytest.mark.parametrize("settings", [*LOOPS, {"act": Act(enabled=True, halting="token")}], ids=str)
def test_no_token_sees_a_later_one(settings):
    model, x = small(**settings).eval(), ids(1)
    changed = x.clone()
    changed[0, 7:] = (changed[0, 7:] - 3 + 1) % 28 + 3
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[0, :7], after[0, :7], atol=1e-6, rtol=0)
    assert not torch.allclose(before[0, 7:], after[0, 7:])


@pytest.mark.parametrize("settings", [{}, {"loop_attention_mode": "cross"}], ids=str)
def test_rows_that_share_a_context_have_the_loss_they_have_alone(settings):
    x = ids(4, 16)
    x[1, 9:] = x[2, 4:] = 0
    targets = torch.where(x.roll(-1, dims=1) == 0, IGNORE, x.roll(-1, dims=1))
    targets[:, -1] = IGNORE
    rows, model = Batch(x, targets), small(**settings)
    together = packed(rows, 32, pad_token=0)
    assert len(together.input_ids) < 4
    torch.testing.assert_close(loss_sum(model, together), loss_sum(model, rows.supervised()), atol=1e-4, rtol=0)


# --- What is drawn


def test_poisson_draws_have_the_mean_asked_for_and_never_no_loop(monkeypatch):
    model = small(train_recursion_mode="poisson", num_loops=2, poisson_mode_offset=0.5)
    torch.manual_seed(0)
    counts = torch.tensor([model._loops() for _ in range(4000)]).float()
    assert counts.min() == 1
    assert abs(counts.mean() - (2.5 + torch.exp(torch.tensor(-2.5)))) < 0.1  # zeros count as ones
    monkeypatch.setattr(torch, "poisson", lambda rate: torch.tensor(0.0))
    torch.testing.assert_close(model(ids()), by_hand(model, ids(), 1)[-1])
    assert model.eval()._loops() == 2
    assert model.is_stochastic


def test_loops_that_start_from_noise_do_so_anew_in_training_and_alike_in_evaluation():
    model, x = small(random_init_loop_state=True, inject_input_each_step=True), ids()
    torch.manual_seed(1)
    first = model(x)
    assert not torch.equal(first, model(x))
    torch.manual_seed(1)
    assert torch.equal(first, model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    torch.testing.assert_close(model(x)[1:], model(x[1:]))  # whatever the batch
    assert not torch.allclose(model(x)[0], model(x)[1])  # and the input arrives


def test_the_noise_of_evaluation_does_not_depend_on_what_comes_later():
    narrow = {"hidden_size": 24}  # PyTorch draws by sixteens
    model, x = small(narrow, random_init_loop_state=True, inject_input_each_step=True).eval(), ids(1)
    whole = model(x)
    for length in range(1, 12):
        torch.testing.assert_close(model(x[:, :length]), whole[:, :length], atol=1e-5, rtol=0)


# --- ACT


@pytest.mark.parametrize("halting", ["batch", "token"])
def test_act_weights_sum_to_one_and_the_loss_is_the_formula(halting):
    model = small(act=Act(enabled=True, kl_weight=0.3, halting=halting), num_loops=3)
    with torch.no_grad():
        model.exit.weight.normal_(generator=torch.Generator().manual_seed(0))
    some = batch()
    steps = torch.stack(list(model.steps(some.input_ids, some.positions, None)))
    weights = model.exit_weights(steps)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(weights.shape[1:]))
    assert (weights > 0).all()
    chances = torch.sigmoid(steps @ model.exit.weight[0] + model.exit.bias)
    if halting == "batch":
        chances = chances.mean(dim=1)
    p = chances / chances.sum(dim=0)
    torch.testing.assert_close(weights, p)
    losses = torch.stack(
        [
            F.cross_entropy(z.flatten(0, 1)[some.positions], some.labels, reduction="none")
            for z in by_hand(model, some.input_ids, 3)
        ]
    )
    divergence = (p * (p / (1 / 3)).log()).sum(dim=0)
    if halting == "batch":
        expected = (p * losses.sum(dim=1)).sum() + 0.3 * divergence * len(some.labels)
    else:
        expected = (p * losses).sum() + 0.3 * divergence.sum()
    torch.testing.assert_close(loss_sum(model, some), expected, atol=1e-3, rtol=1e-5)
    loss_sum(model, some).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_act_weights_do_not_depend_on_pads_and_unscored_tokens():
    model, some = small(act=Act(enabled=True)), batch()
    longer = some._replace(input_ids=torch.cat([some.input_ids, torch.full((3, 4), 9)], dim=1))
    longer = longer._replace(positions=some.positions // 12 * 16 + some.positions % 12)
    torch.testing.assert_close(loss_sum(model, some), loss_sum(model, longer))


def test_without_halting_of_tokens_the_last_loop_is_read_and_with_it_each_tokens_own():
    x = ids()
    of_batch = small(act=Act(enabled=True), num_loops=3).eval()
    torch.testing.assert_close(of_batch(x), by_hand(of_batch, x, 3)[-1])
    of_token = small(act=Act(enabled=True, halting="token"), num_loops=3).eval()
    with torch.no_grad():
        of_token.exit.weight.normal_(std=3, generator=torch.Generator().manual_seed(0))
    every = torch.stack(by_hand(of_token, x, 3))
    weights = of_token.exit_weights(torch.stack(list(of_token.steps(x, None, None))))
    chosen = set()
    for row in range(3):
        for t in range(12):
            loop = next(n for n in range(3) if weights[: n + 1, row, t].sum() >= 0.5)
            chosen.add(loop)
            torch.testing.assert_close(of_token(x)[row, t], every[loop, row, t], atol=1e-5, rtol=1e-4)
    assert len(chosen) > 1


def test_the_coda_runs_once_unless_every_loop_counts(monkeypatch):
    calls = []
    for enabled in (False, True):
        model = small(act=Act(enabled=enabled), num_loops=4)
        count = 0

        def counted(*arguments, inner=model.layers[3].forward):
            nonlocal count
            count += 1
            return inner(*arguments)

        monkeypatch.setattr(model.layers[3], "forward", counted)
        model(ids())
        calls.append(count)
    assert calls == [1, 4]


# --- Speed and precision


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"act": Act(enabled=True, halting="token"), "inject_input_each_step": True}], ids=str
)
def test_it_compiles_and_runs_in_bf16(settings):
    model, compiled, some = small(**settings), small(**settings), batch()
    compiled.compile_blocks()
    torch.testing.assert_close(loss_sum(compiled, some), loss_sum(model, some), atol=1e-3, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_sum(model, some)
    loss.backward()
    assert abs(loss.item() / loss_sum(model, some).item() - 1) < 0.02
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


# --- Files and bad input


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("settings", [{}, {"inject_input_each_step": True, "act": Act(enabled=True)}], ids=str)
def test_saved_and_loaded_it_is_the_same(tmp_path, tied, settings):
    model = small({"tie_word_embeddings": tied}, **settings)
    model.save_pretrained(tmp_path)
    back = RecurrentOLMo3.from_pretrained(tmp_path)
    back.save_pretrained(str(tmp_path / "named"))  # by its name, as transformers takes it
    back = RecurrentOLMo3.from_pretrained(str(tmp_path / "named"))
    resolved = {"num_key_value_heads": 2, "layer_types": model.shape.types}
    assert back.shape == model.shape.model_copy(update=resolved)
    assert back.recurrence == model.recurrence
    assert all(torch.equal(p, q) for p, q in zip(model.state_dict().values(), back.state_dict().values(), strict=True))
    assert (back.lm_head.weight is back.embed_tokens.weight) == tied


def damaged(tmp_path, change):
    small(inject_input_each_step=True).save_pretrained(tmp_path)
    change(tmp_path)
    return tmp_path


def without_recurrence(folder):
    raw = json.loads((folder / "config.json").read_text())
    del raw["recurrent"]
    (folder / "config.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "No such file"),
        (lambda folder: (folder / "config.json").write_text("{"), "no readable model"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'), "'gpt2', not 'olmo3'"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "no readable model"),
        (lambda folder: (folder / "recurrent.safetensors").unlink(), "inject.weight is missing"),
        (without_recurrence, "plain OLMo 3; say how it is to loop"),
    ],
)
def test_folders_that_hold_no_such_model_are_refused(tmp_path, change, message):
    with pytest.raises(UnreadableModel, match=message):
        RecurrentOLMo3.from_pretrained(damaged(tmp_path, change))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_init_loop_state": True}, "cuts the input off"),
        ({"tbptt_steps": 2}, "without gradient"),
        ({"num_loops": 0}, "num_loops"),
        ({"loop_layers": 0}, "loop_layers"),
        ({"loop_attention_mode": "both"}, "loop_attention_mode"),
        ({"act": {"halting": "word"}}, "halting"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Recurrence(**settings)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"hidden_size": 30}, "hidden_size 30 cannot be split"),
        ({"hidden_size": 12}, "even number of channels"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
        ({"layer_types": ["full_attention"]}, "names 1 layers"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "only YaRN"),
        ({"rope_scaling": {"factor": 2.0}}, "needs factor and original"),
        ({"hidden_act": "gelu"}, "hidden_act"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(shape, message):
    with pytest.raises(ValidationError, match=message):
        Olmo3Shape(**{**SMALL, **shape})


@pytest.mark.parametrize("layers", [(1, 2, 2), (1, 1, 1)])
def test_layers_must_add_up(layers):
    with pytest.raises(ValueError, match="they must add up"):
        small(**dict(zip(("encoder_layers", "loop_layers", "decoder_layers"), layers, strict=True)))


def test_a_row_longer_than_the_model_is_refused():
    with pytest.raises(ValueError, match="65 tokens is longer than the 64 positions"):
        small()(ids(1, 65))
