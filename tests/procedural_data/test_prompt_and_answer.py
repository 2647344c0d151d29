import numpy as np
import pytest

from core.task import task_class
from procedural_data._prompt_and_answer import without_repetitions
from procedural_data.identity import Identity

TASK = Identity(seq_length=3, vocab_size=5)  # separator 5, pad 6


def test_the_vocabulary_is_the_symbols_and_0_and_separator_and_pad():
    task = Identity(vocab_size=100)
    assert (task.separator, task.pad_token, task.num_tokens) == (100, 101, 102)
    assert [task.token_name(token) for token in (0, 99, 100, 101)] == ["0", "99", "|", "_"]


@pytest.mark.parametrize(
    ("name", "prompt_length", "block_size"),
    [
        ("sort", 65, 129),
        ("reverse", 65, 129),
        ("identity", 65, 129),
        ("set", 65, 129),
        ("union", 66, 130),
        ("delete", 67, 131),
        ("stack", 65, 128),
    ],
)
def test_sequences_have_the_documented_length(name, prompt_length, block_size):
    task = task_class("procedural_data", name)()
    assert (task.prompt_length, task.block_size) == (prompt_length, block_size)
    assert task.sample(np.random.default_rng(0), 2).input_ids.shape == (2, block_size)


@pytest.mark.parametrize("name", ["sort", "union", "delete"])
def test_items_are_uniform_and_independent(name):
    task, size = task_class("procedural_data", name)(seq_length=2, vocab_size=5), 40_000
    prompt = task.prompt(task.sample(np.random.default_rng(0), size))
    first, second = prompt[:, prompt[0] != task.separator][:, :2].T
    pairs = np.bincount((first - 1) * 4 + (second - 1), minlength=16)
    assert np.abs(pairs - size / 16).max() < 4.5 * np.sqrt(size / 16)


def test_repetitions_go_and_first_occurrences_keep_their_order():
    items = np.array([[5, 1, 5, 4, 1], [2, 2, 2, 2, 2], [9, 8, 7, 6, 5]])
    assert without_repetitions(items, pad=99).tolist() == [[5, 1, 4, 99, 99], [2, 99, 99, 99, 99], [9, 8, 7, 6, 5]]


def test_repetitions_are_found_at_the_far_end_of_the_domain():
    top = 2**20 - 1
    assert without_repetitions(np.array([[top, 1, top]]), pad=2**20 + 1).tolist() == [[top, 1, 2**20 + 1]]


@pytest.mark.parametrize(
    ("input_ids", "message"),
    [
        ([1, 2, 3, 5, 1, 2], "has 6 tokens; it should have 7"),
        ([1, 2, 3, 5, 1, 2, 3, 6], "has 8 tokens; it should have 7"),
        ([1, 2, 5, 1, 2, 6, 6], r"operands of \(2,\) items; they should have \(3,\)"),
        ([1, 2, 3, 1, 2, 3, 1], r"operands of \(\) items"),
        ([1, 2, 5, 5, 1, 2, 3], r"operands of \(2, 0\) items"),
        ([1, 0, 3, 5, 1, 0, 3], "position 1 holds 0, which is neither"),
        ([1, 2, 3, 5, 6, 1, 2], "position 4 holds 6, which is neither"),
        ([1, 2, 3, 5, 1, 2, 6], "the answer has 2 items; it should have 3"),
        ([1, 2, 3, 5, 1, 3, 3], "place 2 of the answer holds 3; it should hold 2"),
    ],
)
def test_check_says_what_is_wrong_with_the_layout(input_ids, message):
    TASK.check([1, 2, 3, 5, 1, 2, 3])
    with pytest.raises(ValueError, match=message):
        TASK.check(input_ids)
