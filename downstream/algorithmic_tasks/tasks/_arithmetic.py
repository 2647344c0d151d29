"""What addition and multiplication share: numbers written as digits, and a result that is written the same way."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numba import njit

from core.batch import IGNORE, Batch
from downstream.algorithmic_tasks.tasks._question import Question

OPERATOR, EQUALS, PAD = 10, 11, 12
ANSWER = 20  # digit d of the answer is token 20 + d; digits of the operands are themselves
STOP = 30
NAMES = [
    *"0123456789",
    "",
    "=",
    "_",
    *(f"unused{token}" for token in range(13, 20)),
    *(f"{d}'" for d in range(10)),
    "#",
]

# B examples, M digits in the longest operand, T tokens. Numbers are kept with the least significant digit first.


class Arithmetic(Question):
    """The model reads two numbers with an operator and =, and writes the result and a token that stops it.

    Each operand has min_len to max_len digits, every length being equally likely, and is uniform among the numbers of
    its length; it never starts with 0. The digits of the result have tokens of their own.
    """

    symbol: ClassVar[str]
    reversed: ClassVar[bool] = False  # numbers are written with the least significant digit first

    @property
    @abstractmethod
    def answer_digits(self) -> int:
        """Room for the digits of the result in the fixed length T, where the stop and at least one digit fit, too."""

    @staticmethod
    @abstractmethod
    def compute(digits: np.ndarray, lengths: np.ndarray, answer: np.ndarray) -> None:
        """Fills `answer` (B, A), zeros before, with the digits of the result of `digits` (B, 2, M)."""

    @staticmethod
    @abstractmethod
    def result(left: int, right: int) -> int:
        """The same with whole numbers, for `check`."""

    @property
    def num_tokens(self) -> int:
        return 31

    @property
    def block_size(self) -> int:
        return 2 * self.max_len + 2 + self.answer_digits + 1

    @property
    def pad_token(self) -> int:
        return PAD

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        M, T = self.max_len, self.block_size
        lengths = rng.integers(self.min_len, M + 1, size=(size, 2))
        digits = rng.integers(0, 10, size=(size, 2, M), dtype=np.uint8).astype(np.int64)
        leading = rng.integers(1, 10, size=(size, 2))
        np.put_along_axis(digits, lengths[:, :, None] - 1, leading[:, :, None], axis=2)
        digits[np.arange(M) >= lengths[:, :, None]] = 0

        answer = np.zeros((size, self.answer_digits), dtype=np.int64)
        self.compute(digits, lengths, answer)
        input_ids, targets = np.full((2, size, T), PAD, dtype=np.int64)
        targets[:] = IGNORE
        _write(digits, lengths, answer, self.reversed, input_ids, targets)
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(targets))

    def documented(self, batch: Batch) -> Batch:
        """Scored wherever the token read is one of the answer: without its first digit, with a pad where there is one.

        The position of =, which predicts the first digit, is left out, and the stop predicts the pad after it.
        """
        targets = torch.full_like(batch.targets, IGNORE)
        reads_answer = batch.input_ids[:, :-1] >= ANSWER
        targets[:, :-1][reads_answer] = batch.input_ids[:, 1:][reads_answer]
        return Batch(batch.input_ids, targets)

    def check(self, input_ids: Sequence[int]) -> None:
        """Reads the sequence as text, and computes with whole numbers."""
        text = " ".join(map(self.token_name, self.full_length(input_ids)))
        number = r"((?:\d )+)"
        match = re.fullmatch(rf"{number}{re.escape(self.symbol)} {number}= ((?:\d' )+)#(?: _)*", text)
        if match is None:
            raise ValueError(f"{text} is not of the form: number {self.symbol} number = result # and pads")
        operands, answer = match.groups()[:2], match[3].replace("'", "")
        numbers = []
        for operand in operands:
            written = operand.replace(" ", "")[:: -1 if self.reversed else 1]
            if written[0] == "0" or not self.min_len <= len(written) <= self.max_len:
                raise ValueError(f"{written} is no number of {self.min_len} to {self.max_len} digits")
            numbers.append(int(written))
        expected = str(self.result(*numbers))[:: -1 if self.reversed else 1]
        if answer.replace(" ", "") != expected:
            raise ValueError(f"the result reads {answer.replace(' ', '')}; it should read {expected}")

    def token_name(self, token: int) -> str:
        self.check_token(token)
        return self.symbol if token == OPERATOR else NAMES[token]


@njit(cache=True, nogil=True)
def add(digits: np.ndarray, lengths: np.ndarray, answer: np.ndarray) -> None:
    """The sum as it is done by hand: column by column, with a carry."""
    size, _, M = digits.shape
    for row in range(size):
        carry = 0
        for place in range(M):
            total = digits[row, 0, place] + digits[row, 1, place] + carry
            answer[row, place] = total % 10
            carry = total // 10
        answer[row, M] = carry


@njit(cache=True, nogil=True)
def multiply(digits: np.ndarray, lengths: np.ndarray, answer: np.ndarray) -> None:
    """The product as it is done by hand: every digit with every other, then the carries."""
    size = len(digits)
    for row in range(size):
        for i in range(lengths[row, 0]):
            for j in range(lengths[row, 1]):
                answer[row, i + j] += digits[row, 0, i] * digits[row, 1, j]
        carry = 0
        for place in range(lengths[row, 0] + lengths[row, 1]):
            total = answer[row, place] + carry
            answer[row, place] = total % 10
            carry = total // 10


@njit(cache=True, nogil=True)
def _write(
    digits: np.ndarray,
    lengths: np.ndarray,
    answer: np.ndarray,
    backwards: bool,
    input_ids: np.ndarray,
    targets: np.ndarray,
) -> None:
    """Lays out operands and answer in `input_ids` (B, T), full of pads before, and the answer in `targets` (B, T)."""
    for row in range(len(digits)):
        t = 0
        for operand in range(2):
            length = lengths[row, operand]
            for i in range(length):
                input_ids[row, t + i] = digits[row, operand, i if backwards else length - 1 - i]
            t += length
            input_ids[row, t] = OPERATOR if operand == 0 else EQUALS
            t += 1
        length = answer.shape[1]
        while answer[row, length - 1] == 0:  # no operand is 0, so the result has a digit that is not
            length -= 1
        for i in range(length):
            input_ids[row, t + i] = ANSWER + answer[row, i if backwards else length - 1 - i]
        input_ids[row, t + length] = STOP
        targets[row, t - 1 : t + length] = input_ids[row, t : t + length + 1]
