"""Addition of two numbers, least significant digit first."""

from typing import ClassVar

from pydantic import Field

from downstream.algorithmic_tasks.tasks._question import Question
from downstream.algorithmic_tasks.tasks.forwardaddition import ForwardAddition


class AdditionStream(ForwardAddition):
    """The model reads a + b = and writes the sum, least significant digit first throughout, as it is done by hand.

    AdditionStream(min_len=1, max_len=2)
    input_ids   2 + 1 9 = 3' 9' # _ _
    targets     . . . . 3' 9' # . . .     2 + 91 = 93; . is IGNORE, and no pad is ever predicted
    """

    reversed = True
    setting: ClassVar[dict[str, int]] = Question.setting

    min_len: int = Field(10, ge=1, le=256, description="smallest size of a question, each size being equally likely")
    max_len: int = Field(10, ge=1, le=256, description="largest size of a question")
