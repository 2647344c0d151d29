"""Token sequences made as they are asked for. What is kept of a data set are its multipliers and its increments.

B sequences, N numbers each, d tokens a number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from core import rng
from core.batch import Batch, concatenate
from core.source import Source
from prng.generators import Array, Generator, digits

BLOCK = 256  # examples that one counter-based generator draws


@dataclass(frozen=True)
class Format:
    """How numbers become tokens: `seq_len` numbers a row, each as `digits` digits to `base`, the lowest first."""

    seq_len: int
    base: int
    digits: int = 1

    def batch(self, numbers: Array) -> Batch:
        """(B, N) numbers as (B, N d - 1) inputs and targets; every position is scored."""
        rows = digits(numbers, self.base, self.digits)
        rows = torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows
        return Batch(rows[:, :-1], rows[:, 1:])


class Grid:
    """The sequences of one generator: every pair of an a and a c, each with `starts` start values.

    A start value is a hash of (generator, seed, use, its number in the grid), so that a grid of any size is two lists.
    `use` sets grids of the same pairs apart. Numbers are made by torch on `device`, or else by NumPy, faster on a CPU.
    """

    def __init__(
        self,
        generator: Generator,
        a: Sequence[int],
        c: Sequence[int],
        *,
        seed: int,
        use: str,
        starts: int = 1,
        device: torch.device | None = None,
    ):
        self.generator, self.starts = generator, starts
        self.a, self.c = np.array(a, dtype=generator.dtype), np.array(c, dtype=generator.dtype)
        self._key = rng.generator(generator.name, seed, use, 0).integers(2**64, dtype=np.uint64)
        self._device = device

    @property
    def pairs(self) -> int:
        return len(self.a) * len(self.c)

    def numbers(self, a_index: np.ndarray, c_index: np.ndarray, start: np.ndarray, length: int) -> Array:
        """Outputs 1 .. `length` of chosen sequences, (B, length); the indices are int64 (B,)."""
        which = (a_index * len(self.c) + c_index) * self.starts + start
        x0 = start_states(self._key, which, self.generator.m).astype(self.generator.dtype)
        x0, a, c = (self._placed(values) for values in (x0, self.a[a_index], self.c[c_index]))
        return self.generator.sequences(x0, a, c, length)

    def _placed(self, values: np.ndarray) -> Array:
        if self._device is None or values.dtype == object:
            return values
        return torch.from_numpy(values).to(self._device, non_blocking=True)


def start_states(key: np.uint64, which: np.ndarray, m: int) -> np.ndarray:
    """A start value in [0, m) for each number in `which` (B,): int64 or Python integers, uniform up to 2^-64."""
    if m & (m - 1) == 0 and m <= 2**63:
        return (rng.splitmix(key, which) & np.uint64(m - 1)).astype(np.int64)
    words = (m - 1).bit_length() // 64 + 2  # 64 bits more than the modulus has
    total = np.zeros(len(which), dtype=object)
    for word in range(words):
        total = total * 2**64 + rng.splitmix(key, which * words + word).astype(object)
    return total % m


class Mixture(Source):
    """Sequences of several moduli: each drawn by the modulus' weight, then type and control bits, then its pair.

    Example i belongs to update i // examples_per_update of its phase, and `weights` maps that update to the shares of
    the moduli, (M,), summing to 1. So an example follows from its number, whoever asks for it and when.
    """

    def __init__(
        self,
        grids: Sequence[Sequence[Grid]],
        weights: Callable[[int], np.ndarray],
        examples_per_update: int,
        form: Format,
        *,
        seed: int,
        phase: int,
    ):
        """`grids` holds, for each modulus, a grid for each type and control bits; all have equal numbers of pairs."""
        self.grids, self.weights, self.form = grids, weights, form
        self.examples_per_update, self.seed, self.phase = examples_per_update, seed, phase

    def batch(self, split: str, start: int, stop: int) -> Batch:
        chosen = self.draw(split, start, stop)
        parts, order = [], []
        for modulus, grids in enumerate(self.grids):
            for kind, grid in enumerate(grids):
                rows = np.flatnonzero((chosen["modulus"] == modulus) & (chosen["kind"] == kind))
                if len(rows):
                    a, c, which = (chosen[name][rows] for name in ("a", "c", "start"))
                    parts.append(self.form.batch(grid.numbers(a, c, which, self.form.seq_len)))
                    order.append(rows)
        if len(parts) == 1:
            return parts[0]
        device = next((part.input_ids.device for part in parts if part.input_ids.is_cuda), torch.device("cpu"))
        back = torch.from_numpy(np.argsort(np.concatenate(order))).to(device)
        return concatenate([Batch(*(x.to(device) for x in part)) for part in parts]).rows(back)

    def draw(self, split: str, start: int, stop: int) -> dict[str, np.ndarray]:
        """What each example is: its `modulus`, `kind`, `a`, `c` and `start` as indices, int64 (stop - start,)."""
        blocks = [self._block(split, number) for number in range(start // BLOCK, (stop - 1) // BLOCK + 1)]
        first = start // BLOCK * BLOCK
        share, columns = (np.concatenate(parts)[start - first : stop - first] for parts in zip(*blocks, strict=True))
        update = np.arange(start, stop) // self.examples_per_update
        modulus = np.empty(stop - start, dtype=np.int64)
        for u in np.unique(update):
            rows = update == u
            bounds = np.cumsum(self.weights(int(u)))[:-1]
            modulus[rows] = np.searchsorted(bounds, share[rows], side="right")
        return {"modulus": modulus, **dict(zip(("kind", "a", "c", "start"), columns.T, strict=True))}

    def _block(self, split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A uniform number for the modulus, float64 (256,), and the other choices, int64 (256, 4)."""
        draw = rng.generator(f"prng phase {self.phase}", self.seed, split, number)
        grid = self.grids[0][0]
        bounds = [len(self.grids[0]), len(grid.a), len(grid.c), grid.starts]
        return draw.random(BLOCK), np.stack([draw.integers(bound, size=BLOCK) for bound in bounds], axis=1)
