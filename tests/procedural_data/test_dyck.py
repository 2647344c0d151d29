import numpy as np
import pytest
from pydantic import ValidationError

from procedural_data.dyck import Dyck


def expected_loss(k: int, seq_length: int, p_open: float, max_depth: int) -> tuple[float, float]:
    """Accuracy and cross-entropy of the ideal predictor, from the law of the depth alone, without a sample."""
    reach = {1: 1.0}  # depth after the first bracket, with its probability
    accuracy = loss = 0.0
    for written in range(1, seq_length):
        following: dict[int, float] = {}
        for depth, weight in reach.items():
            if depth == 0:
                opening = 1.0
            elif depth in (max_depth, seq_length - written):
                opening = 0.0
            else:
                opening = p_open
            accuracy += weight * max(opening / k, 1 - opening)
            if opening > 0:
                loss -= weight * opening * np.log(opening / k)
                following[depth + 1] = following.get(depth + 1, 0) + weight * opening
            if opening < 1:
                loss -= weight * (1 - opening) * np.log(1 - opening)
                following[depth - 1] = following.get(depth - 1, 0) + weight * (1 - opening)
        reach = following
    assert reach == {0: pytest.approx(1)}
    return accuracy / (seq_length - 1), loss / (seq_length - 1)


@pytest.mark.parametrize(
    ("k", "seq_length", "p_open", "max_depth", "rows"),
    [
        (64, 2048, 0.5, None, 200),
        (64, 128, 0.5, None, 4_000),
        (4, 32, 0.49, None, 20_000),
        (4, 64, 0.6, 5, 10_000),
        (2, 30, 0.0, None, 10_000),
        (2, 30, 1.0, None, 10_000),
    ],
)
def test_the_oracle_reaches_the_loss_that_the_law_of_the_depth_predicts(k, seq_length, p_open, max_depth, rows):
    task = Dyck(k=k, seq_length=seq_length, p_open=p_open, max_depth=max_depth)
    accuracy, loss = expected_loss(k, seq_length, p_open, max_depth or seq_length)
    oracle = task.oracle(task.sample(np.random.default_rng(0), rows))
    for found, expected in [(oracle.best_prob, accuracy), (-oracle.log_prob, loss)]:
        per_row = found.sum(dim=1) / (seq_length - 1)
        assert abs(per_row.mean().item() - expected) <= 4 * per_row.std().item() / rows**0.5 + 1e-12


@pytest.mark.parametrize(
    ("k", "seq_length", "p_open", "rows", "accuracy", "loss"),
    [
        (64, 2048, 0.5, 200, 0.503, 2.744),
        (64, 128, 0.5, 4_000, 0.505, 2.663),
        (16, 128, 0.5, 4_000, 0.512, 1.977),
        (4, 32, 0.49, 20_000, 0.548, 1.183),
    ],
)
def test_the_oracle_reaches_the_documented_loss(k, seq_length, p_open, rows, accuracy, loss):
    """The documented figures are averages over samples, hence the tolerance."""
    task = Dyck(k=k, seq_length=seq_length, p_open=p_open)
    oracle = task.oracle(task.sample(np.random.default_rng(0), rows))
    scored = rows * (seq_length - 1)
    assert oracle.best_prob.sum().item() / scored == pytest.approx(accuracy, abs=0.005)
    assert -oracle.log_prob.sum().item() / scored == pytest.approx(loss, abs=0.005)


def test_check_matches_brackets_in_the_order_of_a_stack():
    task = Dyck(k=2, seq_length=6)
    task.check([0, 1, 3, 2, 1, 3])
    with pytest.raises(ValueError, match="position 2 closes type 0, but type 1 was opened last"):
        task.check([0, 1, 2, 3, 1, 3])


def test_check_rejects_any_single_other_token():
    task = Dyck(k=3, seq_length=12)
    for row in task.sample(np.random.default_rng(0), 20).input_ids.tolist():
        for position, right in enumerate(row):
            for token in set(range(task.num_tokens)) - {right}:
                with pytest.raises(ValueError, match=r"."):
                    task.check([*row[:position], token, *row[position + 1 :]])


def test_check_rejects_what_is_never_closed():
    with pytest.raises(ValueError, match="2 brackets are never closed"):
        Dyck(k=2, seq_length=4).check([0, 1, 1, 3])


def test_an_odd_length_is_refused():
    with pytest.raises(ValidationError, match=r"(?s)seq_length.*multiple of 2.*input_value=7"):
        Dyck(seq_length=7)
