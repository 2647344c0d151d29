"""What the two bracket tasks share: the law by which a sequence opens and closes, whatever the types of brackets."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numba import njit
from pydantic import Field

from core.batch import IGNORE, Batch
from core.task import Oracle, Task

LARGEST = 2**20  # of any size: far beyond what a model reads

# B examples, L brackets in each.


class Brackets(Task):
    """L brackets of k types, none closed that was not opened. Every token after the first is scored.

    Type j opens with id j and closes with id k + j; the pad, 2k, never occurs. With d brackets open, the next one

        opens         if d = 0,
        closes        if d = max_depth, or, where sequences end balanced, if only d positions are left,
        opens         with probability p_open otherwise.

    A bracket that opens is of any type with equal chances. The tasks differ in what may close.
    """

    examples_per_block: ClassVar[int] = 64  # sequences are long

    k: int = Field(64, ge=1, le=LARGEST, description="types of brackets")
    seq_length: int = Field(2048, ge=2, le=LARGEST, description="L, brackets in a sequence")
    p_open: float = Field(0.5, ge=0, le=1, description="probability to open where both is allowed")
    max_depth: int | None = Field(None, ge=1, le=LARGEST, description="most brackets open at once; null for no limit")

    @property
    @abstractmethod
    def ends_balanced(self) -> bool:
        """Whether every bracket is closed at the end."""

    @abstractmethod
    def write(self, rng: np.random.Generator, opens: np.ndarray) -> np.ndarray:
        """Token ids, int64 (B, L), of sequences that open where `opens` says so and close elsewhere."""

    @abstractmethod
    def ways_to_close(self, input_ids: np.ndarray) -> np.ndarray | int:
        """How many tokens may close after each position, all with equal chances; at least 1. int64 (B, L)."""

    @property
    def num_tokens(self) -> int:
        return 2 * self.k + 1

    @property
    def block_size(self) -> int:
        return self.seq_length

    @property
    def pad_token(self) -> int:
        return 2 * self.k

    @property
    def depth_limit(self) -> int:
        return self.seq_length if self.max_depth is None else self.max_depth

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        wants_open = rng.random((size, self.seq_length)) < self.p_open
        input_ids = self.write(rng, _walk(wants_open, self.depth_limit, self.ends_balanced))
        targets = np.full_like(input_ids, IGNORE)
        targets[:, :-1] = input_ids[:, 1:]
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(targets))

    def oracle(self, batch: Batch) -> Oracle:
        """Exact for every batch that the task can emit: it knows the law, the position, and what is open."""
        input_ids, targets = batch.input_ids.numpy(), batch.targets.numpy()
        depth = np.cumsum(np.where(input_ids < self.k, 1, -1), axis=1)  # (B, L), after each position
        opening = self._chance_to_open(depth, left=np.arange(self.seq_length)[::-1])
        each_open = opening / self.k
        each_close = (1 - opening) / self.ways_to_close(input_ids)

        scored = targets != IGNORE
        prob = np.where(targets < self.k, each_open, each_close)
        log_prob = np.log(prob, out=np.zeros_like(prob), where=scored)
        best_prob = np.where(scored, np.maximum(each_open, each_close), 0.0)
        return Oracle(torch.from_numpy(log_prob), torch.from_numpy(best_prob))

    def _chance_to_open(self, depth: np.ndarray, left: np.ndarray) -> np.ndarray:
        """With `depth` brackets open and `left` positions to write; (B, L) and (L,) to (B, L)."""
        chance = np.full(depth.shape, self.p_open)
        chance[depth == self.depth_limit] = 0
        if self.ends_balanced:
            chance[depth == left] = 0
        chance[depth == 0] = 1
        return chance

    def parse(self, input_ids: Sequence[int]) -> list[tuple[int, bool]]:
        """Type of each bracket and whether it opens, for `check`. Raises ValueError where the depths break the law."""
        tokens = self.full_length(input_ids)
        depth, brackets = 0, []
        for position, token in enumerate(tokens):
            if not 0 <= token < 2 * self.k:
                raise ValueError(f"position {position} holds {token}, which is no bracket")
            opens = token < self.k
            reason = self._reason_against(opens, depth, left=len(tokens) - position)
            if reason:
                raise ValueError(f"position {position} {'opens' if opens else 'closes'} at depth {depth}: {reason}")
            depth += 1 if opens else -1
            brackets.append((token if opens else token - self.k, opens))
        if self.ends_balanced and depth > 0:
            raise ValueError(f"{depth} brackets are never closed")
        return brackets

    def _reason_against(self, opens: bool, depth: int, left: int) -> str | None:
        if opens and depth == self.max_depth:
            return f"max_depth is {self.max_depth}"
        if opens and depth > 0 and self.p_open == 0:
            return "p_open is 0"
        if not opens and depth == 0:
            return "nothing is open"
        has_to_close = depth == self.max_depth or (self.ends_balanced and depth == left)
        if not opens and not has_to_close and self.p_open == 1:
            return "p_open is 1"
        return None

    def token_name(self, token: int) -> str:
        self.check_token(token)
        if token == self.pad_token:
            return "_"
        return f"({token}" if token < self.k else f"){token - self.k}"


@njit(cache=True, nogil=True)
def _walk(wants_open: np.ndarray, depth_limit: int, ends_balanced: bool) -> np.ndarray:
    """Which positions open, bool (B, L), given which would if both were allowed."""
    size, length = wants_open.shape
    opens = np.empty_like(wants_open)
    for row in range(size):
        depth = 0
        for t in range(length):
            if depth == 0:
                opens[row, t] = True
            elif depth == depth_limit or (ends_balanced and depth == length - t):
                opens[row, t] = False
            else:
                opens[row, t] = wants_open[row, t]
            depth += 1 if opens[row, t] else -1
    return opens
