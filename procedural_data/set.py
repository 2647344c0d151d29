"""Set: a list, then its distinct items."""

from collections.abc import Sequence

import numpy as np

from procedural_data._prompt_and_answer import PromptAndAnswer, compare, without_repetitions


class Set(PromptAndAnswer):
    """The model reads L items and a separator, then writes each distinct item once, in the order of first occurrence.

    Items are 1 .. vocab_size - 1, drawn with repetition.

        Set(seq_length=4, vocab_size=6)
        input_ids   5 1 4 4 | 5 1 4 _
        targets     . . . . 5 1 4 . .     no pad is ever predicted; . is IGNORE
    """

    def answer(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        (items,) = operands
        return without_repetitions(items, self.pad_token)

    def check(self, input_ids: Sequence[int]) -> None:
        """Walks over the items and remembers what it has seen."""
        items, answer = self.parse(input_ids)
        distinct: list[int] = []
        for item in items:
            if item not in distinct:
                distinct.append(item)
        compare(answer, distinct)
