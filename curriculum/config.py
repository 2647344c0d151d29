"""The keys of the verbs that need a model: training, generation, and the comparison with other orders."""

from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from pydantic import Field, field_validator

from core.config import Config
from core.model import GPTConfig, parse_size
from core.run_config import LARGEST_SEED, SavedRunConfig, free
from core.schedule import Shape
from core.trainer import Settings
from curriculum.stages import DataConfig

FREE_OF_DATA = ("local_files", "web_sources", "data_dir", "data_seed", "val_share")  # the files' hashes stand for them


class TrainingConfig(SavedRunConfig, DataConfig):
    headings: ClassVar[dict[str, str]] = {"training": "", "wandb": "wandb_"}
    cut: ClassVar[frozenset[str]] = frozenset({"batch_size", "gradient_accumulation_steps"})

    gpt2_size: str = Field("8_16_512", description="layers_heads_width of the model")
    positions: Literal["rope", "learned"] = Field("rope", description="rotary positions, or GPT-2's learned ones")
    tied: bool = Field(True, description="the output projection is the embedding matrix")
    dropout: float = Field(0.0, ge=0, lt=1, description="after the embedding, on attention, on residual branches")

    batch_size: int = Field(
        8,
        ge=1,
        description="windows per micro-batch and process where they are longest; other stages: about as many tokens",
    )
    gradient_accumulation_steps: int = Field(8, ge=1, description="micro-batches per update")
    document_mask: bool = Field(False, description="a token sees its own document alone, not others in its window")

    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: for the matrices of the blocks, adamw for the rest"
    )
    lr: float = Field(3e-4, gt=0, description="peak learning rate")
    lr_schedule: Literal["restart", "continuous"] = Field(
        "restart",
        description="restart: a course of the learning rate for each stage; continuous: one for all, by tokens",
    )
    lr_decay: Shape = Field("cosine", description="course of the learning rate after the warm-up")
    warmup_steps: int = Field(500, ge=0, description="updates of rising learning rate; at most 10 % of the stage")
    min_lr_ratio: float = Field(0.1, ge=0, le=1, description="share of lr that cosine and linear end at")
    weight_decay: float = Field(0.01, ge=0, description="decay of matrices")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's decay rate of the mean of gradients")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW's decay rate of the mean of squared gradients")
    seed: int = Field(1337, ge=0, le=LARGEST_SEED, description="of the initial weights, the windows and dropout")

    eval_every_steps: int = Field(100, ge=1, description="updates between evaluations")
    eval_tokens: int = Field(100_000, ge=1, description="validation tokens of each stage, in windows of its own length")
    save_every_steps: int = free(500, ge=1, description="updates between checkpoints; each stage's last is saved, too")
    sample_prompts: list[Annotated[str, Field(min_length=1)]] = free(
        [], description="prompts, whose continuations are printed at each evaluation"
    )
    sample_tokens: int = free(50, ge=1, description="tokens of each such continuation")
    sample_temperature: float = free(0.8, ge=0, description="0: always the likeliest token")
    save_dir: str = free("runs/curriculum", min_length=1, description="folder of the run")

    @field_validator("gpt2_size")
    @classmethod
    def _is_size(cls, size: str) -> str:
        parse_size(size)
        return size

    @property
    def longest(self) -> int:
        return max(text.block_size for text in self.texts)

    @property
    def longest_stage(self) -> int:
        return max(stage.block_size for stage in self.stages)

    def batch_size_of(self, block_size: int) -> int:
        """Windows per micro-batch that have about as many tokens as `batch_size` of the longest."""
        return max(1, round(self.batch_size * self.longest_stage / block_size))

    def shape(self, num_tokens: int) -> GPTConfig:
        layers, heads, width = parse_size(self.gpt2_size)
        sizes = {"n_layer": layers, "n_head": heads, "n_embd": width}
        return GPTConfig(
            num_tokens, self.longest, **sizes, positions=self.positions, tied=self.tied, dropout=self.dropout
        )

    def identity(self, world_size: int) -> dict[str, Any]:
        identity = {key: value for key, value in super().identity(world_size).items() if key not in FREE_OF_DATA}
        windows = self.batch_size * self.gradient_accumulation_steps * world_size
        return {**identity, "windows_per_update": windows}

    def settings(self, device: torch.device, **further: Any) -> Settings:
        return super().settings(
            device,
            seed=self.seed,
            optimizer=self.optimizer,
            accumulation=self.gradient_accumulation_steps,
            weight_decay=self.weight_decay,
            betas=(self.beta1, self.beta2),
            eval_every=self.eval_every_steps,
            save_every=self.save_every_steps,
            **further,
        )


Arm = Literal["curriculum", "reversed", "shuffled", "fixed_block", "mixture"]
ARMS = get_args(Arm)


class AblationConfig(TrainingConfig):
    seeds_may_take_turns: ClassVar[bool] = True

    save_dir: str = free("runs/curriculum_ablation", min_length=1, description="folder of all runs")
    seeds: list[Annotated[int, Field(ge=0, le=LARGEST_SEED)]] | None = free(
        [0, 1, 2], description="each arm is trained with each: 0-9, or 0,3,7-9"
    )
    arms: list[Arm] = free(list(ARMS), min_length=1, description="what is compared")
    budgets: list[Literal["tokens", "flops"]] = free(
        ["tokens", "flops"],
        min_length=1,
        description="what is equal for all arms: tokens, and floating-point operations",
    )
    lr_schedule: Literal["continuous"] = Field("continuous", description="the same course for every arm")

    @field_validator("arms", "budgets")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):  # runs would count twice in means and deviations
            raise ValueError(f"{', '.join(names)} names one twice")
        return names


class GenerateConfig(Config):
    prompt: str = Field(min_length=1, description="what the model continues")
    checkpoint: str | None = Field(None, description="folder of a checkpoint; null: the newest in save_dir")
    save_dir: str = Field("runs/curriculum", min_length=1, description="folder of the run")
    tokens: int = Field(100, ge=1, description="tokens to write, unless the text ends before")
    temperature: float = Field(0.8, ge=0, description="0: always the likeliest token")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="of what is drawn")
    device: str | int = Field("auto", description="auto, cpu, cuda, cuda:1 or the number of a GPU")


class StatusConfig(DataConfig):
    training: dict[str, Any] = Field({}, description="keys of `start`, of which status reads save_dir and run_name")
    save_dir: str | None = Field(None, description="folder of the run; null: what the file says, or runs/curriculum")
