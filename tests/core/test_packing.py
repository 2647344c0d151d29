import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.batch import IGNORE, Batch, Rows
from core.model import GPT, GPTConfig, loss_sum
from core.packing import packed

PAD = 12
SHAPE = {"num_tokens": 13, "n_positions": 13, "n_layer": 2, "n_head": 2, "n_embd": 16}


def ragged(lengths: list[int], seed: int = 0) -> Batch:
    """Rows of random tokens, of which a random half is scored."""
    rng = np.random.default_rng(seed)
    shape = len(lengths), max(lengths, default=0) + 1
    ids = rng.integers(0, PAD, size=shape)
    ids[np.arange(shape[1]) >= np.array(lengths)[:, None]] = PAD
    targets = np.full(shape, IGNORE)
    targets[:, :-1] = np.where((ids[:, 1:] != PAD) & (rng.random((shape[0], shape[1] - 1)) < 0.5), ids[:, 1:], IGNORE)
    return Batch(torch.from_numpy(ids), torch.from_numpy(targets))


def rows_of(batch) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Each row of a packed batch, as its tokens and its scored (place, label)."""
    B, T = batch.input_ids.shape
    labels = dict(zip(batch.positions.tolist(), batch.labels.tolist(), strict=True))
    rows = []
    for context in range(B):
        ids, starts = batch.input_ids[context].tolist(), batch.rows.starts[context].tolist()
        for start in sorted(set(starts)):
            inside = [t for t in range(T) if starts[t] == start]
            assert inside == list(range(start, start + len(inside)))
            scored = [(t - start, labels.pop(context * T + t)) for t in inside if context * T + t in labels]
            if ids[start] != PAD:
                rows.append(([ids[t] for t in inside], scored))
    assert not labels
    return sorted(rows)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=40), st.integers(12, 50))
def test_every_row_is_there_once_with_its_targets(lengths, room):
    batch = ragged(lengths)
    result = packed(batch, room, PAD)
    expected = []
    for ids, targets, length in zip(batch.input_ids.tolist(), batch.targets.tolist(), lengths, strict=True):
        expected.append((ids[:length], [(t, label) for t, label in enumerate(targets) if label != IGNORE]))
    assert rows_of(result) == sorted(expected)
    assert result.examples == len(lengths)
    assert result.input_ids.shape[1] == room
    needed = -(-sum(lengths) // room)
    assert result.input_ids.shape[0] <= 11 / 9 * max(needed, 1) + 1 + len([n for n in lengths if n > room / 2])


@pytest.mark.parametrize("positions", ["learned", "rope"])
@pytest.mark.parametrize(("room", "is_by_row"), [(20, False), (60, True)])
def test_logits_and_gradients_are_those_of_the_rows_by_themselves(positions, room, is_by_row):
    batch = ragged([3, 12, 7, 1, 5, 5, 12, 2, 9])
    one, other = (GPT(GPTConfig(**SHAPE, positions=positions)) for _ in range(2))
    plain, together = batch.supervised(), packed(batch, room, PAD)
    assert len(together.input_ids) < len(batch.input_ids)
    assert (together.rows.gather is not None) == is_by_row
    losses = loss_sum(one, plain), loss_sum(other, together)
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-6)
    for loss in losses:
        loss.backward()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(12, 200))
def test_rows_by_themselves_hold_each_token_once(lengths, room):
    batch = packed(ragged(lengths), room, PAD)
    rows, is_token = batch.rows, batch.input_ids.flatten() != PAD
    if rows.gather is None:
        assert 2 * len(lengths) * max(lengths) ** 2 > len(batch.input_ids) * room**2
        return
    place = torch.arange(len(is_token))[is_token]
    assert torch.equal(rows.gather.flatten()[rows.scatter][is_token], place)
    assert sorted(rows.scatter[is_token].tolist()) == sorted(set(rows.scatter[is_token].tolist()))
    column = place % room - rows.starts.flatten()[is_token]
    assert torch.equal(rows.scatter[is_token] % max(lengths), column)


@pytest.mark.parametrize("is_by_row", [False, True])
def test_a_token_sees_its_own_row_and_nothing_else(is_by_row):
    model = GPT(GPTConfig(**SHAPE))
    batch = packed(ragged([4, 4, 4]), 12, PAD)
    assert batch.rows.gather is not None
    if not is_by_row:
        batch = batch._replace(rows=Rows(batch.rows.starts))
    changed = batch.input_ids.clone()
    changed[0, 5] = (changed[0, 5] + 1) % PAD
    before, after = (model(ids, None, batch.rows)[0] for ids in (batch.input_ids, changed))
    is_same = torch.isclose(before, after).all(dim=1).tolist()
    assert is_same == [True] * 5 + [False] * 3 + [True] * 4


def test_rows_need_not_end_in_pads_and_must_fit():
    batch = Batch(torch.ones(3, 5, dtype=torch.int64), torch.full((3, 5), IGNORE))
    assert packed(batch, 10, None).input_ids.shape == (2, 10)
    with pytest.raises(ValueError, match="pack_to 4 is too short: a row has 5 tokens"):
        packed(batch, 4, None)
