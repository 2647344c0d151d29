"""What a mathematics model is measured by: fixed problems, whole answers, interpolation and extrapolation apart."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch

from core.distributed import World
from core.evaluate import Slices, score_each
from core.model import LanguageModel, evaluating
from downstream.semantic.problem_file import TESTS, Group, Problems
from downstream.semantic.problem_rows import row_lengths, written

Where = dict[str, int | str]


def choose(problems: Problems, group: Group, validation: int, test: int) -> tuple[np.ndarray, np.ndarray]:
    """Problems of a module to validate on and, others, to test on; both at most half of those it has.

    Every question once, in the order of the hashes of the questions, so that neither a seed nor the order of a file
    decides on them.
    """
    hashes = problems.hashes(group)
    _, distinct = np.unique(hashes, return_index=True)
    half = -(-len(distinct) // 2)
    return group.first + distinct[half : half + validation], group.first + distinct[: min(test, half)]


class ProblemExam:
    """Problems that are asked one at a time.

    Calling it gives, over all problems of a regime and then, `by_module`, of each of its modules: `loss` in nats per
    token of the answers, its `perplexity`, `accuracy` (of tokens) and `exact_match`, the share of answers of which
    every token is right, the end included if there is one. The answer's earlier tokens are given, which equals greedy
    decoding (see `core.evaluate`).
    """

    def __init__(
        self,
        problems: Problems,
        chosen: Sequence[tuple[Group, np.ndarray]],
        end_token: bool,
        batch_size: int,
        world: World,
        by_module: bool = False,
    ):
        self.groups = [group for group, numbers in chosen if len(numbers)]
        self.world, self.by_module = world, by_module
        numbers = np.concatenate([numbers for _, numbers in chosen])
        of = np.repeat(np.arange(len(self.groups)), [len(numbers) for _, numbers in chosen if len(numbers)])
        self.size = len(numbers)
        lengths = row_lengths(problems, numbers, end_token)
        order = np.argsort(lengths, kind="stable")  # of a batch, none is padded much
        self._batches, digest = [], hashlib.sha256()
        for number, start in enumerate(range(0, len(order), batch_size)):
            rows = order[start : start + batch_size]
            width = int(lengths[rows].max())
            batch, _ = written(problems, numbers[rows], np.arange(len(rows)), width, end_token)
            digest.update(batch.input_ids.numpy().tobytes())
            if number % world.size == world.rank:
                self._batches.append((batch.supervised(), torch.from_numpy(of[rows])))
        self.digest = digest.hexdigest()[:16]

    def __call__(self, model: LanguageModel, where: Where) -> Slices:
        totals = torch.zeros(len(self.groups), 5, dtype=torch.float64)
        with evaluating(model):
            for batch, of in self._batches:
                totals.index_add_(0, of, score_each(model, batch.to(self.world.device)).cpu())
        rows = np.array(self.world.sum(totals.flatten().tolist())).reshape(-1, 5)
        slices = []
        for regime in TESTS:
            mine = [number for number, group in enumerate(self.groups) if group.regime == regime]
            if mine:
                slices.append((where | {"regime": regime}, metrics(rows[mine].sum(axis=0))))
        if self.by_module:
            for group, row in zip(self.groups, rows, strict=True):
                slices.append(
                    (where | {"slice": "module", "regime": group.regime, "module": group.module}, metrics(row))
                )
        return slices


def metrics(row: np.ndarray) -> dict[str, float]:
    """Of a row of sums, as `core.evaluate.score_each` has them for one example."""
    loss, tokens, right, exact, problems = row.tolist()
    return {
        "problems": int(problems),
        "loss": loss / tokens,
        "perplexity": perplexity(loss / tokens),
        "accuracy": right / tokens,
        "exact_match": exact / problems,
    }


def perplexity(loss: float) -> float:
    """Of a loss in nats; a hopeless one is still a number."""
    return math.exp(min(loss, 700.0))
