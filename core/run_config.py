"""The keys that every training command has, and what any of them does with its keys."""

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from core import checkpoint, tracking
from core.config import Config, Schema, home, resolve
from core.distributed import pick_device
from core.errors import UserError
from core.trainer import Settings

FREE: Any = {"free": True}


def free(default: Any, **settings: Any) -> Any:
    """A field that decides where, how fast or how visibly a run goes, not what comes out: it may change on resume."""
    return Field(default, json_schema_extra=FREE, **settings)


class RunConfig(Config, ABC):
    folder_key: ClassVar[str] = "save_dir"  # the key that says where the run's folder is
    wandb_key: ClassVar[str] = "wandb_enable"  # the key that asks for Weights & Biases
    cut: ClassVar[frozenset[str]] = frozenset()  # keys that cut a global batch into micro-batches

    max_grad_norm: float | None = Field(1.0, gt=0, description="gradients are scaled down to this norm; null: never")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on a GPU, fp32 on a CPU")

    save_total_limit: int | None = free(20, ge=1, description="checkpoints kept: the newest, and always the best")
    resume: bool = free(False, description="go on from the newest intact checkpoint of the run, if there is one")
    device: str | int = free("auto", description="auto, cpu, cuda, cuda:1 or the number of a GPU")
    compile: bool = free(False, description="torch.compile; pays after a minute or so on a GPU")
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

    def settings(self, device: torch.device, **further: Any) -> Settings:
        on_gpu = device.type == "cuda"
        return Settings(
            max_grad_norm=self.max_grad_norm,
            precision=self.precision if self.precision != "auto" else "bf16" if on_gpu else "fp32",
            compile=self.compile,
            log_every=self.log_every_steps,
            save_total_limit=self.save_total_limit,
            workers=self.num_workers,
            resume=self.resume,
            wandb=self.wandb,
            **further,
        )

    def check_machine(self) -> None:
        """Raises UserError for what a schema cannot know: the device, a missing package, a folder without access."""
        check_device(self.device)
        if self.wandb is not None:
            tracking.check_wandb(self.wandb_key)
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            (self.run_dir / ".lock").touch()
        except OSError as error:
            raise UserError(f"{self.folder_key}: {self.run_dir} cannot be written: {error.strerror}") from error


class SavedRunConfig(RunConfig):
    """The keys of commands whose run lies in `save_dir/run_name`."""

    save_dir: str = free(..., min_length=1, description="folder of the run; checkpoints are save_dir/checkpoint-N")
    run_name: str | None = free(None, description="subfolder of save_dir for this run")
    wandb_enable: bool = free(False, description="log to Weights & Biases as well")
    wandb_project: str = free("procedural_pretraining", description="its project")
    wandb_name: str | None = free(None, description="its name for the run")
    wandb_mode: Literal["online", "offline"] = free("online", description="offline: to files that wandb sync uploads")
    resume_run_id: str | None = free(None, description="W&B id of the run to go on with")

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
            "dir": str(self.run_dir),
            "config": self.model_dump(),
            **resume,
        }


def check_device(device: str | int) -> None:
    try:
        pick_device(device)
    except ValueError as error:
        raise UserError(f"device: {error}") from error


def of_checkpoint(folder: Path, schema: Schema) -> Any:
    """The configuration of the run that an intact checkpoint belongs to. Raises UserError."""
    run_config = folder.resolve().parent / "config.yaml"
    if not run_config.exists():
        raise UserError(f"checkpoint: {run_config} does not exist; {folder} is no checkpoint of a run")
    problem = checkpoint.damage(folder)
    if problem:
        raise UserError(f"checkpoint: {folder} is damaged: {problem}")
    return resolve(schema, str(run_config), {})
