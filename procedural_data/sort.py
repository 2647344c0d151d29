"""Sort: a list, then the same list in ascending order."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from procedural_data._prompt_and_answer import PromptAndAnswer


class Sort(PromptAndAnswer):
    """The model reads L items and a separator, then writes the items in ascending order.

    Items are 1 .. vocab_size - 1, drawn with repetition.

        Sort(seq_length=4, vocab_size=6)
        input_ids   5 1 4 4 | 1 4 4 5
        targets     . . . . 1 4 4 5 .     the separator predicts the first item; . is IGNORE
    """

    def answer(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        (items,) = operands
        return np.sort(items.astype(np.int32), axis=1)  # half as wide, in half the time

    def check(self, input_ids: Sequence[int]) -> None:
        """Counts instead of sorting, so that it cannot share a mistake with `sample`."""
        items, answer = self.parse(input_ids)
        asked, given = Counter(items), Counter(answer)
        for item in sorted(asked | given):
            if asked[item] != given[item]:
                counts = f"{asked[item]} times in the items and {given[item]} times in the answer"
                raise ValueError(f"{item} occurs {counts}")
        for left, right in pairwise(answer):
            if left > right:
                raise ValueError(f"the answer is not in ascending order: {right} comes after {left}")
