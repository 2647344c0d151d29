import numpy as np
import pytest
from pydantic import ValidationError

from procedural_data.dyck_shuffle import DyckShuffle


@pytest.mark.parametrize(
    ("k", "seq_length", "rows", "accuracy", "loss"),
    [(64, 2048, 200, 0.115, 3.632), (16, 128, 4_000, 0.178, 2.699), (4, 32, 20_000, 0.299, 1.665)],
)
def test_the_oracle_reaches_the_documented_loss(k, seq_length, rows, accuracy, loss):
    """The documented figures are averages over samples, hence the tolerance."""
    task = DyckShuffle(k=k, seq_length=seq_length)
    oracle = task.oracle(task.sample(np.random.default_rng(0), rows))
    scored = rows * (seq_length - 1)
    assert oracle.best_prob.sum().item() / scored == pytest.approx(accuracy, abs=0.003)
    assert -oracle.log_prob.sum().item() / scored == pytest.approx(loss, abs=0.01)


def test_every_even_depth_is_a_likely_end_at_the_documented_size():
    """A walk that turns back at 0 and 16 is at each end in 1 of 16 even steps, and at each depth between in 2."""
    tokens = DyckShuffle().sample(np.random.default_rng(0), 2_000).input_ids.numpy()
    unclosed = np.bincount(np.sum(np.where(tokens < 64, 1, -1), axis=1), minlength=17)
    expected = 2_000 / 16 * np.array([1, 2, 2, 2, 2, 2, 2, 2, 1])
    assert (unclosed[1::2] == 0).all()
    assert (np.abs(unclosed[::2] - expected) < 4.5 * np.sqrt(expected)).all()


def test_a_close_picks_types_with_equal_chances_whatever_their_counts():
    tokens = DyckShuffle(k=2, seq_length=4).sample(np.random.default_rng(0), 100_000).input_ids.numpy()
    after_two_and_one = tokens[(tokens[:, :3] == [0, 0, 1]).all(axis=1)][:, 3]
    closes = after_two_and_one[after_two_and_one >= 2]
    assert len(closes) > 1_000
    assert abs((closes == 2).mean() - 0.5) < 4.5 * 0.5 / np.sqrt(len(closes))


def test_balanced_closes_every_type():
    tokens = DyckShuffle(k=8, seq_length=40, balanced=True).sample(np.random.default_rng(0), 500).input_ids.numpy()
    for kind in range(8):
        assert ((tokens == kind).sum(axis=1) == (tokens == 8 + kind).sum(axis=1)).all()


def test_types_may_cross_but_none_closes_unopened():
    task = DyckShuffle(k=2, seq_length=4)
    task.check([0, 1, 2, 3])
    with pytest.raises(ValueError, match="position 2 closes type 1, of which none is open"):
        task.check([0, 0, 3, 2])


def test_only_balanced_asks_for_closed_ends():
    word = [0, 2, 1, 1]
    DyckShuffle(k=2, seq_length=4).check(word)
    with pytest.raises(ValueError, match="2 brackets are never closed"):
        DyckShuffle(k=2, seq_length=4, balanced=True).check(word)


def test_balanced_needs_an_even_length():
    DyckShuffle(seq_length=7)
    with pytest.raises(ValidationError, match="balanced needs an even seq_length, not 7"):
        DyckShuffle(seq_length=7, balanced=True)
