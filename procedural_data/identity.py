"""Identity: a list, then the same list again."""

from collections.abc import Sequence

import numpy as np

from procedural_data._prompt_and_answer import PromptAndAnswer, compare


class Identity(PromptAndAnswer):
    """The model reads L items and a separator, then writes the items as they were.

    Items are 1 .. vocab_size - 1, drawn with repetition.

        Identity(seq_length=4, vocab_size=6)
        input_ids   5 1 4 4 | 5 1 4 4
        targets     . . . . 5 1 4 4 .     the separator predicts the first item; . is IGNORE
    """

    def answer(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        (items,) = operands
        return items

    def check(self, input_ids: Sequence[int]) -> None:
        items, answer = self.parse(input_ids)
        compare(answer, items)
