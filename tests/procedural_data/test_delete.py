import numpy as np
import pytest
from pydantic import ValidationError

from procedural_data.delete import Delete

TASK = Delete(seq_length=4, vocab_size=6)


def items_and_query(task: Delete, size: int) -> tuple[np.ndarray, np.ndarray]:
    prompt = task.prompt(task.sample(np.random.default_rng(0), size))
    return prompt[:, : task.seq_length], prompt[:, task.seq_length + 1]


def is_present(items: np.ndarray, query: np.ndarray) -> np.ndarray:
    return (items == query[:, None]).any(axis=1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([5, 4, 1, 7], "place 2 of the answer holds 4; it should hold 1"),  # the other 4 went
        ([5, 1, 7, 7], "the answer has 2 items; it should have 3"),  # both went
        ([5, 4, 1, 4], "place 2"),  # none went
    ],
)
def test_check_wants_the_first_occurrence_gone_and_no_other(answer, message):
    TASK.check([5, 4, 1, 4, 6, 4, 6, 5, 1, 4, 7])
    with pytest.raises(ValueError, match=message):
        TASK.check([5, 4, 1, 4, 6, 4, 6, *answer])


def test_a_query_that_is_absent_leaves_the_list_as_it_is():
    TASK.check([5, 4, 1, 4, 6, 2, 6, 5, 4, 1, 4])


def test_the_query_is_independent_of_the_list_by_default():
    items, query = items_and_query(Delete(), 40_000)
    expected = 1 - (98 / 99) ** 64  # 47.8 %
    assert is_present(items, query).mean() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 40_000))
    counts = np.bincount(query, minlength=100)[1:]
    assert np.abs(counts - 40_000 / 99).max() < 4.5 * np.sqrt(40_000 / 99)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_present_probability_is_the_share_of_queries_in_the_list(share):
    items, query = items_and_query(Delete(present_probability=share), 20_000)
    spread = np.sqrt(share * (1 - share) / 20_000)
    assert abs(is_present(items, query).mean() - share) <= 4 * spread


def test_present_queries_are_uniform_over_distinct_symbols_and_absent_ones_over_the_others():
    items, query = items_and_query(Delete(seq_length=3, vocab_size=6, present_probability=0.5), 500_000)
    present = is_present(items, query)
    for row in ([2, 2, 2], [2, 2, 4], [4, 1, 4], [1, 3, 5]):
        same = (items == row).all(axis=1)
        for chosen, symbols in [
            (query[same & present], set(row)),
            (query[same & ~present], {1, 2, 3, 4, 5} - set(row)),
        ]:
            counts = np.bincount(chosen, minlength=6)
            assert {symbol for symbol in range(6) if counts[symbol]} == symbols
            expected = len(chosen) / len(symbols)
            assert expected > 100
            assert max(abs(counts[symbol] - expected) for symbol in symbols) < 4.5 * np.sqrt(expected)


def test_check_holds_queries_to_a_present_probability_of_0_or_1():
    present, absent = [1, 2, 6, 1, 6, 2, 7], [1, 2, 6, 3, 6, 1, 2]
    always, never = (Delete(seq_length=2, vocab_size=6, present_probability=p) for p in (1.0, 0.0))
    always.check(present)
    never.check(absent)
    with pytest.raises(ValueError, match="query 3 is not in the list"):
        always.check(absent)
    with pytest.raises(ValueError, match="query 1 is in the list"):
        never.check(present)


def test_an_absent_query_needs_an_absent_symbol():
    with pytest.raises(ValidationError, match="vocab_size 65 is too small for seq_length 64; it must be at least 66"):
        Delete(vocab_size=65, present_probability=0.9)
    Delete(vocab_size=66, present_probability=0.9)
    Delete(vocab_size=65, present_probability=1.0)
    Delete(vocab_size=65)
