"""The stream of training problems, and the rows that they are packed into."""

import threading
from functools import lru_cache
from math import gcd

import numpy as np
import torch

from core import rng
from core.batch import IGNORE, Batch, SupervisedBatch
from core.packing import rows_of
from core.source import Source
from downstream.semantic.problem_file import BOS, DIFFICULTIES, END, PAD, SEP, Group, Problems

STEPS_KEPT = 4096  # of passes over modules; the published data have 168 modules
CHUNK = 65_536  # problems whose rows are laid out at a time


class Stream:
    """Which problem comes i-th, a pure function of (seed, i).

    Difficulties come in rounds, each once in a random order; so do the modules of a difficulty, and the problems of a
    module. Hence every difficulty is equally likely, every module within it, and no problem comes twice before all of
    its module have come.
    """

    def __init__(self, problems: Problems, seed: int):
        of_each = [problems.of(difficulty) for difficulty in DIFFICULTIES]
        self.modules: list[list[Group]] = [groups for groups in of_each if groups]
        self.step_of = lru_cache(STEPS_KEPT)(self._step)
        self._key = rng.generator("mathematics", seed, "train", 0).integers(2**64, size=1, dtype=np.uint64)

    def numbers(self, i: np.ndarray) -> np.ndarray:
        """The problems at places i of the stream, int64."""
        D = len(self.modules)
        difficulty = self._dealt(0, i // D, i % D, D)
        numbers = np.empty_like(i)
        for d, groups in enumerate(self.modules):
            rows = np.flatnonzero(difficulty == d)
            draw, M = i[rows] // D, len(groups)  # the how many-th of its difficulty, counted from 0
            module = self._dealt(d + 1, draw // M, draw % M, M)
            numbers[rows] = self._drawn(groups, module, draw // M)
        return numbers

    def _dealt(self, deck: int, rounds: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
        """What stands at a place of a round, each of which holds 0 .. size - 1 in an order of its own."""
        distinct, which = np.unique(rounds, return_inverse=True)
        cards = self._hash(deck, distinct[:, None] * size + np.arange(size))
        return np.argsort(cards, axis=1)[which, place]

    def _drawn(self, groups: list[Group], module: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """The problem of a module that is drawn n-th: n times a step plus an offset, modulo the number of problems."""
        first, size = (np.array([getattr(group, name) for group in groups])[module] for name in ("first", "size"))
        turn = draw // size
        distinct, which = np.unique(turn * len(groups) + module, return_inverse=True)
        steps = [self.step_of(groups[code % len(groups)], code // len(groups)) for code in distinct.tolist()]
        factor, offset = np.array(steps, dtype=np.int64).reshape(-1, 2)[which].T
        return first + (draw % size * factor + offset) % size

    def _step(self, group: Group, turn: int) -> tuple[int, int]:
        """Of one pass over a module; the step shares no factor with the number of problems, so that all come."""
        words = self._hash(len(DIFFICULTIES) + 1 + turn, np.array([2 * group.first, 2 * group.first + 1]))
        factor = int(words[0]) % group.size or 1
        while gcd(factor, group.size) > 1:
            factor = factor % group.size + 1
        return factor, int(words[1]) % group.size

    def _hash(self, deck: int, counter: np.ndarray) -> np.ndarray:
        key = rng.mix(self._key + np.array([deck], dtype=np.uint64) * rng.GOLDEN)
        return rng.splitmix(key, counter)

    def passes(self, problems: float) -> float:
        """How often the module that is gone through most will have been, after so many problems."""
        each = [problems / len(self.modules) / len(groups) / min(g.size for g in groups) for groups in self.modules]
        return max(each)


class ProblemRows(Source):
    """Rows of whole problems, in the order of the stream: as many as fit into `seq_length` tokens, then pads."""

    def __init__(self, problems: Problems, seed: int, seq_length: int, end_token: bool, isolated: bool = False):
        """`isolated`: each problem sees itself alone; else also those before it in its row."""
        self.problems, self.seq_length, self.end_token, self.isolated = problems, seq_length, end_token, isolated
        self.stream = Stream(problems, seed)
        self._bounds = np.zeros(1, dtype=np.int64)  # where in the stream each row begins, as far as is known
        self._lock = threading.Lock()

    def bounds(self, start: int, stop: int) -> np.ndarray:
        """Where in the stream rows start .. stop begin, int64 (stop - start + 1,)."""
        with self._lock:
            while len(self._bounds) <= stop:
                self._lay_out()
            return self._bounds[start : stop + 1]

    def _lay_out(self) -> None:
        first = int(self._bounds[-1])
        lengths = row_lengths(self.problems, self.stream.numbers(np.arange(first, first + CHUNK)), self.end_token)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        follows = (np.searchsorted(ends, ends + self.seq_length, side="right") - 1).tolist()
        found, place = [], follows[0]
        while place < CHUNK:  # a row that reaches the end might go on in the next chunk
            found.append(first + place)
            place = follows[place]
        self._bounds = np.concatenate([self._bounds, np.array(found, dtype=np.int64)])

    def batch(self, split: str, start: int, stop: int) -> Batch | SupervisedBatch:
        assert split == "train"
        bounds = self.bounds(start, stop)
        row = np.repeat(np.arange(stop - start), np.diff(bounds))  # of each problem
        numbers = self.stream.numbers(np.arange(bounds[0], bounds[-1]))
        batch, starts = written(self.problems, numbers, row, self.seq_length, self.end_token)
        if not self.isolated:
            return batch
        return SupervisedBatch.of(batch)._replace(rows=rows_of(starts, (batch.input_ids != PAD).flatten().numpy()))


def row_lengths(problems: Problems, numbers: np.ndarray, end_token: bool) -> np.ndarray:
    """Tokens of each problem: BOS, question, SEP, answer, and the end token if there is one."""
    return problems.lengths(numbers) + 2 + end_token


def written(
    problems: Problems, numbers: np.ndarray, row: np.ndarray, width: int, end_token: bool
) -> tuple[Batch, np.ndarray]:
    """Problems one after the other in the rows that `row`, ascending, says; the answers, with their end, are scored.

    Beside them, int64 (B, width), the column where the problem of each token begins; a pad is one by itself.
    """
    lengths = row_lengths(problems, numbers, end_token)
    before = np.cumsum(lengths) - lengths
    is_first = np.diff(row, prepend=-1) > 0
    begins = before - before[is_first][np.cumsum(is_first) - 1]  # in its row

    of = np.repeat(np.arange(len(numbers)), lengths)  # the problem of each token, by its place in `numbers`
    column = np.arange(len(of)) - before[of]  # counted from its problem's BOS
    separator = problems.question[numbers].astype(np.int64)[of] + 1
    character = problems.starts[numbers][of] + column - 1 - (column > separator)
    tokens = problems.characters[np.minimum(character, len(problems.characters) - 1)].astype(np.int64)
    tokens[column == 0] = BOS
    tokens[column == separator] = SEP
    if end_token:
        tokens[column == lengths[of] - 1] = END

    input_ids = np.full((int(row[-1]) + 1, width), PAD)
    targets = np.full_like(input_ids, IGNORE)
    starts = np.tile(np.arange(width), (len(input_ids), 1))
    at = row[of], begins[of] + column
    input_ids[at], starts[at] = tokens, begins[of]
    is_asked = (column >= separator) & (column < lengths[of] - 1)
    targets[at[0][is_asked], at[1][is_asked]] = tokens[1:][is_asked[:-1]]
    return Batch(torch.from_numpy(input_ids), torch.from_numpy(targets)), starts
