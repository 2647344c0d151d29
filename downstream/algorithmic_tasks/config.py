"""The keys of a run on an algorithmic task."""

import difflib
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from core.config import Config, construct, home
from core.donor import Donor
from core.export import ExportConfig
from core.model import GPTConfig
from core.run_config import LARGEST_SEED, free
from core.show import ShowConfig
from core.task import task_class, task_names
from downstream.adaptation import AdaptationConfig
from downstream.algorithmic_tasks.tasks._question import Question

PACKAGE = "downstream.algorithmic_tasks.tasks"
MAY_GROW = ("updates",)
WARMUP = 500  # updates, as documented; a tenth of shorter runs


class AlgorithmicConfig(AdaptationConfig):
    task: str = Field(description="FAMILY_N or FAMILY_MIN_MAX, such as condattendstream_30 or forwardaddition_2_5")
    mask: Literal["answer", "documented"] = Field(
        "answer",
        description="scored in training: the answer; documented: without its first token, with a pad, as earlier",
    )

    n_layer: int | None = Field(None, ge=1, description="blocks; null: those of the checkpoint, or else of the family")
    n_head: int | None = Field(None, ge=1, description="attention heads of a block; null: likewise")
    n_embd: int | None = Field(None, ge=1, description="width; null: likewise")
    n_positions: int | None = Field(None, ge=1, description="null: those of the family, or more if the task needs more")

    batch_size: int | None = Field(
        None, ge=1, description="examples per micro-batch, on each process; null: the family's"
    )
    train_size: int = Field(40_000, ge=1, description="with train_steps and batch_size the number of updates")
    train_steps: int = Field(250, ge=1, description="train_size x train_steps / batch_size updates are made")
    max_steps: int | None = Field(None, ge=1, description="updates, in place of that number")
    warmup_steps: int | None = Field(
        None, ge=0, description="updates over which the learning rate rises; null: 500, at most a tenth of all"
    )

    eval_size: int = Field(4000, ge=1, description="test examples drawn; those drawn twice are measured once")
    validation_size: int = Field(1000, ge=1, description="the same of the validation split, measured during training")
    eval_steps: int | None = Field(None, ge=1, description="updates between validations; null: the family's")
    save_total_limit: int | None = free(3, ge=1, description="checkpoints kept: the newest, and always the best")
    save_dir: str = free("results/algorithmic_tasks", min_length=1, description="folder of the runs")
    run_name: str | None = free(None, min_length=1, description="the run's folder in it; null: task, seed and a hash")
    wandb_project: str = free("algorithmic_tasks", description="its project")

    @field_validator("task")
    @classmethod
    def _is_task(cls, name: str) -> str:
        parse(name)
        return name

    @cached_property
    def question(self) -> Question:
        return parse(self.task)

    @property
    def micro_batch(self) -> int:
        return self.batch_size or self.question.setting["batch_size"]

    @property
    def updates(self) -> int:
        per_update = self.micro_batch * self.gradient_accumulation_steps
        return self.max_steps or max(1, self.train_size * self.train_steps // per_update)

    @property
    def warmup(self) -> int:
        return min(WARMUP, self.updates // 10) if self.warmup_steps is None else self.warmup_steps

    @property
    def eval_every(self) -> int:
        return self.eval_steps or self.question.setting["eval_steps"]

    def shape(self, donor: Donor | None) -> GPTConfig:
        """The model: as told, else as in the first checkpoint, else as the family has it. Raises ValueError."""
        family, like = self.question.setting, donor.config if donor else None
        if donor and not donor.knows_heads and self.n_head is None:
            raise ValueError(f"n_head: {donor.path} does not say how many heads its attention has; set n_head")
        needed = self.question.block_size
        if self.n_positions is not None and self.n_positions < needed:
            raise ValueError(f"n_positions: {self.n_positions} are too few, {self.task} has {needed} tokens")
        layers, heads, width = (
            getattr(self, name) or getattr(like, name, None) or family[name] for name in ("n_layer", "n_head", "n_embd")
        )
        n_positions = self.n_positions or max(needed, family["n_positions"])
        return self.shape_of((layers, heads, width), self.question.num_tokens, n_positions, donor)

    def _names(self) -> dict[str, str | None]:
        return {key: name for key, name in super()._names().items() if name}  # a folder named by itself tells the seed

    @property
    def run_dir(self) -> Path:
        return home(self.save_dir) / (self.run_name or f"{self.task}__{self.seed}_{self.digest()}")

    def identity(self, world_size: int) -> dict[str, Any]:
        resolved = {"updates": self.updates, "warmup_steps": self.warmup, "eval_steps": self.eval_every}
        examples = self.micro_batch * self.gradient_accumulation_steps * world_size
        given = {"train_size", "train_steps", "max_steps"}  # what they come to is `updates`
        shared = {key: value for key, value in super().identity(world_size).items() if key not in given}
        return {**shared, **resolved, "examples_per_update": examples}


class QuestionConfig(Config):
    task: str = Field(description="FAMILY_N or FAMILY_MIN_MAX, such as condattendstream_30 or forwardaddition_2_5")
    seed: int = Field(42, ge=0, le=LARGEST_SEED, description="of the examples")

    @field_validator("task")
    @classmethod
    def _is_task(cls, name: str) -> str:
        parse(name)
        return name


class LookConfig(QuestionConfig, ShowConfig):
    """The keys of `inspect`."""


class WriteConfig(QuestionConfig, ExportConfig):
    """The keys of `export`."""


def parse(name: str) -> Question:
    """The task that `additionstream_10` or `additionstream_2_10` names. Raises ValueError in words."""
    match = re.fullmatch(r"([a-z]+)_([1-9]\d*)(?:_([1-9]\d*))?", name)
    families = task_names(PACKAGE)
    if match is None or match[1] not in families:
        close = difflib.get_close_matches(name.partition("_")[0], families, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]}_5?" if close else ""
        raise ValueError(f"{name!r} is no task; it takes FAMILY_N or FAMILY_MIN_MAX with {', '.join(families)}.{hint}")
    kind = task_class(PACKAGE, match[1])
    assert issubclass(kind, Question)
    first, last = int(match[2]), int(match[3] or match[2])
    sizes = {"min_len": 1 if match[3] is None and kind.starts_at_one else first, "max_len": last}
    try:
        return construct(kind, sizes)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from error
