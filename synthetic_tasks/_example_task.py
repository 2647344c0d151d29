"""What the synthetic tasks share: rows as dictionaries, streams of them, presets by name, batches of ragged rows."""

import difflib
import itertools
import operator
import os
import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numba import njit
from torch.utils.data import IterableDataset, get_worker_info

from core.batch import IGNORE, Batch
from core.split import draw_block
from core.task import Task, task_class, task_names

PACKAGE = "synthetic_tasks"

Example = dict[str, Any]


class Spans(NamedTuple):
    """Runs of tokens in a batch that are measured on their own, such as the answer to one of several questions.

    Run i is the tokens start[i] .. stop[i] - 1 of row row[i]; the model predicts them from the position before.
    """

    row: np.ndarray  # int64 (S,)
    start: np.ndarray  # int64 (S,)
    stop: np.ndarray  # int64 (S,)
    kind: np.ndarray  # int64 (S,): what results are grouped by; each task says what it means


class ExampleTask(Task):
    """A task whose examples are also served one by one, as dictionaries of plain lists.

    A row has `input_ids`, `loss_mask` (1 where a token is to be predicted) and `labels` (the token there, IGNORE
    elsewhere). Labels stand at the token itself, not before it, as Hugging Face's models expect them. Rows differ in
    length and carry no pads; in a batch they are padded on the right.

    Parameters come as keywords or as one mapping: `DepoTask({"N": 75, "K": 16})` is `DepoTask(N=75, K=16)`.
    """

    ragged: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # settings known by name, for `preset`

    def __init__(self, config: Mapping[str, Any] | None = None, /, **parameters: Any):
        super().__init__(**{**(config or {}), **parameters})

    @abstractmethod
    def answer_mask(self, tokens: list[int]) -> list[bool]:
        """Which tokens are to be predicted, read off one row without pads and recomputed by other means than `sample`.

        Raises ValueError, saying what is wrong, unless the row is one that the task can emit.
        """

    @property
    @abstractmethod
    def pad_token(self) -> int:
        """Fills a row up on the right; stands nowhere else."""

    def check(self, input_ids: Sequence[int]) -> None:
        tokens = [operator.index(token) for token in input_ids]
        while tokens and tokens[-1] == self.pad_token:
            tokens.pop()
        self.answer_mask(tokens)

    def prompt(self, batch: Batch) -> np.ndarray:
        ids = batch.input_ids.numpy()
        return np.where(ids == self.pad_token, 0, ids)  # zeros at the end do not change the hash of a row

    def batch(self, tokens: np.ndarray, is_target: np.ndarray, lengths: np.ndarray) -> Batch:
        """From rows (B, W), of which `lengths` (B,) tokens count; `is_target` (B, W) marks those to be predicted."""
        shape = len(tokens), int(lengths.max(initial=1))
        input_ids, targets = np.full(shape, self.pad_token, dtype=np.int64), np.full(shape, IGNORE, dtype=np.int64)
        _copy(tokens, is_target, lengths, input_ids, targets)
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(targets))

    def spans(self, batch: Batch) -> Spans:
        """The runs of tokens to measure; here one per row, from the first scored token to the last, of kind 0."""
        scored = batch.targets.numpy() != IGNORE
        B, T = scored.shape
        start, stop = scored.argmax(axis=1) + 1, T - scored[:, ::-1].argmax(axis=1) + 1
        return Spans(np.arange(B), start, stop, np.zeros(B, dtype=np.int64))

    def _lengths(self, batch: Batch) -> np.ndarray:
        """Tokens in each row without its pads, int64 (B,)."""
        return (batch.input_ids.numpy() != self.pad_token).sum(axis=1)

    # --- Examples one by one

    def examples(self, batch: Batch) -> list[Example]:
        """The rows of a batch as dictionaries."""
        labels = np.full(batch.targets.shape, IGNORE)
        labels[:, 1:] = batch.targets.numpy()[:, :-1]
        columns = batch.input_ids.tolist(), (labels != IGNORE).astype(int).tolist(), labels.tolist()
        rows = zip(*columns, self._lengths(batch).tolist(), strict=True)
        return [{"input_ids": i[:n], "loss_mask": m[:n], "labels": k[:n]} for i, m, k, n in rows]

    def generate_example(self, rng: np.random.Generator | random.Random) -> Example:
        """The next example that `rng` gives; of any split."""
        if isinstance(rng, random.Random):
            rng = np.random.default_rng(rng.getrandbits(128))
        return self.examples(self.sample(rng, 1))[0]

    def validate_example(self, example: Mapping[str, Any]) -> bool:
        """Whether the row is one that the task can emit, and its loss mask and labels, where it has them, are right.

        The answer is recomputed from the tokens alone. What stands at the first token does not matter: nothing comes
        before it from which it could be predicted.
        """
        try:
            tokens = [operator.index(token) for token in example["input_ids"]]
            mask = self.answer_mask(tokens)
            expected = {
                "loss_mask": [int(scored) for scored in mask],
                "labels": [token if scored else IGNORE for token, scored in zip(tokens, mask, strict=True)],
            }
            found = {name: [operator.index(value) for value in example[name]] for name in expected if name in example}
        except (KeyError, TypeError, ValueError):
            return False
        return all(len(row) == len(tokens) and row[1:] == expected[name][1:] for name, row in found.items())

    def iter_examples(self, seed: int, num_examples: int | None = None) -> Iterator[Example]:
        """The examples that training under `seed` sees, from the first on; without end where no number is given."""
        numbers = itertools.count() if num_examples is None else range(-(-num_examples // self.examples_per_block))
        rows = itertools.chain.from_iterable(self._block(seed, number) for number in numbers)
        return itertools.islice(rows, num_examples)

    def take(self, seed: int, count: int) -> list[Example]:
        """The first `count` examples of `iter_examples(seed)`."""
        return list(self.iter_examples(seed, count))

    def iterable(self, seed: int, num_examples: int | None = None) -> "ExampleStream":
        """The examples of `iter_examples` as a torch dataset whose workers and ranks share them out."""
        return ExampleStream(self, seed, num_examples)

    def _block(self, seed: int, number: int) -> list[Example]:
        return self.examples(draw_block(self, seed, "train", number))


class ExampleStream(IterableDataset[Example]):
    """Examples shared out over the workers of a DataLoader and the ranks of a job: each comes exactly once.

    A finite stream is cut into one run of neighbours per worker and rank, equal but for one example. An endless one is
    dealt out block by block, so that nobody draws what another serves. The ranks are those of `torch.distributed`, or
    of the variables that `torchrun` sets.
    """

    def __init__(self, task: ExampleTask, seed: int, num_examples: int | None = None):
        if num_examples is not None and num_examples < 0:
            raise ValueError(f"num_examples is {num_examples}; it must be at least 0, or null for no end")
        self.task, self.seed, self.num_examples = task, seed, num_examples
        self.rank, self.world_size = _rank_and_world_size()  # a worker process may know of no process group

    def __iter__(self) -> Iterator[Example]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        rank, world_size = max(_rank_and_world_size(), (self.rank, self.world_size), key=lambda pair: pair[1])
        share, shares = rank * workers + number, world_size * workers
        if self.num_examples is None:
            for block in itertools.count(share, shares):
                yield from self.task._block(self.seed, block)
        else:
            yield from self._between(share * self.num_examples // shares, (share + 1) * self.num_examples // shares)

    def _between(self, start: int, stop: int) -> Iterator[Example]:
        n = self.task.examples_per_block
        for block in range(start // n, -(-stop // n)):
            first = block * n
            yield from self.task._block(self.seed, block)[max(start - first, 0) : stop - first]


@njit(cache=True, nogil=True)
def _copy(
    tokens: np.ndarray, is_target: np.ndarray, lengths: np.ndarray, input_ids: np.ndarray, targets: np.ndarray
) -> None:
    """Copies rows of `lengths` tokens, and each that is a target to the position before it."""
    for row in range(len(tokens)):
        for t in range(lengths[row]):
            input_ids[row, t] = tokens[row, t]
            if t > 0 and is_target[row, t]:
                targets[row, t - 1] = tokens[row, t]


def _rank_and_world_size() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def preset(name: str) -> ExampleTask:
    """The task that any file of this package knows under `name`, such as `depo1_225` or `mano_13`."""
    known: dict[str, type[ExampleTask]] = {}
    for task in task_names(PACKAGE):
        kind = task_class(PACKAGE, task)
        assert issubclass(kind, ExampleTask)
        known |= dict.fromkeys(kind.presets, kind)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no preset {name!r}; there are {', '.join(known)}.{hint}")
    return known[name](known[name].presets[name])
