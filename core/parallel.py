"""How training is spread over ranks: the whole model on each of them (DDP), or a share of it (FSDP2)."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from core import optim
from core.distributed import World
from core.errors import UserError
from core.model import GPT, LanguageModel

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


class Sharded(Parallel):
    """Each rank has a share of every parameter, its gradient and its optimiser state (FSDP2).

    A block's parameters are gathered for as long as it is computed. `model` waits in the host's memory, and visits the
    device to be measured: a card has to hold the weights once, but not, as with DDP, the other three quarters of what
    AdamW's training keeps. Raises UserError for a model other than a GPT.
    """

    def __init__(self, model: LanguageModel, world: World, compiles: bool):
        if not isinstance(model, GPT):
            raise UserError(f"parallel: fsdp can divide a GPT, but not a {type(model).__name__}; use ddp")
        self.model, self.world, trained = model.cpu(), world, copy.deepcopy(model.cpu())
        if compiles:
            trained.compile_parts()
        mesh = init_device_mesh(world.device.type, (world.size,))
        for block in trained.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(trained, mesh=mesh)  # moves what is left of it, here as in each block, to the device
        self.module = self.trained = trained

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.module.set_requires_gradient_sync(True)

    def clip(self, max_norm: float | None) -> Tensor:
        """Shares do not overlap, so the square of the norm is the sum of theirs: one all-reduce of one number."""
        gradients = [optim.local(p.grad) for p in self.parameters if p.grad is not None]
        square = nn.utils.get_total_norm(gradients).to(self.world.device).double().square()
        dist.all_reduce(square)
        norm = square.sqrt().float()
        if max_norm is not None:
            torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @torch.no_grad()
    def collect(self) -> None:
        for whole, share in zip(self.model.parameters(), self.trained.parameters(), strict=True):
            whole.copy_(optim.whole(share))

    @torch.no_grad()
    def hand_out(self) -> None:
        for whole, share in zip(self.model.parameters(), self.trained.parameters(), strict=True):
            optim.local(share).copy_(optim.local(optim.placed(whole, share)))

    @contextmanager
    def ready(self) -> Iterator[LanguageModel]:
        self.collect()
        self.model.to(self.world.device)
        try:
            yield self.model
        finally:
            self.model.cpu()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        tensors = {}
        for key, share in optim.state_tensors(optimizer, self.trained).items():
            whole = optim.whole(share)  # one after the other, so that a card need not hold all of them
            if self.world.is_main:
                tensors[key] = whole.cpu()
        return tensors


def spread(model: LanguageModel, world: World, kind: Kind, compiles: bool) -> Parallel:
    """The model, ready for training with others. One process alone has nothing to divide."""
    if kind == "fsdp" and world.size > 1:
        return Sharded(model, world, compiles)
    return Replicated(model, world, compiles)
