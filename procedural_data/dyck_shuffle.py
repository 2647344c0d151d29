"""Shuffled Dyck: brackets of k types, each type balanced for itself, all types interleaved."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numba import njit
from pydantic import Field, model_validator

from procedural_data._brackets import LARGEST, Brackets


class DyckShuffle(Brackets):
    """L brackets in which types may cross: a bracket closes any type that is open, not the one that was opened last.

    Which type closes is drawn from the distinct types that are open, with equal chances however many brackets of each
    are open (see Brackets for the rest of the law). By default a sequence simply stops after L brackets, most often
    with some of them open; `balanced` closes them all in time, which makes it an interleaving of balanced words. There
    is no prompt: every token after the first is scored.

        DyckShuffle(k=2, seq_length=6)
        input_ids   (1 (0 )1 (0 )0 (1
        targets     (0 )1 (0 )0 (1 .     one (0 and one (1 stay open; . is IGNORE
    """

    max_depth: int | None = Field(16, ge=1, le=LARGEST, description="most brackets open at once; null for no limit")
    balanced: bool = Field(False, description="close every bracket by the end, which needs an even seq_length")

    @model_validator(mode="after")
    def _can_end_balanced(self) -> Self:
        if self.balanced and self.seq_length % 2:
            raise ValueError(f"balanced needs an even seq_length, not {self.seq_length}: brackets come in pairs")
        return self

    @property
    def ends_balanced(self) -> bool:
        return self.balanced

    def write(self, rng: np.random.Generator, opens: np.ndarray) -> np.ndarray:
        input_ids = rng.integers(self.k, size=opens.shape, dtype=np.int64)
        _close(opens, rng.random(opens.shape), self.k, input_ids)
        return input_ids

    def ways_to_close(self, input_ids: np.ndarray) -> np.ndarray:
        """The distinct types that are open after each position."""
        rows = np.arange(len(input_ids))
        unclosed = np.zeros((len(input_ids), self.k), dtype=np.int64)
        distinct = np.empty_like(input_ids)
        for t, tokens in enumerate(input_ids.T):
            unclosed[rows, tokens % self.k] += np.where(tokens < self.k, 1, -1)
            distinct[:, t] = np.count_nonzero(unclosed, axis=1)
        return np.maximum(distinct, 1)

    def check(self, input_ids: Sequence[int]) -> None:
        """Counts what is open of each type."""
        unclosed = [0] * self.k
        for position, (kind, opens) in enumerate(self.parse(input_ids)):
            if not opens and unclosed[kind] == 0:
                raise ValueError(f"position {position} closes type {kind}, of which none is open")
            unclosed[kind] += 1 if opens else -1


@njit(cache=True, nogil=True)
def _close(opens: np.ndarray, choice: np.ndarray, k: int, input_ids: np.ndarray) -> None:
    """Turns the ids that do not open into closing ids, in place; `choice` is uniform on [0, 1), all are (B, L)."""
    size, length = opens.shape
    unclosed = np.empty(k, dtype=np.int64)  # of each type
    types = np.empty(k, dtype=np.int64)  # types[:distinct] are those of which some are open, in any order
    for row in range(size):
        unclosed[:] = 0
        distinct = 0
        for t in range(length):
            if opens[row, t]:
                kind = input_ids[row, t]
                if unclosed[kind] == 0:
                    types[distinct] = kind
                    distinct += 1
                unclosed[kind] += 1
            else:
                drawn = int(choice[row, t] * distinct)
                kind = types[drawn]
                input_ids[row, t] = k + kind
                unclosed[kind] -= 1
                if unclosed[kind] == 0:
                    distinct -= 1
                    types[drawn] = types[distinct]
