"""The control that keeps a task's tokens and loses their order."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, SerializeAsAny

from core.batch import IGNORE, Batch
from core.task import Task


class Shuffled(Task):
    """The sequences of another task with the tokens of each in random order, pads apart, which stay at the end.

    As many next tokens are predicted as in the task, at the same positions. How frequent tokens are, and which occur
    together, remains; what follows from what is lost.
    """

    of: SerializeAsAny[Task] = Field(description="the task")

    @property
    def examples_per_block(self) -> int:  # type: ignore[override]
        return self.of.examples_per_block

    @property
    def num_tokens(self) -> int:
        return self.of.num_tokens

    @property
    def block_size(self) -> int:
        return self.of.block_size

    @property
    def pad_token(self) -> int | None:
        return self.of.pad_token

    @property
    def name(self) -> str:
        return f"{self.of.name} with shuffled tokens"

    @property
    def fingerprint(self) -> str:
        return hashlib.blake2b(f"shuffled {self.of.fingerprint}".encode(), digest_size=16).hexdigest()

    def replace(self, **changes: Any) -> Self:
        return type(self)(of=self.of.replace(**changes))

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        input_ids, scored = (x.numpy() for x in self.of.sample(rng, size))
        key = rng.random(input_ids.shape)
        if self.pad_token is not None:
            key[input_ids == self.pad_token] = 1  # behind every other
        shuffled = np.take_along_axis(input_ids, np.argsort(key, axis=1), axis=1)
        targets = np.full_like(shuffled, IGNORE)
        np.copyto(targets[:, :-1], shuffled[:, 1:], where=scored[:, :-1] != IGNORE)
        return Batch(torch.from_numpy(shuffled), torch.from_numpy(targets))

    def check(self, input_ids: Sequence[int]) -> None:
        """Only whether the tokens are ids of the task, with pads at the end: any order of them may occur."""
        tokens = self.full_length(input_ids)
        for token in Counter(tokens):
            self.check_token(token)
        pads = [token == self.pad_token for token in tokens]
        if pads != sorted(pads):
            raise ValueError("a pad stands before another token")

    def token_name(self, token: int) -> str:
        return self.of.token_name(token)
