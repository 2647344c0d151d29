"""Union: two lists, then the distinct items of both."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from procedural_data._prompt_and_answer import LARGEST, PromptAndAnswer, compare, without_repetitions


class Union(PromptAndAnswer):
    """The model reads two lists, then writes each distinct item once: those of the first list, then the new ones.

    The lists have L items together; where L is odd, the first has one more. Items are 1 .. vocab_size - 1, drawn with
    repetition. A separator ends each list.

        Union(seq_length=5, vocab_size=6)
        input_ids   5 1 5 | 4 1 | 5 1 4 _ _
        targets     . . . . . . 5 1 4 . . .     no pad is ever predicted; . is IGNORE
    """

    seq_length: int = Field(64, ge=2, le=LARGEST, description="L, items in both lists together")

    @property
    def operand_lengths(self) -> tuple[int, int]:
        return self.seq_length - self.seq_length // 2, self.seq_length // 2

    def operands(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
        items = self.draw_items(rng, size, self.seq_length)  # (B, L), the two lists end to end
        return tuple(np.split(items, [self.operand_lengths[0]], axis=1))

    def answer(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        return without_repetitions(np.concatenate(operands, axis=1), self.pad_token)

    def check(self, input_ids: Sequence[int]) -> None:
        """Walks over both lists and remembers what it has seen."""
        first, second, answer = self.parse(input_ids)
        union: list[int] = []
        for item in first + second:
            if item not in union:
                union.append(item)
        compare(answer, union)
