"""Sorting: items, then the same items in ascending order."""

from bisect import insort
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field

from core.batch import IGNORE, Batch
from downstream.algorithmic_tasks.tasks._question import Question

ITEMS = 100
EQUALS, PAD, STOP = ITEMS, ITEMS + 1, ITEMS + 2

# B examples, N items in the longest.


class Sorting(Question):
    """The model reads n items and =, and writes them in ascending order, then a token that stops it.

    Items are 0 .. 99, drawn with repetition; n is uniform in min_len .. max_len. The format is ours: the paper has the
    task in its tables but publishes no form of it.

        Sorting(min_len=1, max_len=2)
        input_ids   7 3 = 3 7 #
        targets     . . 3 7 # .     = predicts the first item; . is IGNORE, and no pad is ever predicted
    """

    min_len: int = Field(10, ge=1, le=256, description="fewest items; each number of items is equally likely")
    max_len: int = Field(10, ge=1, le=256, description="N, most items")

    @property
    def num_tokens(self) -> int:
        return ITEMS + 3

    @property
    def block_size(self) -> int:
        return 2 * self.max_len + 2

    @property
    def pad_token(self) -> int:
        return PAD

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        N, T = self.max_len, self.block_size
        n = rng.integers(self.min_len, N + 1, size=(size, 1))
        is_item = np.arange(N) < n  # (B, N)
        items = np.where(is_item, rng.integers(0, ITEMS, size=(size, N)), PAD)  # PAD is above every item
        places = np.arange(T)
        answer = np.pad(np.sort(items, axis=1), ((0, 0), (0, 1)), constant_values=PAD)
        np.put_along_axis(answer, n, STOP, axis=1)

        input_ids = np.full((size, T), PAD, dtype=np.int64)
        input_ids[:, :N] = items
        np.put_along_axis(input_ids, n, EQUALS, axis=1)
        in_answer = (places > n) & (places <= 2 * n + 1)  # (B, T)
        input_ids[in_answer] = answer[answer != PAD]
        targets = np.full_like(input_ids, IGNORE)
        targets[:, :-1][in_answer[:, 1:]] = input_ids[in_answer]
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(targets))

    def check(self, input_ids: Sequence[int]) -> None:
        """Puts one item after the other into its place in a list."""
        names = [self.token_name(token) for token in self.full_length(input_ids)]
        ordered: list[int] = []
        for name in names:
            if name == "=":
                break
            if not name.isdigit():
                raise ValueError(f"item {len(ordered) + 1} is {name}, which is no item")
            insort(ordered, int(name))
        if not self.min_len <= len(ordered) <= self.max_len:
            raise ValueError(f"there are {len(ordered)} items; there should be {self.min_len} to {self.max_len}")
        rest = [*map(str, ordered), "#"]
        expected = [*rest, *["_"] * (len(names) - len(ordered) - 1 - len(rest))]
        answer = names[len(ordered) + 1 :]
        if answer != expected:
            raise ValueError(f"the answer reads {' '.join(answer)}; it should read {' '.join(expected)}")

    def token_name(self, token: int) -> str:
        self.check_token(token)
        return {EQUALS: "=", PAD: "_", STOP: "#"}.get(token, str(token))
