"""What the downstream tasks share: a size that may vary from example to example, and the scores they are known by."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from core.batch import Batch
from core.task import Task


class Question(Task):
    """A question and its answer, right-padded to one length. Scored is the answer, with the token that stops it."""

    examples_per_block: ClassVar[int] = 1024  # sequences are short
    starts_at_one: ClassVar[bool] = False  # whether FAMILY_N means sizes 1 .. N; else it means N alone
    setting: ClassVar[dict[str, int]] = {  # model and batch that the family is known with
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 16,
        "n_positions": 40,
        "batch_size": 1000,
        "eval_steps": 50,
    }

    min_len: int = Field(5, ge=1, le=256, description="smallest size of a question, each size being equally likely")
    max_len: int = Field(5, ge=1, le=256, description="largest size of a question")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min_len > self.max_len:
            raise ValueError(f"min_len is {self.min_len}, above max_len {self.max_len}")
        return self

    def documented(self, batch: Batch) -> Batch:
        """The batch with those positions scored that the earlier system trained and scored."""
        return batch

    def floors(self, batch: Batch) -> dict[str, float]:
        """What guesses peculiar to the task reach on a batch, beside a constant one."""
        return {}
