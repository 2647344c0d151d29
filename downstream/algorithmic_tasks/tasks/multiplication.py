"""Multiplication of two numbers, most significant digit first."""

from typing import ClassVar

import numpy as np

from downstream.algorithmic_tasks.tasks._arithmetic import Arithmetic, multiply


class Multiplication(Arithmetic):
    """The model reads a * b = and writes the product, most significant digit first throughout.

    Multiplication(min_len=1, max_len=1)
    input_ids   2 * 6 = 1' 2' # _ _
    targets     . . . 1' 2' # . . .     = predicts the first digit; . is IGNORE, and no pad is ever predicted
    """

    symbol = "*"
    setting: ClassVar[dict[str, int]] = {
        "n_layer": 4,
        "n_head": 8,
        "n_embd": 512,
        "n_positions": 40,
        "batch_size": 64,
        "eval_steps": 40,
    }

    @property
    def answer_digits(self) -> int:
        return 3 * self.max_len + 1  # as documented; the product has at most 2 * max_len

    @staticmethod
    def compute(digits: np.ndarray, lengths: np.ndarray, answer: np.ndarray) -> None:
        multiply(digits, lengths, answer)

    @staticmethod
    def result(left: int, right: int) -> int:
        return left * right
