"""How well a model predicts: on seen and unseen multipliers and increments, by position, by pair.

N numbers a sequence, d tokens a number. A number is right when all its d tokens are, given all before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core import rng
from core.distributed import World
from core.evaluate import Slices, score_tokens
from core.model import LanguageModel, evaluating
from prng.generators import Generator
from prng.parameters import Parameters, storable, write_arrays
from prng.source import Format, Grid

CELLS = {  # name -> from which values of `Parameters` its a and its c are
    "unseen a, unseen c": ("test_a", "test_c"),
    "seen a, unseen c": ("train_a", "test_c"),
    "unseen a, seen c": ("test_a", "train_c"),
    "seen a, seen c": ("train_a", "train_c"),
}


@dataclass(frozen=True)
class Cell:
    """Sequences of one generator from known kinds of parameters; their start values are new in every cell."""

    name: str
    generator: Generator
    modulus: int  # index
    grid: Grid

    @property
    def where(self) -> dict[str, int | str]:
        g = self.generator
        shape: dict[str, int | str] = {"type": g.kind, "m": g.m, "control_bits": g.control_bits, "bits_to_keep": g.k}
        return {"split": "test", "cell": self.name, "generator": g.name, **shape}


@dataclass(frozen=True)
class Scores:
    loss: float  # nats per token
    accuracy: float  # share of the predicted tokens that are right
    by_number: np.ndarray  # float64 (N - 1,): accuracy of number j + 2, which follows j + 1 known ones
    by_pair: np.ndarray  # float64 (values of a, values of c): accuracy over all numbers; nan where not measured

    @property
    def metrics(self) -> dict[str, float]:
        """The scores as single values; accuracy at numbers 2, 4, 8, ... as bit j of a state has period 2^(j + 1)."""
        places = [2**i for i in range(1, 64) if 2**i <= len(self.by_number) + 1]
        values = {"loss": self.loss, "accuracy": self.accuracy, "last_accuracy": float(self.by_number[-1])}
        return values | {f"accuracy_at_{n}": float(self.by_number[n - 2]) for n in places}


def cells(
    generators: Sequence[Sequence[Generator]],
    chosen: Sequence[Parameters],
    seed: int,
    device: torch.device | None = None,
) -> list[Cell]:
    """Four for each generator. Seen values are the first of those trained on, at most as many as there are unseen."""
    made = []
    for modulus, (row, p) in enumerate(zip(generators, chosen, strict=True)):
        for generator in row:
            for name, (a_key, c_key) in CELLS.items():
                a, c = getattr(p, a_key)[: len(p.test_a)], getattr(p, c_key)[: len(p.test_c)]
                grid = Grid(generator, a, c, seed=seed, use=name, device=device)
                made.append(Cell(name, generator, modulus, grid))
    return made


@torch.no_grad()
def measure(
    model: LanguageModel, grid: Grid, form: Format, examples: int | None, batch_size: int, world: World
) -> Scores:
    """Scores on all pairs of the grid, or on `examples` of them. Every rank measures its share and gets the whole."""
    order = rng.generator(grid.generator.name, 0, "which pairs", grid.pairs).permutation(grid.pairs)[:examples]
    order = np.sort(order)
    d, numbers = form.digits, form.seq_len - 1
    by_number = torch.zeros(numbers, dtype=torch.float64, device=world.device)
    by_pair = torch.zeros(grid.pairs, dtype=torch.float64)
    totals = torch.zeros(2, dtype=torch.float64, device=world.device)  # loss, right tokens
    with evaluating(model):
        for start in range(world.rank * batch_size, len(order), world.size * batch_size):
            which = order[start : start + batch_size]
            a, c = np.divmod(which, len(grid.c))
            batch = form.batch(grid.numbers(a, c, np.zeros_like(which), form.seq_len))
            losses, hits = score_tokens(model, batch.supervised().to(world.device))
            right = hits.view(batch.targets.shape)  # every position is scored
            totals += torch.stack([losses.sum(), right.sum().double()])
            right_numbers = right[:, d - 1 :].unflatten(1, (numbers, d)).all(dim=2).double()
            by_number += right_numbers.sum(dim=0)
            by_pair[torch.from_numpy(which)] = right_numbers.mean(dim=1).cpu()
    sums = np.array(world.sum([*totals.tolist(), *by_number.tolist(), *by_pair.tolist()]))
    tokens = len(order) * (form.seq_len * d - 1)
    pairs = np.full(grid.pairs, np.nan)
    pairs[order] = sums[2 + numbers :][order]
    shape = (len(grid.a), len(grid.c))
    return Scores(sums[0] / tokens, sums[1] / tokens, sums[2 : 2 + numbers] / len(order), pairs.reshape(shape))


class Table:
    """Measures every cell: both unseen, then the others.

    Of several generators, the first row is a mean of both unseen, by the shares that training ends with.
    """

    def __init__(
        self,
        measured: Sequence[Cell],
        form: Format,
        shares: np.ndarray,
        examples: int | None,
        batch_size: int,
        world: World,
        keep: Path | None = None,
    ):
        """`shares` of the moduli, summing to 1; `keep` is the .npz file that the scores in full go to."""
        self.cells, self.form, self.shares = measured, form, shares
        self.examples, self.batch_size, self.world, self.keep = examples, batch_size, world, keep
        self.scores: list[Scores] = []

    def __call__(self, model: LanguageModel, step: int = 0) -> Slices:
        self.scores = [
            measure(model, cell.grid, self.form, self.examples, self.batch_size, self.world) for cell in self.cells
        ]
        if self.keep is not None and self.world.is_main:
            save_correctness(self.keep, self.cells, self.scores)
        rows = [(cell.where, scores.metrics) for cell, scores in zip(self.cells, self.scores, strict=True)]
        return rows if len(rows) == len(CELLS) else [self._mean(rows), *rows]

    def _mean(self, rows: Slices) -> tuple[dict[str, int | str], dict[str, float]]:
        unseen = [i for i, cell in enumerate(self.cells) if cell.name == next(iter(CELLS))]
        kinds = len(unseen) // len(self.shares)
        weights = [float(self.shares[self.cells[i].modulus]) / kinds for i in unseen]
        names = rows[0][1]
        mean = {n: sum(w * rows[i][1][n] for w, i in zip(weights, unseen, strict=True)) for n in names}
        return {"split": "test", "cell": next(iter(CELLS)), "generator": "as trained at the end"}, mean


def save_correctness(path: Path, measured: Sequence[Cell], scores: Sequence[Scores]) -> None:
    """Writes an .npz file: names `generator` and `cell` (R,) of the R rows, `by_number` (R, N - 1), and for each row r
    the values `a_r` (A,) and `c_r` (C,) with `by_pair_r` (A, C), in the meaning of `Scores`."""
    arrays = {
        "generator": np.array([cell.generator.name for cell in measured]),
        "cell": np.array([cell.name for cell in measured]),
        "by_number": np.stack([s.by_number for s in scores]),
    }
    for r, (cell, score) in enumerate(zip(measured, scores, strict=True)):
        arrays |= {f"a_{r}": storable(cell.grid.a), f"c_{r}": storable(cell.grid.c), f"by_pair_{r}": score.by_pair}
    write_arrays(path, arrays)
