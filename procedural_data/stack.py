"""Stack: a program of pushes and pops, then what is left on the stack."""

from collections.abc import Sequence

import numpy as np
from numba import njit
from pydantic import Field

from procedural_data._prompt_and_answer import LARGEST, PromptAndAnswer, compare

POP = 0
PUSH_EARLY, PUSH_LATE = 0.75, 0.25  # chance of a push in the first two thirds of the program, and after


class Stack(PromptAndAnswer):
    """The model reads L operations, each a symbol to push or POP, then writes the stack from top to bottom.

    Symbols are 1 .. vocab_size - 1, and those on the stack are always distinct: a push draws from the others with equal
    chances, and becomes a pop where there is none. A stack of at most one symbol is pushed upon. Otherwise the
    last operation pops, and a push has probability 3/4 during the first two thirds (rounded down) and 1/4 after.

        Stack(seq_length=4, vocab_size=6)
        input_ids   4 1 3 POP | 1 4 _
        targets     . . .  .  1 4 . .     top first; . is IGNORE, and no pad is ever predicted
    """

    # Two symbols and three operations are the least that never empty the stack and never overflow 2L tokens.
    seq_length: int = Field(64, ge=3, le=LARGEST, description="L, operations to read")
    vocab_size: int = Field(100, ge=3, le=LARGEST, description="V; the symbols to push are 1 .. V - 1, and 0 is POP")

    @property
    def block_size(self) -> int:
        return 2 * self.seq_length  # as documented; at most L - 2 symbols are left, so the last token is always a pad

    def operands(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
        shape = size, self.seq_length
        chance = np.where(np.arange(self.seq_length) < 2 * self.seq_length // 3, PUSH_EARLY, PUSH_LATE)
        wants_push = rng.random(shape) < chance
        choice = rng.random(shape)

        operations = np.full(shape, POP, dtype=np.int64)
        _draw_pushes(wants_push, choice, self.vocab_size - 1, operations)
        return (operations,)

    def answer(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        (operations,) = operands
        left = np.full((len(operations), self.seq_length - 1), self.pad_token, dtype=np.int64)
        _run(operations, left)
        return left

    def is_item(self, token: int) -> bool:
        return token == POP or super().is_item(token)

    def token_name(self, token: int) -> str:
        return "POP" if token == POP else super().token_name(token)

    def check(self, input_ids: Sequence[int]) -> None:
        """Runs the program on a Python list."""
        operations, answer = self.parse(input_ids)
        stack: list[int] = []
        for step, operation in enumerate(operations, start=1):
            if operation == POP and len(stack) <= 1:
                raise ValueError(f"operation {step} pops a stack of {len(stack)}; such a stack is pushed upon")
            if operation == POP:
                stack.pop()
                continue
            if operation in stack:
                raise ValueError(f"operation {step} pushes {operation}, which is on the stack already")
            if step == self.seq_length and len(stack) > 1:
                raise ValueError(f"the last operation pushes {operation} on a stack of {len(stack)}; it should pop")
            stack.append(operation)
        compare(answer, stack[::-1])


@njit(cache=True, nogil=True)
def _draw_pushes(wants_push: np.ndarray, choice: np.ndarray, symbols: int, operations: np.ndarray) -> None:
    """Fills in the pushes of `operations` (B, L), which hold pops; `choice` is uniform on [0, 1)."""
    size, length = operations.shape
    pool = np.arange(1, symbols + 1)  # pool[:free] is free, pool[free:] is the stack with its top first
    for row in range(size):
        free = symbols  # in whatever order the last row left the pool, a uniform draw from it is uniform
        for t in range(length):
            depth = symbols - free
            if depth <= 1:
                pushes = True
            elif t == length - 1:
                pushes = False
            else:
                pushes = wants_push[row, t] and free > 0
            if pushes:
                drawn = int(choice[row, t] * free)
                free -= 1
                pool[drawn], pool[free] = pool[free], pool[drawn]
                operations[row, t] = pool[free]
            else:
                free += 1


@njit(cache=True, nogil=True)
def _run(operations: np.ndarray, left: np.ndarray) -> None:
    """Writes what `operations` (B, L) leave on a stack to the start of each row of `left`, top first."""
    size, length = operations.shape
    stack = np.empty(length, dtype=np.int64)
    for row in range(size):
        depth = 0
        for t in range(length):
            if operations[row, t] == POP:
                depth -= 1
            else:
                stack[depth] = operations[row, t]
                depth += 1
        for place in range(depth):
            left[row, place] = stack[depth - 1 - place]
