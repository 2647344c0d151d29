import numpy as np
import pytest

from procedural_data.union import Union

TASK = Union(seq_length=4, vocab_size=6)


@pytest.mark.parametrize(("seq_length", "lengths"), [(2, (1, 1)), (3, (2, 1)), (64, (32, 32)), (65, (33, 32))])
def test_the_first_list_takes_the_odd_item(seq_length, lengths):
    task = Union(seq_length=seq_length, vocab_size=6)
    first, second, _ = task.parse(task.sample(np.random.default_rng(0), 1).input_ids[0].tolist())
    assert (len(first), len(second)) == lengths
    assert task.block_size == 2 * seq_length + 2


def test_an_answer_can_be_as_long_as_both_lists():
    Union(seq_length=3, vocab_size=6).check([1, 2, 6, 3, 6, 1, 2, 3])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1, 5, 4, 7], "place 1 of the answer holds 1; it should hold 5"),
        ([5, 1, 7, 7], "the answer has 2 items; it should have 3"),
        ([5, 1, 4, 4], "the answer has 4 items; it should have 3"),
    ],
)
def test_check_wants_what_is_new_in_the_second_list_after_the_first(answer, message):
    TASK.check([5, 1, 6, 4, 1, 6, 5, 1, 4, 7])
    with pytest.raises(ValueError, match=message):
        TASK.check([5, 1, 6, 4, 1, 6, *answer])
