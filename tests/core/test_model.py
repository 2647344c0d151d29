import math

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

from core import loss as loss_module
from core.batch import IGNORE, Batch
from core.loss import LARGE_VOCABULARY, ROWS_AT_A_TIME
from core.model import GPT, GPTConfig, loss_sum, parse_size, rotate, rotations
from core.packing import rows_of

SMALL = {"num_tokens": 13, "n_positions": 12, "n_layer": 2, "n_head": 2, "n_embd": 16}


def small(seed: int = 0, **changes) -> GPT:
    return GPT(GPTConfig(**{**SMALL, **changes}), seed=seed)


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 13, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_logits_at_chosen_positions_are_those_of_the_whole(positions):
    model, x = small(positions=positions), ids(3, 12)
    chosen = torch.tensor([0, 5, 11, 12, 35])
    torch.testing.assert_close(model(x, chosen), model(x).flatten(0, 1)[chosen], atol=1e-6, rtol=0)


def test_gradients_of_the_gathered_loss_are_those_of_the_masked_one():
    x = ids(3, 12)
    targets = torch.where(torch.arange(12) % 3 == 0, x, IGNORE)
    one, other = small(), small()
    loss_sum(one, Batch(x, targets).supervised()).backward()
    F.cross_entropy(other(x).flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum").backward()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_no_token_sees_a_later_one(positions):
    model, x = small(positions=positions), ids(1, 12)
    changed = x.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 13
    before, after = model(x), model(changed)
    assert torch.equal(before[0, :7], after[0, :7])
    assert not torch.allclose(before[0, 7:], after[0, 7:])


def test_rotary_scores_depend_on_the_offset_only_and_norms_are_kept():
    cos, sin = rotations(40, 8, 10_000.0)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).split(1)
    turned_q, turned_k = rotate(q.expand(40, 8), cos, sin), rotate(k.expand(40, 8), cos, sin)
    scores = turned_q @ turned_k.T
    for offset in (0, 3, 17):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned_q.norm(dim=1), q.norm().expand(40), atol=1e-5, rtol=0)


def test_initial_weights_are_gpt2s_and_a_function_of_the_seed():
    model = small(n_embd=128, n_layer=8)
    assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[0].mlp.down.weight.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.05)
    assert model.blocks[3].attn.proj.bias.abs().max() == 0
    assert torch.equal(model.ln_f.weight, torch.ones(128))
    torch.manual_seed(99)
    again, other = small(n_embd=128, n_layer=8), small(seed=1, n_embd=128, n_layer=8)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(model.wte.weight, other.wte.weight)


def test_dropout_acts_in_training_only():
    model, x = small(dropout=0.5), ids(1, 12)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("size", ["", "12", "12_12", "a_b_c", "0_1_16", "2_4_16_1", "2_-4_16", "2_3_16", "2 4 16"])
def test_a_size_that_cannot_be_built_is_refused(size):
    with pytest.raises(ValueError, match=r"is not a size|cannot be split"):
        parse_size(size)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_layer": 0}, "n_layer is 0"),
        ({"n_head": 3}, "cannot be split over 3 heads"),
        ({"positions": "rope", "n_head": 16}, "is odd"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        GPTConfig(**{**SMALL, **changes})


def test_a_sequence_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="13 tokens is longer than the 12 positions"):
        small()(ids(1, 13))


def test_blocks_are_not_compiled_again_for_each_number_of_targets():
    torch._dynamo.reset()
    model, counter = small(), CompileCounter()
    expected = model(ids(4, 12))
    for block in model.blocks:
        block.compile(backend=counter)
    torch.testing.assert_close(model(ids(4, 12)), expected, atol=1e-5, rtol=0)
    for number in (30, 31):
        model(ids(4, 12), torch.arange(number))
    compiled = counter.frame_count
    assert compiled >= 1
    for number in (3, 4, 17, 40):
        torch.testing.assert_close(
            model(ids(4, 12), torch.arange(number)), expected.flatten(0, 1)[:number], atol=1e-5, rtol=0
        )
    assert counter.frame_count == compiled


@pytest.mark.parametrize("positions", ["learned", "rope"])
@pytest.mark.parametrize("rows", [None, [0] * 4 + [4] * 5 + [9] * 3, [0] * 4 + [4] * 4 + [8] * 4])
def test_queries_that_nobody_asks_for_change_nothing(positions, rows):
    model, targets = small(positions=positions), ids(3, 12).roll(-1, dims=1)
    targets[:, :5] = IGNORE
    targets[1, 7] = targets[2, 5] = IGNORE
    batch = Batch(ids(3, 12), targets).supervised()
    if rows is not None:
        is_even, rows = rows[8] == 8, rows_of(np.tile(rows, (3, 1)))
        assert is_even == (rows.gather is not None), "the others are read by a mask"
    assert batch.first == 5
    results = []
    for first in (0, 5):
        model.zero_grad()
        loss = loss_sum(model, batch._replace(first=first, rows=rows))
        loss.backward()
        results.append((loss.detach(), *(p.grad.clone() for p in model.parameters())))
    for whole, part in zip(*results, strict=True):
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_a_compiled_model_leaves_out_queries_as_well():
    torch._dynamo.reset()
    model, x, positions = small(), ids(2, 12), torch.tensor([7, 9, 11, 20, 23])
    expected = model(x, positions)
    for block in model.blocks:
        block.compile(backend="aot_eager")  # all but the writing of code, which takes half a minute
    for first in (7, 3, 0):
        torch.testing.assert_close(model(x, positions, first=first), expected, atol=1e-5, rtol=0)


def test_bf16_autocast_trains():
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_sum(model, Batch(ids(2, 12), 12 - ids(2, 12)).supervised())
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(24 * math.log(13), rel=0.05)


@pytest.mark.parametrize("as_on_gpu", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_large_vocabulary_has_the_loss_and_gradients_of_the_full_logits(monkeypatch, precision, as_on_gpu):
    """`as_on_gpu`: the vocabulary filled up, and the gradients as they are written for a compiler."""
    if as_on_gpu:
        monkeypatch.setitem(loss_module.ALIGNED, "cpu", 64)
        monkeypatch.setattr(loss_module, "_gradients_of", lambda compiles: loss_module._gradients)
    rows = ROWS_AT_A_TIME["cpu"]
    model = GPT(GPTConfig(num_tokens=LARGE_VOCABULARY + 3, n_positions=64, n_layer=1, n_head=2, n_embd=16))
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, LARGE_VOCABULARY + 3, (2 * rows // 64 + 1, 64), generator=generator)
    batch = Batch(x, torch.where(x % 7 == 0, IGNORE, x.roll(-1, dims=1))).supervised().filled(16)
    assert len(batch.labels) % rows
    assert len(batch.labels) > rows
    assert batch.fillers
    results = []
    for whole in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            if whole:
                loss = F.cross_entropy(model(batch.input_ids, batch.positions).float(), batch.labels, reduction="sum")
            else:
                loss = loss_sum(model, batch)
        loss.backward()
        results.append((loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    (loss, grads), (expected, expected_grads) = results
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    torch.testing.assert_close(loss, expected, atol=0, rtol=1e-6)
    for name, grad in grads.items():
        scale = expected_grads[name].abs().max().item()
        torch.testing.assert_close(grad, expected_grads[name], atol=tolerance * scale, rtol=0, msg=name)
