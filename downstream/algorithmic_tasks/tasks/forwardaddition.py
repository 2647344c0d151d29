"""Addition of two numbers, most significant digit first."""

from typing import ClassVar

import numpy as np

from downstream.algorithmic_tasks.tasks._arithmetic import Arithmetic, add
from downstream.algorithmic_tasks.tasks._question import Question


class ForwardAddition(Arithmetic):
    """The model reads a + b = and writes the sum, most significant digit first throughout.

    ForwardAddition(min_len=1, max_len=2)
    input_ids   2 + 9 1 = 9' 3' # _ _
    targets     . . . . 9' 3' # . . .     = predicts the first digit; . is IGNORE, and no pad is ever predicted
    """

    symbol = "+"
    setting: ClassVar[dict[str, int]] = {**Question.setting, "eval_steps": 40}

    @property
    def answer_digits(self) -> int:
        return self.max_len + 1

    @staticmethod
    def compute(digits: np.ndarray, lengths: np.ndarray, answer: np.ndarray) -> None:
        add(digits, lengths, answer)

    @staticmethod
    def result(left: int, right: int) -> int:
        return left + right
