"""Reverse: a list, then the same list backwards."""

from collections.abc import Sequence

import numpy as np

from procedural_data._prompt_and_answer import PromptAndAnswer, compare


class Reverse(PromptAndAnswer):
    """The model reads L items and a separator, then writes the items from last to first.

    Items are 1 .. vocab_size - 1, drawn with repetition.

        Reverse(seq_length=4, vocab_size=6)
        input_ids   5 1 4 4 | 4 4 1 5
        targets     . . . . 4 4 1 5 .     the separator predicts the first item; . is IGNORE
    """

    def answer(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        (items,) = operands
        return items[:, ::-1]

    def check(self, input_ids: Sequence[int]) -> None:
        """Takes the items off the end of the list one by one."""
        items, answer = self.parse(input_ids)
        compare(answer, [items.pop() for _ in range(self.seq_length)])
