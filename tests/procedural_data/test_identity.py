import pytest

from procedural_data.identity import Identity

TASK = Identity(seq_length=4, vocab_size=6)


def test_check_wants_every_item_at_its_place():
    TASK.check([5, 1, 4, 4, 6, 5, 1, 4, 4])
    with pytest.raises(ValueError, match="place 1 of the answer holds 1; it should hold 5"):
        TASK.check([5, 1, 4, 4, 6, 1, 5, 4, 4])
