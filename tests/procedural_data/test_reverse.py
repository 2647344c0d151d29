import pytest

from procedural_data.reverse import Reverse

TASK = Reverse(seq_length=4, vocab_size=6)


def test_check_wants_the_last_item_first():
    TASK.check([5, 1, 4, 4, 6, 4, 4, 1, 5])
    with pytest.raises(ValueError, match="place 1 of the answer holds 5; it should hold 4"):
        TASK.check([5, 1, 4, 4, 6, 5, 1, 4, 4])
