"""What a phase trains on if its data are token files: windows of T tokens, each predicting the token after it."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from core import rng
from core.batch import IGNORE, Batch, SupervisedBatch
from core.packing import rows_of
from core.source import Source
from core.token_files import TokenFile

ROUNDS = 10  # of the Feistel network, as in FF1 (NIST SP 800-38G): four are visibly not random for a few windows


class Permutation:
    """A random order of 0 .. size - 1 that is computed, not stored: for billions of windows as for three."""

    def __init__(self, size: int, generator: np.random.Generator):
        self.size = size
        self._half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))  # bits on either side
        self._mask = (np.uint64(1) << self._half) - np.uint64(1)
        self._keys = generator.integers(2**64, size=ROUNDS, dtype=np.uint64)

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """The numbers at some places of the order, int64 as `index`.

        A Feistel network permutes the numbers of an even count of bits, at most four times as many; what falls outside
        of `size` is put through again until it falls inside ("cycle walking": Black and Rogaway, 2002).
        """
        x = self._once(index.astype(np.uint64))
        while (outside := x >= self.size).any():
            x[outside] = self._once(x[outside])
        return x.astype(np.int64)

    def _once(self, x: np.ndarray) -> np.ndarray:
        left, right = x >> self._half, x & self._mask
        for key in self._keys:
            left, right = right, left ^ (rng.mix(right ^ key) & self._mask)
        return (left << self._half) | right


class Windows(Source):
    """Windows of `length` tokens of some token files, which count as one split, whatever it is called.

    Example n is window n % N of epoch n // N, where N is the number of windows. In each epoch, every file is a ring
    that is cut into windows from a random token on, and the windows of all files come in random order; fewer than
    `length` tokens of each file are left out, others each time. All is a function of `name`, `seed` and the epoch.

    With `document_mask`, every token sees its own document alone, counts its position from where that document begins
    in the window, and is not asked for the first token of the next one.
    """

    def __init__(
        self, files: Sequence[TokenFile], length: int, seed: int, *, name: str = "", document_mask: bool = False
    ):
        """Raises ValueError for a file that is shorter than a window and the token after it."""
        for file in files:
            if len(file) <= length:
                raise ValueError(f"{file.path} has {len(file):,} tokens, too few for a window of {length} and the next")
            if document_mask and file.starts is None:
                raise ValueError(f"{file.path} does not say where its documents begin, which document_mask needs")
        self.files, self.length, self.seed, self.name, self.document_mask = files, length, seed, name, document_mask
        self._borders = np.cumsum([0, *(len(file) // length for file in files)])

    def __len__(self) -> int:
        """Windows of an epoch."""
        return int(self._borders[-1])

    def batch(self, split: str, start: int, stop: int) -> Batch | SupervisedBatch:
        return cut(self.files, *self.places(start, stop), self.length, self.document_mask)

    def places(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the examples start .. stop - 1, the number of the file and the first token, each int64 (stop - start,)."""
        epochs = range(start // len(self), (stop - 1) // len(self) + 1)
        numbers, begins = zip(*(self._in_epoch(epoch, start, stop) for epoch in epochs), strict=True)
        return np.concatenate(numbers), np.concatenate(begins)

    def _in_epoch(self, epoch: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        N = len(self)
        generator = rng.generator(f"windows {self.name}", self.seed, "train", epoch)
        offsets = generator.integers([len(file) for file in self.files])
        order = Permutation(N, generator)
        window = order(np.arange(max(start - epoch * N, 0), min(stop - epoch * N, N)))
        number = np.searchsorted(self._borders, window, side="right") - 1
        return number, offsets[number] + (window - self._borders[number]) * self.length


def cut(
    files: Sequence[TokenFile], numbers: np.ndarray, begins: np.ndarray, length: int, document_mask: bool = False
) -> Batch | SupervisedBatch:
    """Windows of `files[numbers]` that begin at the tokens `begins`, past a file's end from its beginning."""
    rows = np.empty((len(numbers), length + 1), np.int64)
    for row, number, begin in zip(rows, numbers, begins, strict=True):
        tokens = files[number].tokens
        begin %= len(tokens)
        straight = tokens[begin : begin + length + 1]
        row[: len(straight)] = straight
        row[len(straight) :] = tokens[: length + 1 - len(straight)]
    ids = torch.from_numpy(rows)
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    if not document_mask:
        return batch
    return inside_documents(batch, [_borders(files[n], int(b), length) for n, b in zip(numbers, begins, strict=True)])


def _borders(file: TokenFile, begin: int, length: int) -> np.ndarray:
    """Where in a window documents begin, ascending, and where the one after it would."""
    assert file.starts is not None
    size = len(file)
    begin %= size
    ends = np.array([begin, begin + length], np.uint64)  # of another type, NumPy would convert all of `starts`
    first, last = np.searchsorted(file.starts, ends, side="left")
    places = file.starts[first : last + 1].astype(np.int64) - begin
    if begin + length >= size:  # goes on at the file's beginning
        again = file.starts[: np.searchsorted(file.starts, np.uint64(begin + length - size), side="right")]
        places = np.concatenate([places, again.astype(np.int64) + size - begin])
    return places[(places > 0) & (places <= length)]


def inside_documents(batch: Batch, borders: Sequence[np.ndarray]) -> SupervisedBatch:
    """The batch with attention kept inside documents. `borders`: the columns of each row at which one begins."""
    starts, targets = np.zeros(tuple(batch.input_ids.shape), np.int64), batch.targets.clone()
    for row, places in enumerate(borders):
        inside = places[places < starts.shape[1]]
        starts[row, inside] = inside
        targets[row, torch.from_numpy(places - 1)] = IGNORE
    np.maximum.accumulate(starts, axis=1, out=starts)
    supervised = SupervisedBatch.of(Batch(batch.input_ids, targets))
    return supervised._replace(rows=rows_of(starts))


def evaluation_windows(
    file: TokenFile, length: int, most: int | None, batch_size: int, *, document_mask: bool = False
) -> list[Batch | SupervisedBatch]:
    """Windows side by side from the file's first token on: all that are whole, or `most` evenly spread ones."""
    count = (len(file) - 1) // length
    chosen = np.arange(count)
    if most is not None and most < count:
        chosen = np.arange(most) * count // most
    parts = np.array_split(chosen, math.ceil(len(chosen) / batch_size)) if count else []
    return [cut([file], np.zeros(len(p), np.int64), p * length, length, document_mask) for p in parts]


def bits_per_byte(nats_per_token: float, file: TokenFile) -> float:
    """A loss per token as bits per byte of text, by the tokens and bytes of the whole file."""
    assert file.meta is not None
    return nats_per_token / math.log(2) * file.meta["tokens"] / file.meta["bytes"]
