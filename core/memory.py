"""The memory that an update will take, found without taking it: the update is carried out on tensors without data."""

import copy
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core import optim
from core.batch import SupervisedBatch
from core.model import GPT, LanguageModel, loss_sum
from core.plan import Settings


class Peak(TorchDispatchMode):
    """Adds up the bytes of all tensors that are alive, each storage once; `peak` is the most there were at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return out

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._subtract, storage.nbytes())

    def _subtract(self, size: int) -> None:
        self.now -= size


def peak_of_update(
    model: GPT, batches: Sequence[SupervisedBatch], precision: str = "fp32", optimizer: str = "adamw"
) -> int:
    """Bytes of all tensors at the worst moment of an update on these micro-batches: weights, gradients, the optimiser's
    moments, what is kept for the backward pass, and what passes. It takes a second and no memory, whatever the size.

    On top comes what passes within one operation (for a vocabulary of GPT-2's size, up to 150 MiB in the loss, on a GPU
    3 GiB, or 2 if it is compiled), what libraries take for themselves, and what an allocator cannot fill.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(fake):
        twin = copy.deepcopy(model)
    twin.recomputes = model.recomputes
    with fake, Peak() as memory:
        # More than two do not meet. Attention from a column on needs a mask that cannot be without data, so here the
        # last block reads all columns, which takes a little more.
        made = [batch.mapped(torch.zeros_like)._replace(first=0) for batch in batches[:2]]
        for tensor in [*twin.parameters(), *twin.buffers()]:
            memory.add(tensor)
        mover = optim.OPTIMIZERS[optimizer](twin, lr=0.0, weight_decay=0.0)
        for _ in range(2):  # the moments are made by the first
            for batch in made:
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                    loss = loss_sum(twin, batch)
                loss.backward()
            mover.step()
            mover.zero_grad(set_to_none=True)
    return memory.peak


def predicted(
    model: LanguageModel, batches: Sequence[SupervisedBatch], settings: Settings, ranks: int = 1
) -> int | None:
    """As `peak_of_update`, on each of several ranks; None for a model whose course depends on its data.

    DDP keeps a second copy of the gradient, to send. FSDP2 divides weights, gradient and moments, of which the
    embeddings and two blocks at a time are there whole.
    """
    if not isinstance(model, GPT):
        return None
    peak, weights = peak_of_update(model, batches, settings.precision, settings.optimizer), size_of(model)
    if ranks == 1:
        return peak
    if settings.parallel == "ddp":
        return peak + weights
    block = size_of(model.blocks[0])
    around = weights - len(model.blocks) * block
    return peak - 4 * weights + 4 * weights // ranks + 2 * (around + 2 * block)


def size_of(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
