"""Several short rows in one context: no token is spent on padding them to the longest."""

import numpy as np
import torch

from core.batch import IGNORE, Batch, Rows, SupervisedBatch, row_lengths


def packed(batch: Batch, length: int, pad_token: int | None) -> SupervisedBatch:
    """The rows of a batch, without their pads, in as few contexts of `length` tokens as first-fit decreasing finds.

    Each row keeps its positions and sees itself alone, so that every logit, and the loss, is as without packing; the
    batch stays the same set of examples. (First-fit decreasing takes at most 11/9 of the contexts needed, plus one:
    Yue, 1991; Johnson, 1973, had shown it plus four.) Raises ValueError if a row is longer than a context.
    """
    ids, targets = batch.input_ids.numpy(), batch.targets.numpy()
    lengths = row_lengths(batch, pad_token)
    if lengths.max(initial=0) > length:
        raise ValueError(f"pack_to {length} is too short: a row has {lengths.max()} tokens")
    context, offset = _first_fit(lengths, length)
    shape = (int(context.max(initial=-1)) + 1) * length

    row = np.repeat(np.arange(len(ids)), lengths)  # of each token
    column = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    place = (context * length + offset)[row] + column
    packed_ids = np.full(shape, 0 if pad_token is None else pad_token)
    packed_targets = np.full(shape, IGNORE)
    starts = np.arange(shape) % length  # what fills up is a row by itself
    packed_ids[place], packed_targets[place], starts[place] = ids[row, column], targets[row, column], offset[row]

    whole = SupervisedBatch.of(Batch(*(torch.from_numpy(x.reshape(-1, length)) for x in (packed_ids, packed_targets))))
    padding = shape - int(lengths.sum())
    is_token = np.zeros(shape, dtype=np.bool_)
    is_token[place] = True
    rows = rows_of(starts.reshape(-1, length), is_token)
    return whole._replace(rows=rows, rows_inside=len(ids), padding=padding)


def rows_of(starts: np.ndarray, is_token: np.ndarray | None = None) -> Rows:
    """The rows that begin at `starts`, int64 (B, T). `is_token`, bool (B * T): the others only fill up.

    To have each row by itself is worth it where that makes at most half as many pairs of tokens as whole contexts do.
    """
    B, T = starts.shape
    first = np.flatnonzero(starts == np.arange(T))  # of each row, among the flattened
    lengths = np.diff(np.append(first, B * T))
    if is_token is not None:
        first, lengths = first[is_token[first]], lengths[is_token[first]]
    R, L = len(first), int(lengths.max(initial=0))
    if 2 * R * L * L > B * T * T:
        return Rows(torch.from_numpy(starts))
    gather = first[:, None] + np.minimum(np.arange(L), lengths[:, None] - 1)
    scatter = np.zeros(B * T, dtype=np.int64)
    inside = np.arange(L) < lengths[:, None]
    scatter[gather[inside]] = np.flatnonzero(inside)
    return Rows(torch.from_numpy(starts), torch.from_numpy(gather), torch.from_numpy(scatter))


def _first_fit(lengths: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """The context of each row and where in it the row begins: longest first, each into the first with room for it."""
    context, offset = np.zeros_like(lengths), np.zeros_like(lengths)
    left = np.full(len(lengths), room)  # in each context
    for row in np.argsort(-lengths, kind="stable"):
        first = int((left >= lengths[row]).argmax())
        context[row], offset[row] = first, room - left[first]
        left[first] -= lengths[row]
    return context, offset
