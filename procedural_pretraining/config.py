"""The keys of a pretraining run: those below, and the parameters of the task that `task` names."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from core.config import Config, construct
from core.model import GPTConfig
from core.run_config import TrainingConfig, with_parameters
from core.task import Task, task_class
from procedural_data._shuffled import Shuffled

PACKAGE = "procedural_data"
MAY_GROW = ("max_steps", "epochs")


class PretrainingConfig(TrainingConfig):
    task: str = Field(description="file in procedural_data/, such as sort; its own parameters are keys as well")

    shuffle_tokens: bool = Field(
        False,
        description="a control: the tokens of each example, pads apart, in random order, in training and evaluation",
    )

    steps_per_epoch: int = Field(100, ge=1, description="updates that count as an epoch")
    epochs: int | None = Field(None, ge=1, description="the run ends after so many epochs, or at max_steps")
    max_steps: int | None = Field(20_000, ge=1, description="the run ends after so many updates, or after epochs")

    eval_lengths: list[Annotated[int, Field(ge=1)]] = Field([], description="further seq_lengths to evaluate at")
    patience: int | None = Field(
        None, ge=0, description="evaluations without a lower validation loss that end the run; null or 0: no such end"
    )

    use_curriculum: bool = Field(False, description="start with short sequences and grow them as they are mastered")
    curriculum_start: int | None = Field(
        None, ge=1, description="first seq_length; null: 2, or the shortest the task can have"
    )
    curriculum_step_size: int = Field(2, ge=1, description="growth of seq_length at mastery")
    curriculum_mastery_threshold: float = Field(
        0.99, gt=0, le=1, description="validation accuracy that counts as mastery, as a share of the best possible one"
    )
    curriculum_step_epochs: int = Field(0, ge=0, description="fewest epochs at each length")
    stop_at_mastery: bool = Field(False, description="end the run when the final seq_length is mastered")

    @field_validator("task")
    @classmethod
    def _is_task(cls, task: str) -> str:
        task_class(PACKAGE, task)
        return task

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.max_steps is None and self.epochs is None:
            raise ValueError("max_steps and epochs are both null, so the run would never end; set one of them")
        if self.warmup_steps >= self.total_steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}, but the whole run has {self.total_steps} updates")
        _ = self.model_shape
        return self

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        limits = [self.max_steps, self.epochs and self.epochs * self.steps_per_epoch]
        return min(limit for limit in limits if limit is not None)

    def task_at(self, seq_length: int | None = None) -> Task:
        """The task, at another length if one is given. Raises ValueError in words."""
        kind = task_class(PACKAGE, self.task)
        parameters = {name: getattr(self, name) for name in kind.model_fields}
        parameters |= {} if seq_length is None else {"seq_length": seq_length}
        task = construct(kind, parameters)
        return Shuffled(of=task) if self.shuffle_tokens else task

    def _is_possible(self, seq_length: int) -> bool:
        try:
            self.task_at(seq_length)
        except ValueError:
            return False
        return True

    @property
    def final_length(self) -> int | None:
        """None for a mixture of tasks that have a seq_length each."""
        return getattr(self, "seq_length", None)

    @property
    def curriculum(self) -> list[int]:
        """Every seq_length that is trained on, ascending. Raises ValueError if the curriculum cannot be."""
        last, first = self.final_length, self.curriculum_start
        if last is None:
            raise ValueError("use_curriculum needs one seq_length for all parts of the mixture; set seq_length")
        if first is None:
            first = next((n for n in range(2, last + 1) if self._is_possible(n)), last)
        if first > last:
            raise ValueError(f"curriculum_start is {first}, longer than the final seq_length {last}")
        return [*range(first, last, self.curriculum_step_size), last]

    @property
    def training_lengths(self) -> Sequence[int | None]:
        return self.curriculum if self.use_curriculum else [self.final_length]

    @property
    def model_shape(self) -> GPTConfig:
        """The model for every length that is trained or evaluated. Raises ValueError if one of them is impossible."""
        tasks = []
        for key, lengths in (("", self.training_lengths), ("eval_lengths: ", self.eval_lengths)):
            try:
                tasks += [self.task_at(length) for length in lengths]
            except ValueError as error:
                raise ValueError(f"{key}task {self.task}: {error}") from error
        return self.shape(tasks[0].num_tokens, max(task.block_size for task in tasks))


def schema(values: dict[str, Any]) -> type[PretrainingConfig]:
    """The keys of a run on the task that `values` name: those of every run, and the parameters of the task."""
    return with_parameters(PretrainingConfig, PACKAGE, values)


class EvaluationConfig(Config):
    checkpoint: str = Field(description="folder of a checkpoint, such as save_dir/checkpoint-2500 or save_dir/best")
    split: Literal["train", "validation", "test"] = Field("test", description="split the examples are taken from")
    examples: int = Field(2000, ge=1, description="examples to measure on")
    batch_size: int = Field(64, ge=1, description="examples at a time")
    eval_lengths: list[Annotated[int, Field(ge=1)]] = Field(
        [], description="further seq_lengths; learned positions limit them, rotary ones do not"
    )
    device: str | int = Field("auto", description="auto, cpu, cuda, cuda:1 or the number of a GPU")
