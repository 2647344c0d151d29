"""Needle in a haystack: pairs of key and value, then a key whose value is wanted."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from core.batch import IGNORE, Batch
from downstream.algorithmic_tasks.tasks._question import Question

V = 256
PAD, KEYS = 0, V // 2  # values are 1 .. V / 2 - 1, key k is V / 2 + k, the query for it V / 2 + N + k

# B examples, N keys, n pairs in one example.


class Haystack(Question):
    """The model reads n pairs of key and value, then a query for one of the keys, and writes its value.

    n is uniform in min_len .. max_len. With N = max_len, the keys of an example are n of N distinct ones, in any order;
    values are drawn with repetition. Any key is asked for with equal chances.

        Haystack(min_len=1, max_len=2)
        input_ids   k1 v7 ?1 v7 _ _ _
        targets     .  .  v7 .  . . .     the query predicts the value; . is IGNORE, and no pad is ever predicted
    """

    starts_at_one: ClassVar[bool] = True
    setting: ClassVar[dict[str, int]] = {**Question.setting, "n_positions": 100}

    min_len: int = Field(1, ge=1, le=V // 4, description="fewest pairs; each number of pairs is equally likely")
    max_len: int = Field(30, ge=1, le=V // 4, description="N, most pairs, and number of keys")

    @property
    def num_tokens(self) -> int:
        return V

    @property
    def block_size(self) -> int:
        return 2 * self.max_len + 3  # as documented, with a pad after the longest

    @property
    def pad_token(self) -> int:
        return PAD

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        N, T = self.max_len, self.block_size
        n = rng.integers(self.min_len, N + 1, size=size)
        keys = rng.permuted(np.tile(np.arange(N), (size, 1)), axis=1)  # (B, N), of which the first n are used
        values = rng.integers(1, KEYS, size=(size, N))
        asked = (rng.random(size) * n).astype(np.int64)

        input_ids = np.full((size, T), PAD, dtype=np.int64)
        input_ids[:, 0 : 2 * N : 2] = KEYS + keys
        input_ids[:, 1 : 2 * N : 2] = values
        input_ids[np.arange(T) >= 2 * n[:, None]] = PAD
        rows = np.arange(size)
        input_ids[rows, 2 * n] = KEYS + N + keys[rows, asked]
        input_ids[rows, 2 * n + 1] = values[rows, asked]

        targets = np.full_like(input_ids, IGNORE)
        targets[rows, 2 * n] = values[rows, asked]
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(targets))

    def floors(self, batch: Batch) -> dict[str, float]:
        """`copy_floor`: a value of the context, whichever. 1 / n on average, and a little more, as values repeat."""
        (rows, positions) = (batch.targets != IGNORE).nonzero(as_tuple=True)
        pairs = positions // 2  # the query stands after them
        wanted = batch.targets[rows, positions]
        matches = (batch.input_ids == wanted[:, None]).sum(dim=1) - 1  # less the answer itself
        return {"copy_floor": (matches / pairs).mean().item()}

    def check(self, input_ids: Sequence[int]) -> None:
        """Walks over the sequence with a dictionary."""
        names = [self.token_name(token) for token in self.full_length(input_ids)]
        known: dict[str, str] = {}
        while len(names) > 1 and names[0].startswith("k"):
            key, value = names.pop(0), names.pop(0)
            if key in known or not value.startswith("v"):
                raise ValueError(f"after {len(known)} pairs comes {key} {value}, which is no new key with a value")
            known[key] = value
        if not self.min_len <= len(known) <= self.max_len:
            raise ValueError(f"there are {len(known)} pairs; there should be {self.min_len} to {self.max_len}")
        query, answer, *rest = names
        if not query.startswith("?") or "k" + query[1:] not in known:
            raise ValueError(f"after the pairs comes {query}, which asks for none of the keys")
        if answer != known["k" + query[1:]]:
            raise ValueError(f"the answer is {answer}; it should be {known['k' + query[1:]]}")
        if set(rest) - {"_"}:
            raise ValueError(f"after the answer comes {' '.join(rest)}, where pads are expected")

    def token_name(self, token: int) -> str:
        self.check_token(token)
        if token == PAD:
            return "_"
        if token < KEYS:
            return f"v{token}"
        number = token - KEYS
        return f"k{number}" if number < self.max_len else f"?{number - self.max_len}"
