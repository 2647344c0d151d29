"""Phases of training: shares of the moduli and learning rates as pure functions of the update within a phase."""

import math
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from core.config import Config
from core.schedule import factor

WARMUP_START = 1e-4  # share of the learning rate at the first update of a warm-up, as documented users know it

Transition = Literal["linear", "cosine", "exp", "step"]
Weights = list[Annotated[float, Field(ge=0)]]


class Phase(Config):
    """A stretch of updates over which the shares of the moduli move from `start_weights` to `end_weights`."""

    name: str | None = Field(None, description="its name in metrics; null: phase 1, phase 2, ...")
    phase_steps: int = Field(ge=1, description="updates")
    transition_steps: int = Field(0, ge=0, description="updates until the end weights hold")
    warmup_steps: int = Field(0, ge=0, description="updates over which the learning rate rises, from 1e-4 of it")
    lr_decay: Literal["constant", "cosine"] = Field(
        "constant", description="course after the warm-up; cosine: to lr_min"
    )
    start_weights: Weights | None = Field(None, description="shares of the moduli in their order; null: end_weights")
    end_weights: Weights | None = Field(None, description="the same at the end; null: equal shares")
    transition: Transition = Field("linear", description="course between the two; step: the jump comes half-way")
    exp_rate: float = Field(3.0, gt=0, description="r of exp, (1 - exp(-r p)) / (1 - exp(-r)) at share p of the way")
    exp_jump: bool = Field(False, description="exp as 1 - exp(-r p), which falls short and ends in a jump")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for key, weights in [("start_weights", self.start_weights), ("end_weights", self.end_weights)]:
            if weights is not None and not 0 < sum(weights) < math.inf:
                total = f"{key} {weights} sum to {sum(weights):g}"
                raise ValueError(f"{total}; at least one modulus needs a share, and all together a finite one")
        if self.warmup_steps >= self.phase_steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}, but the phase has {self.phase_steps} updates")
        if self.transition_steps > self.phase_steps:
            raise ValueError(
                f"transition_steps is {self.transition_steps}, but the phase has {self.phase_steps} updates"
            )
        return self

    def weights(self, update: int, moduli: int, interval: int = 1) -> np.ndarray:
        """Shares of the moduli at an update of the phase, (M,), summing to 1; they change only every `interval`."""
        update -= update % interval
        end = np.array(self.end_weights if self.end_weights is not None else [1.0] * moduli)
        start = np.array(self.start_weights if self.start_weights is not None else end)
        way = self._way(update / self.transition_steps) if update < self.transition_steps else 1.0
        now = start + way * (end - start)
        return now / now.sum()

    def _way(self, p: float) -> float:
        """How far the weights have moved when a share p, below 1, of the transition is done."""
        match self.transition:
            case "cosine":
                return (1 - math.cos(math.pi * p)) / 2
            case "exp":
                r = self.exp_rate  # expm1, as 1 - exp(-r) is 0 for the smallest
                return -math.expm1(-r * p) / (1 if self.exp_jump else -math.expm1(-r))
            case "step":
                return float(p > 0.5)
        return p

    def lr(self, update: int, peak: float, lowest: float) -> float:
        """Learning rate of an update of the phase: each phase rises to `peak` by itself and may fall to `lowest`."""
        return peak * factor(
            update,
            shape=self.lr_decay,
            steps=self.phase_steps,
            warmup=self.warmup_steps,
            floor=lowest / peak,
            start=WARMUP_START,
        )
