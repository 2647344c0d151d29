"""How training is spread over ranks: the whole model on each of them (DDP), or a share of it (FSDP2)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core import optim
from core.distributed import World
from core.model import LanguageModel

Kind = Literal["ddp", "fsdp"]


class Parallel(ABC):
    """A model in training. Gradients are averaged over the ranks, whatever becomes of the parameters.

    `model` is what is measured and saved; on it evaluation, checkpoints and whatever follows a run see nothing of how
    it was trained. `trained` has the same parameters, by name, and is what the optimiser moves.
    """

    model: LanguageModel
    trained: LanguageModel
    module: nn.Module  # what is called: `trained`, maybe wrapped

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.trained.parameters() if p.requires_grad]

    @abstractmethod
    def accumulating(self) -> AbstractContextManager[None]:
        """While entered, gradients add up on each rank and are not averaged."""

    @abstractmethod
    def clip(self, max_norm: float | None) -> Tensor:
        """Scales the gradient down to a norm of at most `max_norm`; returns the norm it had, ()."""

    @abstractmethod
    def collect(self) -> None:
        """Gives `model` the weights of `trained`. Every rank must call it."""

    @abstractmethod
    def hand_out(self) -> None:
        """The inverse: gives `trained` the weights of `model`, which are the same on every rank."""

    @contextmanager
    def ready(self) -> Iterator[LanguageModel]:
        """`model` with the weights of now, on the device. Every rank must enter it."""
        yield self.model

    @abstractmethod
    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """As `optim.state_tensors`, whole, on the main rank. Every rank must call it."""

    @abstractmethod
    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
        """The inverse, of tensors that every rank has."""


class Replicated(Parallel):
    """Each rank has all of it; the gradient is all-reduced while the backward pass goes on."""

    def __init__(self, model: LanguageModel, world: World, compiles: bool):
        self.module: nn.Module = model.to(world.device)
        self.model = self.trained = model
        if compiles:
            model.compile_parts()
        if world.size > 1:
            ids = [world.device] if world.device.type == "cuda" else None
            constant = [name for name, _ in model.named_buffers()]  # RoPE's, which would be sent at each update
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, constant)
            self.module = DistributedDataParallel(self.module, device_ids=ids)

    def accumulating(self) -> AbstractContextManager[None]:
        return self.module.no_sync() if isinstance(self.module, DistributedDataParallel) else nullcontext()

    def clip(self, max_norm: float | None) -> Tensor:
        return nn.utils.clip_grad_norm_(self.parameters, max_norm or math.inf)

    def collect(self) -> None:
        """They are the same."""

    def hand_out(self) -> None:
        """They are the same."""

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        return optim.state_tensors(optimizer, self.model)

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
        optim.load_state_tensors(optimizer, self.model, tensors)


def spread(model: LanguageModel, world: World, kind: Kind, compiles: bool) -> Parallel:
    """The model, ready for training with others. One process alone has nothing to divide."""
    if kind == "fsdp" and world.size > 1:
        from core.sharded import Sharded  # imports take a second that most commands can spare

        return Sharded(model, world, compiles)
    return Replicated(model, world, compiles)
