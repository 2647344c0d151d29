"""What tasks hand to training: token ids, and at which positions which id has to be predicted."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = -100  # a target that is not scored; the value PyTorch's cross_entropy skips by default


class Batch(NamedTuple):
    """B sequences of T tokens, shorter ones padded on the right, where a causal model never looks."""

    input_ids: Tensor  # int64 (B, T)
    targets: Tensor  # int64 (B, T): the id to predict at each position, IGNORE where no loss

    def rows(self, index: slice | Tensor) -> "Batch":
        if isinstance(index, slice):
            return Batch(self.input_ids[index], self.targets[index])
        return Batch(*(x.index_select(0, index) for x in self))  # four times as fast as x[index]

    def supervised(self) -> "SupervisedBatch":
        """The same batch with its scored positions listed, which the model needs to skip all other logits."""
        flat = self.targets.flatten()
        positions = (flat != IGNORE).nonzero().squeeze(1)
        return SupervisedBatch(self.input_ids, positions, flat[positions])


class SupervisedBatch(NamedTuple):
    """A batch as the model takes it. Listing the positions here, on the CPU, spares the GPU a synchronisation."""

    input_ids: Tensor  # int64 (B, T)
    positions: Tensor  # int64 (N,), ascending indices into the flattened (B * T) tokens
    labels: Tensor  # int64 (N,), the token to predict at each of them

    def pinned(self, device: torch.device) -> "SupervisedBatch":
        """In memory from which `device` can be fed without waiting."""
        if device.type != "cuda":
            return self
        return SupervisedBatch(*(x if x.is_cuda else x.pin_memory() for x in self))  # some are made on the GPU

    def to(self, device: torch.device) -> "SupervisedBatch":
        """On `device`, without waiting for the copy."""
        return SupervisedBatch(*(x.to(device, non_blocking=True) for x in self)) if device.type == "cuda" else self


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Stacks batches of equal length T."""
    if len(batches) == 1:
        return batches[0]
    return Batch(torch.cat([b.input_ids for b in batches]), torch.cat([b.targets for b in batches]))
