"""What the seven tasks share whose model reads a prompt, a separator, and then writes the answer."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from pydantic import Field

from core.batch import IGNORE, Batch
from core.task import Task

LARGEST = 2**20  # of any size: far beyond what a model reads, and two such numbers pack into one int64

# B examples, L items to read, T tokens in all.


class PromptAndAnswer(Task):
    """One or more operands, a separator after each, the answer, and pads up to the fixed length.

    With V = vocab_size, items are 1 .. V - 1, the separator is V and the pad V + 1. Id 0 is left to a task's own use.
    Scored are the tokens of the answer and nothing else: the first by the last separator, no pad ever.
    """

    seq_length: int = Field(64, ge=1, le=LARGEST, description="L, items to read")
    vocab_size: int = Field(100, ge=2, le=LARGEST, description="V; the items are the V - 1 symbols 1 .. V - 1")

    @property
    def operand_lengths(self) -> tuple[int, ...]:
        return (self.seq_length,)

    @property
    def prompt_length(self) -> int:
        """Tokens up to the last separator, with it."""
        return sum(self.operand_lengths) + len(self.operand_lengths)

    @property
    def block_size(self) -> int:
        return self.prompt_length + self.seq_length

    @property
    def separator(self) -> int:
        return self.vocab_size

    @property
    def pad_token(self) -> int:
        return self.vocab_size + 1

    @property
    def num_tokens(self) -> int:
        return self.vocab_size + 2

    def draw_items(self, rng: np.random.Generator, size: int, length: int) -> np.ndarray:
        """Items drawn independently and with repetition, int64 (size, length)."""
        return rng.integers(1, self.vocab_size, size=(size, length), dtype=np.int64)

    def operands(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
        """What is read, drawn at random: one int64 (size, length) for each of `operand_lengths`."""
        return (self.draw_items(rng, size, self.seq_length),)

    @abstractmethod
    def answer(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        """What is written, integers (B, T - prompt_length), which end in pads where a row is shorter."""

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        operands = self.operands(rng, size)
        return self.join(self.lay_out(operands), self.answer(operands))

    def sample_where(self, rng: np.random.Generator, size: int, choose: Callable[[np.ndarray], np.ndarray]) -> Batch:
        operands = self.operands(rng, size)
        prompts = self.lay_out(operands)
        chosen = choose(prompts)
        return self.join(prompts[chosen], self.answer([operand[chosen] for operand in operands]))

    def lay_out(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        """The prompts: each operand with a separator after it, int64 (B, prompt_length)."""
        prompts = np.empty((len(operands[0]), self.prompt_length), dtype=np.int64)
        start = 0
        for operand in operands:
            stop = start + operand.shape[1]
            prompts[:, start:stop], prompts[:, stop] = operand, self.separator
            start = stop + 1
        return prompts

    def join(self, prompts: np.ndarray, answer: np.ndarray) -> Batch:
        """Prompts and what `answer` gave for them, with the tokens of the answer as targets."""
        start = self.prompt_length
        input_ids = np.empty((len(prompts), self.block_size), dtype=np.int64)
        input_ids[:, :start], input_ids[:, start:] = prompts, answer

        targets = np.empty_like(input_ids)
        targets[:, : start - 1], targets[:, start - 1 : -1], targets[:, -1] = IGNORE, answer, IGNORE
        is_pad = answer == self.pad_token
        if is_pad.any():
            targets[:, start - 1 : -1][is_pad] = IGNORE
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(targets))

    def prompt(self, batch: Batch) -> np.ndarray:
        return batch.input_ids.numpy()[:, : self.prompt_length]

    def parse(self, input_ids: Sequence[int]) -> list[list[int]]:
        """The operands and the answer of one sequence as lists, for `check`. Raises ValueError on any other layout."""
        tokens = self.full_length(input_ids)
        while tokens and tokens[-1] == self.pad_token:
            tokens.pop()

        parts: list[list[int]] = [[]]
        for position, token in enumerate(tokens):
            if token == self.separator:
                parts.append([])
            elif self.is_item(token):
                parts[-1].append(token)
            else:
                raise ValueError(f"position {position} holds {token}, which is neither an item nor the separator")

        lengths = tuple(len(part) for part in parts[:-1])
        if lengths != self.operand_lengths:
            raise ValueError(f"separators end operands of {lengths} items; they should have {self.operand_lengths}")
        return parts

    def is_item(self, token: int) -> bool:
        return 1 <= token < self.vocab_size

    def token_name(self, token: int) -> str:
        self.check_token(token)
        return {self.separator: "|", self.pad_token: "_"}.get(token, str(token))


def without_repetitions(items: np.ndarray, pad: int) -> np.ndarray:
    """Keeps the first occurrence of each item, in order, and fills up with `pad`. int64 (B, L) to the same shape.

    Sorts pairs (item, position), blanks all but the first of each run, and sorts back by position. A pair is packed
    into one integer, as NumPy sorts those many times faster than it looks values up in a table.
    """
    positions = np.arange(items.shape[1], dtype=np.int64)
    item, position = _unpack(np.sort(items << 32 | positions, axis=1))

    by_position = position << 32 | item
    repeated = item[:, 1:] == item[:, :-1]
    by_position[:, 1:][repeated] = LARGEST << 32 | pad  # behind every position
    by_position.sort(axis=1)
    return _unpack(by_position)[1]


def _unpack(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return packed >> 32, packed & (2**32 - 1)


def compare(answer: list[int], expected: list[int]) -> None:
    """Raises ValueError at the first place where an answer is not what `check` expects."""
    if answer == expected:
        return
    for place, (found, right) in enumerate(zip(answer, expected, strict=False), start=1):
        if found != right:
            raise ValueError(f"place {place} of the answer holds {found}; it should hold {right}")
    raise ValueError(f"the answer has {len(answer)} items; it should have {len(expected)}")
