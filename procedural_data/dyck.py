"""Dyck: brackets of k types, properly nested."""

from collections.abc import Sequence

import numpy as np
from numba import njit
from pydantic import Field

from procedural_data._brackets import LARGEST, Brackets


class Dyck(Brackets):
    """A balanced word of L brackets in which every bracket closes the one that was opened last.

    Until the end has to be prepared, brackets open with probability p_open (see Brackets for the law). There is no
    prompt: every token after the first is scored, and those that open cannot be known in advance.

        Dyck(k=2, seq_length=6)
        input_ids   (1 (0 )0 (0 )0 )1
        targets     (0 )0 (0 )0 )1 .     . is IGNORE
    """

    seq_length: int = Field(2048, ge=2, le=LARGEST, multiple_of=2, description="L, brackets in a sequence; even")

    @property
    def ends_balanced(self) -> bool:
        return True

    def write(self, rng: np.random.Generator, opens: np.ndarray) -> np.ndarray:
        input_ids = rng.integers(self.k, size=opens.shape, dtype=np.int64)
        _close(opens, self.k, input_ids)
        return input_ids

    def ways_to_close(self, input_ids: np.ndarray) -> int:
        return 1

    def check(self, input_ids: Sequence[int]) -> None:
        """Matches brackets with an explicit stack."""
        stack: list[int] = []
        for position, (kind, opens) in enumerate(self.parse(input_ids)):
            if opens:
                stack.append(kind)
            elif (last := stack.pop()) != kind:
                raise ValueError(f"position {position} closes type {kind}, but type {last} was opened last")


@njit(cache=True, nogil=True)
def _close(opens: np.ndarray, k: int, input_ids: np.ndarray) -> None:
    """Turns the ids that do not open into the closing ids of what they close, in place; both are (B, L)."""
    size, length = opens.shape
    stack = np.empty(length, dtype=np.int64)
    for row in range(size):
        depth = 0
        for t in range(length):
            if opens[row, t]:
                stack[depth] = input_ids[row, t]
                depth += 1
            else:
                depth -= 1
                input_ids[row, t] = k + stack[depth]
