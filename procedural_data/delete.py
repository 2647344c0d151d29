"""Delete: a list and a query, then the list without the first occurrence of the query."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from procedural_data._prompt_and_answer import LARGEST, PromptAndAnswer, compare


class Delete(PromptAndAnswer):
    """The model reads L items and a query, then writes the items without the first one that equals the query.

    Items are 1 .. vocab_size - 1, drawn with repetition. If the query is not among them, the answer is all of them. The
    query is drawn like an item, independently of the list, unless `present_probability` says how often it occurs there:
    then it is any of the distinct symbols of the list, or any of the other symbols, with equal chances.

        Delete(seq_length=4, vocab_size=6)
        input_ids   5 1 4 4 | 4 | 5 1 4 _
        targets     . . . . . . 5 1 4 . .     only the first 4 goes; . is IGNORE, and no pad is ever predicted
    """

    # A list of one item could lose it, and leave nothing to predict.
    seq_length: int = Field(64, ge=2, le=LARGEST, description="L, items in the list")
    present_probability: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of queries that occur in the list; null draws them independently of it. "
        "Less than 1 needs vocab_size - 1 > seq_length, so that a symbol is always absent",
    )

    @model_validator(mode="after")
    def _has_an_absent_symbol(self) -> Self:
        share = self.present_probability
        if share is not None and share < 1 and self.vocab_size - 1 <= self.seq_length:
            raise ValueError(
                f"present_probability {share} needs a symbol that is not in the list: vocab_size {self.vocab_size} "
                f"is too small for seq_length {self.seq_length}; it must be at least {self.seq_length + 2}"
            )
        return self

    @property
    def operand_lengths(self) -> tuple[int, int]:
        return self.seq_length, 1

    def operands(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
        items = self.draw_items(rng, size, self.seq_length)  # (B, L)
        if self.present_probability is None:
            query = self.draw_items(rng, size, 1)  # (B, 1)
        else:
            is_present = rng.random((size, 1)) < self.present_probability
            query = np.where(is_present, *_present_and_absent(rng, items, self.vocab_size - 1))
        return items, query

    def answer(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        items, query = operands
        found = items == query
        first = np.where(found.any(axis=1), found.argmax(axis=1), self.seq_length)[:, None]  # (B, 1)
        moved_up = np.pad(items[:, 1:], ((0, 0), (0, 1)), constant_values=self.pad_token)
        is_before = np.arange(self.seq_length) < first
        return np.where(is_before, items, moved_up)

    def check(self, input_ids: Sequence[int]) -> None:
        """Lets Python's list remove the query."""
        items, (query,), answer = self.parse(input_ids)
        if query in items and self.present_probability == 0:
            raise ValueError(f"the query {query} is in the list, which present_probability 0 rules out")
        if query not in items and self.present_probability == 1:
            raise ValueError(f"the query {query} is not in the list, which present_probability 1 rules out")
        if query in items:
            items.remove(query)
        compare(answer, items)


def _present_and_absent(rng: np.random.Generator, items: np.ndarray, symbols: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row of items (B, L), one of its distinct symbols and one of the others of 1 .. symbols, each (B, 1).

    Where nothing is absent the second is arbitrary.
    """
    ranked = np.sort(items, axis=1)
    is_new = np.diff(ranked, axis=1, prepend=0) > 0
    distinct = np.cumsum(is_new, axis=1)  # (B, L): distinct symbols up to each place
    number = distinct[:, -1:]
    u = rng.random((len(items), 1))

    place = (distinct > np.floor(u * number)).argmax(axis=1)
    present = np.take_along_axis(ranked, place[:, None], axis=1)

    # The absent symbol of rank r (from 0) is r + 1 plus the number of present symbols below it, and a present symbol s
    # is below it where at most r absent ones are smaller than s.
    rank = np.floor(u * (symbols - number)).astype(np.int64)
    absent = rank + 1 + np.sum(is_new & (ranked - distinct <= rank), axis=1, keepdims=True)
    return present, absent
