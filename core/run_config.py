"""The keys that every training command has, and what any of them does with its keys."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import torch
from pydantic import ConfigDict, Field, create_model, field_validator, model_validator

from core import checkpoint, files, tracking
from core.config import Config, Schema, home, resolve
from core.distributed import World, join, pick_device, processes
from core.errors import UserError
from core.model import GPTConfig, parse_size
from core.parallel import Kind
from core.plan import Compilation
from core.schedule import Shape, factor
from core.task import task_class
from core.trainer import Settings

T = TypeVar("T", bound=Config)
FREE: Any = {"free": True}
LARGEST_SEED = 2**64 - 1
MOST_SEEDS = 1000  # in a range
MINUTES_OF_A_YEAR = 525_600


def free(default: Any, **settings: Any) -> Any:
    """A field that decides where, how fast or how visibly a run goes, not what comes out: it may change on resume."""
    return Field(default, json_schema_extra=FREE, **settings)


class RunConfig(Config, ABC):
    folder_key: ClassVar[str] = "save_dir"  # the key that says where the run's folder is
    wandb_key: ClassVar[str] = "wandb_enable"  # the key that asks for Weights & Biases
    resumed_by: ClassVar[str] = "resume: true"  # what one adds to go on with a run
    cut: ClassVar[frozenset[str]] = frozenset()  # keys that cut a global batch into micro-batches

    max_grad_norm: float | None = Field(1.0, gt=0, description="gradients are scaled down to this norm; null: never")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on a GPU, fp32 on a CPU")

    save_total_limit: int | None = free(20, ge=1, description="checkpoints kept: the newest, and always the best")
    resume: bool = free(False, description="go on from the newest intact checkpoint of the run, if there is one")
    device: str | int = free("auto", description="auto, cpu, cuda, cuda:1 or the number of a GPU")
    compile: Compilation = free(
        False,
        description="torch.compile; pays after a minute or so on a GPU. reduce-overhead: CUDA graphs, for small models",
    )
    gradient_checkpointing: bool = free(False, description="blocks are computed twice, to keep less in memory")
    parallel: Kind = free("ddp", description="under torchrun: ddp, each rank has the whole model; fsdp, a share of it")
    timeout_minutes: float = free(
        10.0, ge=0.01, le=MINUTES_OF_A_YEAR, description="how long a process waits for the others before the run ends"
    )
    profile: bool = free(False, description="write a Chrome trace of some updates, and say what their time went into")
    num_workers: int = free(1, ge=0, description="threads that make batches ahead; 0: made when needed")
    log_every_steps: int = free(10, ge=1, description="updates between lines of training loss")

    @property
    @abstractmethod
    def run_dir(self) -> Path:
        """Where everything the run writes goes."""

    @property
    @abstractmethod
    def wandb(self) -> dict[str, Any] | None:
        """Arguments of wandb.init; None without it."""

    def identity(self, world_size: int) -> dict[str, Any]:
        """What decides on weights and metrics: a resumed run must have the same.

        How a global batch is cut into micro-batches and ranks is not part of it.
        """
        fields = type(self).model_fields
        return self.model_dump(include={n for n, f in fields.items() if f.json_schema_extra != FREE} - self.cut)

    def digest(self) -> str:
        """Eight characters that differ between runs that must not share a folder."""
        text = json.dumps(self.identity(world_size=1), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    def join(self) -> AbstractContextManager[World]:
        """The processes that carry the run out."""
        return join(self.device, timedelta(minutes=self.timeout_minutes))

    def settings(self, device: torch.device, **further: Any) -> Settings:
        on_gpu = device.type == "cuda"
        return Settings(
            max_grad_norm=self.max_grad_norm,
            precision=self.precision if self.precision != "auto" else "bf16" if on_gpu else "fp32",
            compile=self.compile,
            gradient_checkpointing=self.gradient_checkpointing,
            parallel=self.parallel,
            profile=self.profile,
            log_every=self.log_every_steps,
            save_total_limit=self.save_total_limit,
            workers=self.num_workers,
            resume=self.resume,
            resumed_by=self.resumed_by,
            wandb=self.wandb,
            **further,
        )

    def check_machine(self) -> None:
        """Raises UserError for what a schema cannot know: the device, a missing package, a folder without access."""
        check_device(self.device)
        if self.compile == "reduce-overhead" and pick_device(self.device).type != "cuda":
            raise UserError("compile: reduce-overhead replays CUDA graphs, which takes a GPU; without one use true")
        if self.wandb is not None:
            tracking.check_wandb(self.wandb_key)
        files.check_folder(self.run_dir, self.folder_key)


class SavedRunConfig(RunConfig):
    """The keys of commands whose run lies in `save_dir/run_name`."""

    seeds_may_take_turns: ClassVar[bool] = False  # where they cannot be trained at once

    seed: int
    seeds: list[Annotated[int, Field(ge=0, le=LARGEST_SEED)]] | None = free(
        None, description="several seeds, each a run of its own, trained at once; in place of seed: 0-9, or 0,3,7-9"
    )
    save_dir: str = free(..., min_length=1, description="folder of the run; checkpoints are save_dir/checkpoint-N")
    run_name: str | None = free(None, description="subfolder of save_dir for this run")
    wandb_enable: bool = free(False, description="log to Weights & Biases as well")
    wandb_project: str = free("procedural_pretraining", description="its project")
    wandb_name: str | None = free(None, description="its name for the run")
    wandb_mode: Literal["online", "offline"] = free("online", description="offline: to files that wandb sync uploads")
    resume_run_id: str | None = free(None, description="W&B id of the run to go on with")

    @field_validator("seeds", mode="before")
    @classmethod
    def _spelt_out(cls, given: Any) -> Any:
        return given if given is None else spelt_out(given)

    @model_validator(mode="after")
    def _seeds_can_be(self) -> Self:
        if self.seeds is not None and self.resume_run_id is not None:
            raise ValueError("resume_run_id names one run, but seeds asks for several")
        if self.seeds is not None and not self.seeds_may_take_turns and (reason := self.only_one_at_a_time):
            raise ValueError(f"seeds: {reason}")
        return self

    @property
    def only_one_at_a_time(self) -> str:
        """Why `core.replicas` cannot train several seeds at once with these keys, of which not every command has all;
        empty if it can."""
        optimizer, is_packed = getattr(self, "optimizer", "adamw"), getattr(self, "pack_to", None) is not None
        is_masked = getattr(self, "document_mask", False) or getattr(self, "isolated", False)
        reasons = {
            "they share one process; under torchrun give each process seeds of its own, or one seed": processes() > 1,
            "what dropout draws for one cannot be drawn for all at once; set dropout to 0": getattr(self, "dropout", 0),
            "profile is for one run": self.profile,
            f"optimizer {optimizer} cannot move models side by side; use adamw, or one seed": optimizer != "adamw",
            "rows that share contexts cannot be trained side by side; set pack_to to null": is_packed,
            "documents that see themselves alone cannot be trained side by side; give one seed": is_masked,
        }
        return "; and ".join(reason for reason, applies in reasons.items() if applies)

    def of_each_seed(self) -> list[Self]:
        """The configuration of each of `seeds` as if it were given alone, each in a folder of its own; or this one."""
        return [self] if self.seeds is None else [self._of_seed(seed) for seed in self.seeds]

    def _of_seed(self, seed: int) -> Self:
        """A name that ends in this seed, as that in the file which such a run left, then ends in the other one."""
        bare = {key: re.sub(rf"(^|/)seed{self.seed}$", "", name or "") for key, name in self._names().items()}
        names = {key: f"{name}/seed{seed}" if name else f"seed{seed}" for key, name in bare.items()}
        return self.model_copy(update={"seeds": None, "seed": seed, **names})

    def _names(self) -> dict[str, str | None]:
        """The keys whose values tell apart runs that differ in the seed."""
        return {"run_name": self.run_name, **({"wandb_name": self.wandb_name} if self.wandb_name else {})}

    @property
    def run_dir(self) -> Path:
        return home(self.save_dir) / (self.run_name or "")

    @property
    def wandb(self) -> dict[str, Any] | None:
        if not self.wandb_enable:
            return None
        resume = {"id": self.resume_run_id, "resume": "must"} if self.resume_run_id else {}
        return {
            "project": self.wandb_project,
            "name": self.wandb_name,
            "mode": self.wandb_mode,
            "reinit": "create_new",  # seeds trained at once are runs beside each other
            "dir": str(self.run_dir),
            "config": self.model_dump(),
            **resume,
        }


class TrainingConfig(SavedRunConfig):
    """The keys of commands that train a GPT of our own on one source, from its first weights on."""

    cut: ClassVar[frozenset[str]] = frozenset({"batch_size", "gradient_accumulation_steps"})

    gpt2_size: str = Field("2_4_16", description="layers_heads_width of the model, such as 12_12_768")
    positions: Literal["learned", "rope"] = Field("learned", description="GPT-2's learned positions, or rotary ones")
    tied: bool = Field(True, description="the output projection is the embedding matrix")
    dropout: float = Field(0.0, ge=0, lt=1, description="after the embedding, on attention, on residual branches")

    batch_size: int = Field(64, ge=1, description="examples per micro-batch, on each process")
    gradient_accumulation_steps: int = Field(1, ge=1, description="micro-batches per update")
    max_steps: int | None = Field(20_000, ge=1, description="the run ends after so many updates")

    lr: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")
    lr_schedule: Shape = Field("cosine", description="course of the learning rate after the warm-up")
    warmup_steps: int = Field(0, ge=0, description="updates over which the learning rate rises")
    min_lr_ratio: float = Field(0.1, ge=0, le=1, description="share of lr that cosine and linear end at")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay of matrices")
    seed: int = Field(42, ge=0, le=LARGEST_SEED, description="of the initial weights, the data and dropout")

    eval_every_steps: int | None = Field(None, ge=1, description="updates between evaluations; null: save_every_steps")
    eval_examples: int = Field(640, ge=1, description="validation examples, the same ones each time")

    save_every_steps: int = free(500, ge=1, description="updates between checkpoints; the last update is always saved")
    save_steps: list[Annotated[int, Field(ge=1)]] = free(
        [], description="further updates to save, whatever save_total_limit"
    )

    @field_validator("gpt2_size")
    @classmethod
    def _is_size(cls, size: str) -> str:
        parse_size(size)
        return size

    @property
    @abstractmethod
    def total_steps(self) -> int:
        """Updates of the whole run."""

    @property
    def eval_every(self) -> int:
        return self.eval_every_steps or self.save_every_steps

    def lr_at(self, step: int) -> float:
        """The learning rate of an update."""
        floor, warmup = self.min_lr_ratio, self.warmup_steps
        return self.lr * factor(step, shape=self.lr_schedule, steps=self.total_steps, warmup=warmup, floor=floor)

    def shape(self, num_tokens: int, n_positions: int) -> GPTConfig:
        layers, heads, width = parse_size(self.gpt2_size)
        sizes = {"n_layer": layers, "n_head": heads, "n_embd": width}
        return GPTConfig(
            num_tokens, n_positions, **sizes, positions=self.positions, tied=self.tied, dropout=self.dropout
        )

    def settings(self, device: torch.device, **further: Any) -> Settings:
        return super().settings(
            device,
            seed=self.seed,
            accumulation=self.gradient_accumulation_steps,
            weight_decay=self.weight_decay,
            eval_every=self.eval_every,
            save_every=self.save_every_steps,
            save_steps=self.save_steps,
            **further,
        )

    def identity(self, world_size: int) -> dict[str, Any]:
        examples = self.batch_size * self.gradient_accumulation_steps * world_size
        return {**super().identity(world_size), "eval_every_steps": self.eval_every, "examples_per_update": examples}


def spelt_out(given: Any) -> list[int]:
    """Seeds such as `0-9` or [0, 3, "7-9"] as a list of integers. Raises ValueError in words."""
    seeds: list[int] = []
    for part in given if isinstance(given, list) else str(given).split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", str(part))
        if match is None or isinstance(part, bool):
            raise ValueError(f"{part!r} is no seed and no range of seeds; write 0-9, or 0,3,7-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + MOST_SEEDS:
            raise ValueError(f"{part!r} is no range of up to {MOST_SEEDS} seeds; write 0-9, or 0,3,7-9")
        seeds += range(first, last + 1)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"{given!r} names {'a seed twice' if seeds else 'no seed'}")
    return seeds


def with_parameters(base: type[T], package: str, values: dict[str, Any]) -> type[T]:
    """`base`, which has the key `task`, with the parameters of the task that `values` name as further keys."""
    try:
        kind = task_class(package, str(values.get("task")))
    except ValueError:  # that is the error: which other keys there are depends on the task
        return type(base.__name__, (base,), {"__module__": base.__module__, "model_config": ConfigDict(extra="ignore")})
    parameters: dict[str, Any] = {key: (field.annotation, field) for key, field in kind.model_fields.items()}
    return create_model(f"{values['task']} {base.__name__}", __base__=base, **parameters)


def check_device(device: str | int) -> None:
    try:
        pick_device(device)
    except ValueError as error:
        raise UserError(f"device: {error}") from error


def of_checkpoint(folder: Path, schema: Schema) -> Any:
    """The configuration of the run that an intact checkpoint belongs to. Raises UserError."""
    if problem := checkpoint.missing(folder):
        raise UserError(f"checkpoint: {problem}")
    run_config = checkpoint.run_dir_of(folder) / "config.yaml"
    if not run_config.exists():
        raise UserError(f"checkpoint: {run_config} does not exist; {folder} is no checkpoint of a run")
    problem = checkpoint.damage(folder)
    if problem:
        raise UserError(f"checkpoint: {folder} is damaged: {problem}")
    return resolve(schema, str(run_config), {})
