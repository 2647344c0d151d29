"""A share of the model on each rank (FSDP2)."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from core import optim
from core.distributed import World
from core.errors import UserError
from core.model import GPT, LanguageModel
from core.parallel import Parallel


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
        gradients = [local(p.grad) for p in self.parameters if p.grad is not None]
        square = nn.utils.get_total_norm(gradients).to(self.world.device).double().square()
        dist.all_reduce(square)
        norm = square.sqrt().float()
        if max_norm is not None:
            torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @torch.no_grad()
    def collect(self) -> None:
        for whole, share in zip(self.model.parameters(), self.trained.parameters(), strict=True):
            whole.copy_(whole_of(share))

    @torch.no_grad()
    def hand_out(self) -> None:
        for whole, share in zip(self.model.parameters(), self.trained.parameters(), strict=True):
            local(share).copy_(local(placed(whole, share)))

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
            whole = whole_of(share)  # one after the other, so that a card need not hold all of them
            if self.world.is_main:
                tensors[key] = whole.cpu()
        return tensors

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
        optim.load_state_tensors(optimizer, self.trained, tensors, placed)


def placed(value: Tensor, parameter: Tensor) -> Tensor:
    """The tensor, which every rank has whole, on the parameter's device, divided over ranks as the parameter is."""
    value = value.detach().to(parameter.device)
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def whole_of(value: Tensor) -> Tensor:
    """The tensor with what other ranks have of it, all of which must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """This rank's share."""
    return value.to_local() if isinstance(value, DTensor) else value
