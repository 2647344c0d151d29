"""What every downstream run shares: which weights it starts from, what it trains, and how."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from core import transfer
from core.distributed import World
from core.donor import Donor
from core.errors import UserError
from core.model import GPT, GPTConfig
from core.run_config import LARGEST_SEED, SavedRunConfig, free
from core.schedule import Shape, factor
from core.trainer import Settings
from core.transfer import Component, Control, Embedding


class AdaptationConfig(SavedRunConfig):
    cut: ClassVar[frozenset[str]] = frozenset({"batch_size", "gradient_accumulation_steps"})
    taken_by_default: ClassVar[Sequence[Component]] = ("everything",)

    pretrained_model_path: str | None = Field(
        None, description="checkpoint folder or file to take weights from; {seed} in it stands for the run's seed"
    )
    weights_to_be_transferred: list[Component] | None = Field(
        None, description="what to take; null: everything, or of a language model attn, ffn and ln"
    )
    second_model_path: str | None = Field(
        None, description="a second model to take weights from, such as its MLPs beside the first one's attention"
    )
    second_weights_to_be_transferred: list[Component] | None = Field(
        None, description="what to take from the second model"
    )
    embedding_init_strategy: Embedding = Field(
        "average", description="how embeddings are made from those of another vocabulary"
    )
    transfer_control: Control | None = Field(
        None, description="in place of the trained weights: their values shuffled, or an untrained model; null: neither"
    )
    weights_to_be_trained: list[Component] = Field(["everything"], description="what is trained; the rest is frozen")

    positions: Literal["learned", "rope"] | None = Field(
        None, description="learned or rotary positions; null: as in the checkpoint, or else learned"
    )
    tied: bool = Field(False, description="the output projection is the embedding matrix")
    dropout: float = Field(0.0, ge=0, lt=1, description="after the embedding, on attention, on residual branches")
    gradient_accumulation_steps: int = Field(1, ge=1, description="micro-batches per update")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    lr_schedule: Shape = Field("cosine", description="course of the learning rate after the warm-up")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="share of learning_rate that cosine and linear end at")
    weight_decay: float = Field(1e-3, ge=0, description="AdamW's decay of matrices")
    seed: int = Field(
        42, ge=0, le=LARGEST_SEED, description="of the initial weights, the data, and what a transfer draws"
    )
    save_steps: int = free(600, ge=1, description="updates between checkpoints; the last update is always saved")

    @model_validator(mode="after")
    def _transfer_is_whole(self) -> Self:
        for path, weights in (
            ("pretrained_model_path", "weights_to_be_transferred"),
            ("second_model_path", "second_weights_to_be_transferred"),
        ):
            if getattr(self, weights) and not getattr(self, path):
                raise ValueError(f"{weights} is {getattr(self, weights)}, but {path} does not say where from")
        if self.transfer_control and not self.sources:
            raise ValueError(f"transfer_control is {self.transfer_control}, but pretrained_model_path names no weights")
        if self.warmup >= self.updates:
            raise ValueError(f"warmup_steps is {self.warmup}, but the whole run has {self.updates} updates")
        return self

    @property
    @abstractmethod
    def updates(self) -> int:
        """Of the whole run."""

    @property
    @abstractmethod
    def warmup(self) -> int:
        """Updates over which the learning rate rises."""

    @property
    @abstractmethod
    def eval_every(self) -> int:
        """Updates between evaluations."""

    @property
    def sources(self) -> list[tuple[str, str, Sequence[Component]]]:
        """Key, path and components of each model that weights come from."""
        named = [
            ("pretrained_model_path", self.pretrained_model_path, self.weights_to_be_transferred),
            ("second_model_path", self.second_model_path, self.second_weights_to_be_transferred),
        ]
        by_default = self.taken_by_default
        return [
            (key, path.replace("{seed}", str(self.seed)), by_default if some is None else some)
            for key, path, some in named
            if path is not None
        ]

    def shape_of(self, size: tuple[int, int, int], num_tokens: int, n_positions: int, donor: Donor | None) -> GPTConfig:
        """A model of so many layers, heads and channels, with the positions of the donor if none are named."""
        like = donor.config if donor else None
        layers, heads, width = size
        return GPTConfig(
            num_tokens=num_tokens,
            n_positions=n_positions,
            n_layer=layers,
            n_head=heads,
            n_embd=width,
            positions=self.positions or (like.positions if like else "learned"),
            tied=self.tied,
            dropout=self.dropout,
            rope_theta=like.rope_theta if like else GPTConfig.rope_theta,
        )

    def lr_at(self, step: int) -> float:
        """The learning rate of an update."""
        floor, warmup = self.min_lr_ratio, self.warmup
        return self.learning_rate * factor(step, shape=self.lr_schedule, steps=self.updates, warmup=warmup, floor=floor)

    def settings(self, device: torch.device, **further: Any) -> Settings:
        return super().settings(
            device,
            seed=self.seed,
            accumulation=self.gradient_accumulation_steps,
            weight_decay=self.weight_decay,
            eval_every=self.eval_every,
            save_every=self.save_steps,
            starts_blind=not self.sources,
            **further,
        )


def read_parts(config: AdaptationConfig) -> list[transfer.Part]:
    """What is to be transferred. Raises UserError for a model that cannot be read."""
    return [transfer.Part(transfer.read(path, key), some, key) for key, path, some in config.sources]


def identity(config: AdaptationConfig, parts: Sequence[transfer.Part], world: World) -> dict[str, Any]:
    """The configuration's, with weights that are taken in place of where they lie: they may be moved in between."""
    return {**config.identity(world.size), **{part.key: f"weights {part.source.digest()}" for part in parts}}


def build_model(
    config: AdaptationConfig, parts: Sequence[transfer.Part], shape: Callable[[Donor | None], GPTConfig]
) -> tuple[GPT, transfer.Report]:
    """The model with what is transferred, and what is frozen. `shape`: given the first source, if there is one.

    Raises UserError for what does not fit.
    """
    try:
        like = shape(parts[0].source if parts else None)
    except ValueError as error:
        raise UserError(str(error)) from error
    model = GPT(like, seed=config.seed)
    chosen = transfer.Transfer(
        parts,
        embedding=config.embedding_init_strategy,
        trained=config.weights_to_be_trained,
        control=config.transfer_control,
        seed=config.seed,
    )
    return model, transfer.apply(model, chosen)


def announce(fates: transfer.Report, world: World) -> None:
    """Says what became of every parameter, if anything did."""
    if not fates.says_nothing:
        world.say(str(fates))
