"""What tasks hand to training: token ids, and at which positions which id has to be predicted."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100  # a target that is not scored; the value PyTorch's cross_entropy skips by default


class Batch(NamedTuple):
    """B sequences of T tokens, shorter ones padded on the right, where a causal model never looks."""

    input_ids: Tensor  # int64 (B, T)
    targets: Tensor  # int64 (B, T): the id to predict at each position, IGNORE where no loss

    def rows(self, index: slice | Tensor) -> "Batch":
        if isinstance(index, slice):
            return Batch(self.input_ids[index], self.targets[index])
        return Batch(*(x.index_select(0, index) for x in self))  # four times as fast as x[index]

    def trimmed(self, pad_token: int | None) -> "Batch":
        """Without the columns at the end that hold nothing but pads."""
        (used,) = (self.input_ids != (-1 if pad_token is None else pad_token)).any(dim=0).nonzero(as_tuple=True)
        length = int(used[-1]) + 1 if len(used) else 0
        return self if length == self.input_ids.shape[1] else Batch(*(x[:, :length].contiguous() for x in self))

    def supervised(self, pad_token: int | None = None) -> "SupervisedBatch":
        """The same batch with its scored positions listed, which the model needs to skip all other logits.

        The last column is left out if it has no target, as is so with rows of a task: no position would look at it.
        """
        is_last_scored = (self.targets[:, -1] != IGNORE).any()
        read = self if is_last_scored else Batch(self.input_ids[:, :-1].contiguous(), self.targets[:, :-1])
        padding = 0 if pad_token is None else read.input_ids.numel() - int(row_lengths(read, pad_token).sum())
        return SupervisedBatch.of(read)._replace(padding=padding)


class Rows(NamedTuple):
    """Rows that share contexts, each of which sees itself alone: R rows, the longest of L tokens.

    Attention goes through them side by side where `gather` says how, which beside long contexts takes little, else by a
    mask made of `starts`.
    """

    starts: Tensor  # int64 (B, T): where the row of each token begins
    gather: Tensor | None = None  # int64 (R, L): each row's tokens among the flattened (B * T), its last one repeated
    scatter: Tensor | None = None  # int64 (B * T,): where each token is among the flattened (R * L)


class SupervisedBatch(NamedTuple):
    """A batch as the model takes it. Listing the positions here, on the CPU, spares the GPU a synchronisation."""

    input_ids: Tensor  # int64 (B, T)
    positions: Tensor  # int64 (N,), ascending indices into the flattened (B * T) tokens
    labels: Tensor  # int64 (N,), the token to predict at each of them
    rows: Rows | None = None  # if rows share contexts
    rows_inside: int | None = None  # examples in it, if rows share contexts
    padding: int = 0  # tokens that only fill rows up
    first: int = 0  # column before which nothing is scored
    fillers: int = 0  # of the positions, at the end: they only fill up, and their labels are IGNORE

    @classmethod
    def of(cls, batch: Batch) -> "SupervisedBatch":
        """All columns of a batch."""
        targets = batch.targets.cpu().numpy()  # PyTorch takes two to six times as long for what follows
        scored = targets != IGNORE
        first = int(scored.any(axis=0).argmax())  # 0 if nothing is
        found = [np.flatnonzero(scored), targets[scored]]
        positions, labels = (torch.from_numpy(x).to(batch.targets.device) for x in found)
        return cls(batch.input_ids, positions, labels, first=first)

    def supervised(self, pad_token: int | None = None) -> "SupervisedBatch":
        return self

    @property
    def examples(self) -> int:
        return len(self.input_ids) if self.rows_inside is None else self.rows_inside

    @property
    def scored(self) -> int:
        """Targets in it."""
        return len(self.labels) - self.fillers

    def filled(self, shapes: int) -> "SupervisedBatch":
        """With positions that count for nothing, so that batches of one size have few shapes, and few firsts."""
        fillers = -len(self.labels) % max(1, self.input_ids.numel() // shapes)
        first = self.first - self.first % max(1, self.input_ids.shape[1] // shapes)
        if not fillers:
            return self._replace(first=first)
        positions = torch.cat([self.positions, self.positions[:1].expand(fillers)])
        labels = F.pad(self.labels, (0, fillers), value=IGNORE)
        return self._replace(positions=positions, labels=labels, fillers=fillers, first=first)

    @property
    def tensors(self) -> list[Tensor]:
        return [x for x in self if isinstance(x, Tensor)]

    def mapped(self, move: Callable[[Tensor], Tensor]) -> "SupervisedBatch":
        """The same batch, but for each tensor what `move` makes of it."""
        rows = None if self.rows is None else Rows(*(None if x is None else move(x) for x in self.rows))  # type: ignore[arg-type]
        ids, positions, labels = move(self.input_ids), move(self.positions), move(self.labels)
        return self._replace(input_ids=ids, positions=positions, labels=labels, rows=rows)

    def pinned(self, device: torch.device) -> "SupervisedBatch":
        """In memory from which `device` can be fed without waiting."""
        if device.type != "cuda":
            return self
        return self.mapped(lambda x: x if x.is_cuda else x.pin_memory())  # some are made on the GPU

    def to(self, device: torch.device) -> "SupervisedBatch":
        """On `device`, without waiting for the copy."""
        return self.mapped(lambda x: x.to(device, non_blocking=True)) if device.type == "cuda" else self


def concatenate(batches: Sequence[Batch], pad_token: int | None = None) -> Batch:
    """Stacks batches; shorter ones, which only a task with a pad token has, are padded to the longest."""
    if len(batches) == 1:
        return batches[0]
    length = max(batch.input_ids.shape[1] for batch in batches)
    batches = [_widened(batch, length, pad_token) for batch in batches]
    return Batch(torch.cat([b.input_ids for b in batches]), torch.cat([b.targets for b in batches]))


def _widened(batch: Batch, length: int, pad_token: int | None) -> Batch:
    missing = length - batch.input_ids.shape[1]
    if missing == 0:
        return batch
    assert pad_token is not None
    fillers = Batch(*(torch.full((len(batch.input_ids), missing), value) for value in (pad_token, IGNORE)))
    return Batch(*(torch.cat(pair, dim=1) for pair in zip(batch, fillers, strict=True)))


def row_lengths(batch: Batch, pad_token: int | None) -> np.ndarray:
    """Tokens of each row up to its last one that is no pad, int64 (B,)."""
    ids = batch.input_ids.cpu().numpy()
    is_token = ids[:, ::-1] != (-1 if pad_token is None else pad_token)
    return np.where(is_token.any(axis=1), ids.shape[1] - is_token.argmax(axis=1), 0)
