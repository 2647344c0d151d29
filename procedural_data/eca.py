"""Elementary cellular automaton: states of a ring of cells, each following from the one before."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from pydantic import Field

from core.batch import IGNORE, Batch
from core.task import Task

LARGEST = 2**20  # of any size: far beyond what a model reads
SEPARATOR = 2

# B examples, W cells, L states.


class Eca(Task):
    """The model reads a state of W cells in a ring, then writes the states that follow, L in all.

    The cells of the first state are 0 or 1 with equal chances. A cell's next value is bit 4 * left + 2 * itself + right
    of the rule's number (Wolfram, 1983, "Statistical mechanics of cellular automata"). A separator stands between
    states. Which split an example belongs to is decided by its first state.

        Eca(seq_length=3, width=4)
        input_ids   0 0 1 0 | 0 1 1 0 | 1 1 1 0
        targets     . . . . 0 1 1 0 . 1 1 1 0 .     rule 110; a separator predicts the first cell; . is IGNORE
    """

    seq_length: int = Field(8, ge=2, le=LARGEST, description="L, states in a sequence")
    width: int = Field(32, ge=1, le=LARGEST, description="W, cells in the ring")
    rule: int = Field(110, ge=0, le=255, description="number of the automaton")

    @property
    def num_tokens(self) -> int:
        return 3

    @property
    def block_size(self) -> int:
        return self.seq_length * (self.width + 1) - 1

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        following = np.array([self.rule >> neighbours & 1 for neighbours in range(8)], dtype=np.int8)
        state = rng.integers(0, 2, size=(size, self.width), dtype=np.int8)  # (B, W)
        sequence = np.full((size, self.seq_length, self.width + 1), SEPARATOR, dtype=np.int64)
        for number in range(self.seq_length):
            sequence[:, number, :-1] = state
            state = following[4 * np.roll(state, 1, axis=1) + 2 * state + np.roll(state, -1, axis=1)]
        input_ids = np.ascontiguousarray(sequence.reshape(size, self.block_size + 1)[:, :-1])

        targets = np.full_like(input_ids, IGNORE)
        targets[:, self.width : -1] = input_ids[:, self.width + 1 :]
        targets[targets == SEPARATOR] = IGNORE
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(targets))

    def prompt(self, batch: Batch) -> np.ndarray:
        return np.ascontiguousarray(batch.input_ids.numpy()[:, : self.width])

    def check(self, input_ids: Sequence[int]) -> None:
        """Looks each neighbourhood up in the rule, written as eight binary digits from 111 down to 000."""
        states = "".join(map(self.token_name, self.full_length(input_ids))).split("|")
        if [len(state) for state in states] != [self.width] * self.seq_length:
            raise ValueError(
                f"there are states of {[len(s) for s in states]} cells, not {self.seq_length} of {self.width}"
            )
        outcome = dict(zip(range(7, -1, -1), f"{self.rule:08b}", strict=True))
        for number, (state, following) in enumerate(pairwise(states), start=2):
            ring = state[-1] + state + state[0]
            for cell in range(self.width):
                expected = outcome[int(ring[cell : cell + 3], 2)]
                if following[cell] != expected:
                    raise ValueError(f"cell {cell} of state {number} is {following[cell]}; it should be {expected}")

    def token_name(self, token: int) -> str:
        self.check_token(token)
        return "01|"[token]
