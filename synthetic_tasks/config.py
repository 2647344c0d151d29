"""The keys of `train` and `evaluate`: those below, and the parameters of the task that `task` names."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from core.config import Config, construct
from core.model import GPTConfig
from core.run_config import LARGEST_SEED, TrainingConfig, with_parameters
from core.show import ShowConfig
from core.task import task_class
from core.task_verbs import TaskConfig
from synthetic_tasks._example_task import PACKAGE, ExampleTask
from synthetic_tasks.lano import LanoTask

MAY_GROW = ("max_steps",)


class ExampleTaskConfig(TaskConfig):
    package: ClassVar[str] = PACKAGE

    @property
    def example_task(self) -> ExampleTask:
        """The task with its parameters. Raises ValueError in words."""
        task = self.build_task()
        assert isinstance(task, ExampleTask)
        return task


class SyntheticConfig(TrainingConfig, ExampleTaskConfig):
    positions: Literal["learned", "rope"] = Field("rope", description="rotary positions, or GPT-2's learned ones")
    max_steps: int = Field(20_000, ge=1, description="the run ends after so many updates")
    pack_to: int | None = Field(
        None, ge=1, description="several short rows share a context of so many tokens; null: padded to the longest"
    )
    exam_examples: int = Field(256, ge=1, description="test examples of the paper's measurement at the end")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}, but the whole run has {self.max_steps} updates")
        longest = self.example_task.block_size
        if self.pack_to is not None and self.pack_to < longest:
            raise ValueError(f"pack_to is {self.pack_to}, but a row of task {self.task} may have {longest} tokens")
        _ = self.model_shape
        return self

    def identity(self, world_size: int) -> dict[str, Any]:
        """With a grammar in a file also what it says: the path stays the same when the file changes."""
        task = self.example_task
        grammar = {"grammar": task.fingerprint} if isinstance(task, LanoTask) and task.config_path else {}
        return {**super().identity(world_size), **grammar}

    @property
    def total_steps(self) -> int:
        return self.max_steps

    @property
    def model_shape(self) -> GPTConfig:
        """Raises ValueError if there is no such model."""
        return self.shape(self.example_task.num_tokens, self.example_task.block_size)


class ExamConfig(Config):
    """The keys of `evaluate`. Without `task` the task is that of the checkpoint's run."""

    checkpoint: str = Field(description="folder of a checkpoint, such as save_dir/checkpoint-2500 or save_dir/best")
    split: Literal["train", "validation", "test"] = Field("test", description="split the examples are taken from")
    examples: int = Field(256, ge=1, description="examples to measure on; of Capo, people")
    batch_size: int = Field(64, ge=1, description="examples at a time")
    hops: list[Annotated[int, Field(ge=1)]] = Field(
        [], description="of Depo: the numbers of steps asked for; none: all"
    )
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED, description="of the examples; null: that of the run, or 0")
    device: str | int = Field("auto", description="auto, cpu, cuda, cuda:1 or the number of a GPU")


class ExamOfTask(ExamConfig, ExampleTaskConfig):
    """The keys of `evaluate` where they name a task, for a checkpoint of whatever run."""


class Dataset(Config):
    name: str = Field(description="the task")
    config: dict[str, Any] = Field({}, description="its parameters")

    @model_validator(mode="after")
    def _is_a_task(self) -> Self:
        _ = self.task
        return self

    @property
    def task(self) -> ExampleTask:
        """The task with its parameters. Raises ValueError in words."""
        task = construct(task_class(PACKAGE, self.name), self.config, lambda key: f"config.{key}")
        assert isinstance(task, ExampleTask)
        return task


class InspectConfig(ShowConfig):
    dataset: Dataset = Field(description="the task and its parameters")
    seed: int = Field(42, ge=0, description="of the examples")


def schema(values: dict[str, Any]) -> type[SyntheticConfig]:
    """The keys of a run on the task that `values` name."""
    return with_parameters(SyntheticConfig, PACKAGE, values)


def exam_schema(values: dict[str, Any]) -> type[ExamConfig]:
    """The keys of `evaluate`, with those of a task if `values` name one."""
    return with_parameters(ExamOfTask, PACKAGE, values) if "task" in values else ExamConfig
