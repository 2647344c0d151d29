import pytest

from procedural_data.sort import Sort

TASK = Sort(seq_length=4, vocab_size=6)


def test_check_counts_each_item():
    TASK.check([5, 1, 4, 4, 6, 1, 4, 4, 5])
    with pytest.raises(ValueError, match="4 occurs 2 times in the items and 1 times in the answer"):
        TASK.check([5, 1, 4, 4, 6, 1, 4, 5, 5])


def test_check_wants_ascending_order():
    with pytest.raises(ValueError, match="not in ascending order: 4 comes after 5"):
        TASK.check([5, 1, 4, 4, 6, 1, 5, 4, 4])


def test_check_notices_a_missing_item():
    with pytest.raises(ValueError, match="5 occurs 1 times in the items and 0 times in the answer"):
        TASK.check([5, 1, 4, 4, 6, 1, 4, 4, 7])
