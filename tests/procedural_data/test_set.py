import numpy as np
import pytest

from core.batch import IGNORE
from procedural_data.set import Set

TASK = Set(seq_length=4, vocab_size=6)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([5, 1, 4, 4], "the answer has 4 items; it should have 3"),
        ([5, 1, 7, 7], "the answer has 2 items; it should have 3"),
        ([1, 4, 5, 7], "place 1 of the answer holds 1; it should hold 5"),
    ],
)
def test_check_wants_each_item_once_in_the_order_of_first_occurrence(answer, message):
    TASK.check([5, 1, 4, 4, 6, 5, 1, 4, 7])
    with pytest.raises(ValueError, match=message):
        TASK.check([5, 1, 4, 4, 6, *answer])


def test_answers_have_47_items_on_average_at_the_documented_size():
    targets = Set().sample(np.random.default_rng(0), 5_000).targets
    expected = 99 * (1 - (98 / 99) ** 64)  # 47.3: symbols drawn at least once
    assert (targets != IGNORE).sum().item() / 5_000 == pytest.approx(expected, abs=0.2)
