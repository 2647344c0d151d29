"""The law of both bracket tasks, by enumeration: every word that `check` accepts, with its probability by `oracle`."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from core.batch import IGNORE, Batch
from core.task import Oracle, Task
from procedural_data.dyck import Dyck
from procedural_data.dyck_shuffle import DyckShuffle

SMALL = [
    Dyck(k=2, seq_length=6),
    Dyck(k=2, seq_length=6, p_open=0.3, max_depth=2),
    Dyck(k=1, seq_length=10, p_open=0.8),
    Dyck(k=2, seq_length=6, max_depth=1),
    Dyck(k=2, seq_length=6, p_open=0.0),
    Dyck(k=2, seq_length=6, p_open=1.0),
    Dyck(k=2, seq_length=6, p_open=1.0, max_depth=2),
    DyckShuffle(k=2, seq_length=6),
    DyckShuffle(k=3, seq_length=5, p_open=0.7, max_depth=2),
    DyckShuffle(k=2, seq_length=6, balanced=True),
    DyckShuffle(k=2, seq_length=6, p_open=0.8, max_depth=None, balanced=True),
    DyckShuffle(k=2, seq_length=5, p_open=0.0),
    DyckShuffle(k=2, seq_length=5, p_open=1.0, max_depth=2),
    DyckShuffle(k=2, seq_length=6, p_open=1.0, max_depth=2, balanced=True),
]
each_small = pytest.mark.parametrize("task", SMALL, ids=repr)

Word = tuple[int, ...]


def is_word(task: Task, word: Word) -> bool:
    try:
        task.check(word)
    except ValueError:
        return False
    return True


def batch_of(words: list[Word]) -> Batch:
    input_ids = torch.tensor(words)
    targets = torch.nn.functional.pad(input_ids[:, 1:], (0, 1), value=IGNORE)
    return Batch(input_ids, targets)


def law(task: Task) -> tuple[dict[Word, float], Oracle]:
    """The probability of each word: 1 / k for its first bracket, and the oracle's for the others."""
    words = [w for w in itertools.product(range(2 * task.k), repeat=task.seq_length) if is_word(task, w)]
    oracle = task.oracle(batch_of(words))
    return dict(zip(words, (oracle.log_prob.sum(dim=1).exp() / task.k).tolist(), strict=True)), oracle


@each_small
def test_the_words_that_check_accepts_have_a_total_probability_of_1(task):
    probabilities, _ = law(task)
    assert min(probabilities.values()) > 0
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-12)


@each_small
def test_sample_emits_each_word_as_often_as_the_oracle_says(task):
    size, (probabilities, _) = 40_000, law(task)
    found = Counter(map(tuple, task.sample(np.random.default_rng(0), size).input_ids.tolist()))
    assert set(found) <= set(probabilities)
    expected = size * np.array(list(probabilities.values()))
    counts = np.array([found[word] for word in probabilities])
    assert np.abs(counts - expected).max() <= 5 * np.sqrt(expected.max())
    likely = expected > 5
    deviation = np.sum((counts - expected)[likely] ** 2 / expected[likely])
    assert deviation < likely.sum() + 4 * np.sqrt(2 * likely.sum())


@each_small
def test_the_best_probability_is_that_of_the_likeliest_continuation(task):
    probabilities, oracle = law(task)
    mass: Counter[Word] = Counter()
    for word, probability in probabilities.items():
        mass.update({word[:length]: probability for length in range(1, task.seq_length + 1)})
    for row, word in enumerate(probabilities):
        for t in range(task.seq_length - 1):
            prefix = word[: t + 1]
            best = max(mass[(*prefix, token)] for token in range(2 * task.k)) / mass[prefix]
            assert oracle.best_prob[row, t].item() == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("kind", [Dyck, DyckShuffle])
def test_the_oracle_scores_only_what_the_batch_scores(kind):
    batch = kind(k=2, seq_length=6).sample(np.random.default_rng(0), 4)
    partly = Batch(batch.input_ids, torch.where(torch.arange(6) < 2, IGNORE, batch.targets))
    whole, part = (kind(k=2, seq_length=6).oracle(b) for b in (batch, partly))
    assert torch.equal(part.log_prob[:, 2:], whole.log_prob[:, 2:])
    assert (part.log_prob[:, :2] == 0).all()
    assert (part.best_prob[:, :2] == 0).all()


@pytest.mark.parametrize("kind", [Dyck, DyckShuffle])
def test_brackets_that_open_are_uniform_over_types(kind):
    task = kind(k=16, seq_length=64)
    tokens = task.sample(np.random.default_rng(0), 2_000).input_ids.numpy()
    counts = np.bincount(tokens[tokens < 16], minlength=16)
    assert np.abs(counts - counts.mean()).max() < 4.5 * np.sqrt(counts.mean())


@pytest.mark.parametrize("p_open", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", [Dyck, DyckShuffle])
def test_where_both_are_allowed_brackets_open_with_p_open(kind, p_open):
    task = kind(k=4, seq_length=256, p_open=p_open)
    opens = task.sample(np.random.default_rng(0), 500).input_ids.numpy() < 4
    before = np.pad(np.cumsum(np.where(opens, 1, -1), axis=1), ((0, 0), (1, 0)))[:, :-1]
    left = 256 - np.arange(256)
    both = (before > 0) & (before < task.depth_limit) & ((before < left) | (kind is DyckShuffle))
    assert abs(opens[both].mean() - p_open) < 4.5 * np.sqrt(p_open * (1 - p_open) / both.sum())


@pytest.mark.parametrize("kind", [Dyck, DyckShuffle])
def test_names_show_type_and_direction(kind):
    task = kind(k=10, seq_length=6)
    assert [task.token_name(token) for token in (0, 7, 10, 17, 20)] == ["(0", "(7", ")0", ")7", "_"]
    assert (task.pad_token, task.num_tokens, task.block_size) == (20, 21, 6)


@pytest.mark.parametrize("kind", [Dyck, DyckShuffle])
@pytest.mark.parametrize(
    ("parameters", "word", "message"),
    [
        ({}, [2, 0, 0, 2], "position 0 closes at depth 0: nothing is open"),
        ({}, [0, 2, 2, 0], "position 2 closes at depth 0: nothing is open"),
        ({}, [0, 4, 2, 2], "position 1 holds 4, which is no bracket"),
        ({}, [0, 2], "has 2 tokens; it should have 4"),
        ({"max_depth": 1}, [0, 1, 3, 2], "position 1 opens at depth 1: max_depth is 1"),
        ({"p_open": 0.0}, [0, 1, 3, 2], "position 1 opens at depth 1: p_open is 0"),
        ({"p_open": 1.0}, [0, 2, 1, 3], "position 1 closes at depth 1: p_open is 1"),
    ],
)
def test_check_says_where_the_depth_breaks_the_law(kind, parameters, word, message):
    with pytest.raises(ValueError, match=message):
        kind(k=2, seq_length=4, **parameters).check(word)
