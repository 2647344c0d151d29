"""Loss, token accuracy and exact match on a fixed set of examples, and the best that any model could reach on them."""

import math
from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from core.batch import IGNORE, Batch, SupervisedBatch
from core.distributed import World
from core.loss import in_parts
from core.model import LanguageModel
from core.source import TaskSource
from core.task import Task


class Evaluation:
    """A fixed set of examples that models are measured on.

    Calling it gives means over the whole set, whatever the batch size and the number of ranks:

    `loss`: cross-entropy in nats per scored token. `accuracy`: share of scored tokens whose likeliest id is right.
    `exact_match`: share of examples with every scored token right. The answer's earlier tokens are given (teacher
    forcing), and still this equals greedy decoding: up to its first mistake a model decodes the very tokens given, and
    after one mistake neither way counts the example.

    For a task with an oracle also `oracle_loss` and `oracle_accuracy`, the Bayes-optimal values on the same examples,
    and `oracle_error`, the standard error of `oracle_loss` as an estimate of its expectation over all sequences.
    """

    def __init__(self, batches: Iterable[Batch | SupervisedBatch], world: World, best: dict[str, float] | None = None):
        """`batches` are this rank's share; `best` is added to every result."""
        self._batches = [batch.supervised() for batch in batches]
        self._world, self._best = world, best or {}

    @classmethod
    def of_batch(cls, batch: Batch, batch_size: int, world: World, best: dict[str, float] | None = None) -> Self:
        """All examples of `batch`, of which each rank takes its share."""
        starts = range(world.rank * batch_size, len(batch.input_ids), world.size * batch_size)
        return cls([batch.rows(slice(start, start + batch_size)) for start in starts], world, best)

    @torch.no_grad()
    def __call__(self, model: LanguageModel) -> dict[str, float]:
        was_training = model.training
        model.eval()
        totals = torch.zeros(5, dtype=torch.float64)
        for batch in self._batches:
            totals += _score(model, batch.to(self._world.device)).cpu()
        model.train(was_training)
        loss, tokens, right, exact, examples = self._world.sum(totals.tolist())
        return {"loss": loss / tokens, "accuracy": right / tokens, "exact_match": exact / examples, **self._best}


def _score(model: LanguageModel, batch: SupervisedBatch) -> Tensor:
    """float64 (5,): loss sum, scored tokens, right tokens, examples without a mistake, examples."""
    losses, right = _of_tokens(model, batch)
    B, T = batch.input_ids.shape
    mistakes = torch.zeros(B, device=losses.device).index_add_(0, batch.positions // T, (~right).float())
    sizes = torch.tensor([right.numel(), B], dtype=torch.float64, device=losses.device)
    return torch.stack([losses.sum(), sizes[0], right.sum().double(), (mistakes == 0).sum().double(), sizes[1]])


@torch.no_grad()
def score_each(model: LanguageModel, batch: SupervisedBatch) -> Tensor:
    """The same of each example by itself, float64 (B, 5)."""
    losses, right = _of_tokens(model, batch)
    B, T = batch.input_ids.shape
    scores = torch.zeros(B, 5, dtype=torch.float64, device=losses.device)
    of_token = torch.stack([losses, torch.ones_like(losses), right.double()], dim=1)
    scores[:, :3].index_add_(0, batch.positions // T, of_token)
    scores[:, 3], scores[:, 4] = scores[:, 1] == scores[:, 2], 1
    return scores


def _of_tokens(model: LanguageModel, batch: SupervisedBatch) -> tuple[Tensor, Tensor]:
    """Loss in nats of each scored position, float64 (N,), and whether its likeliest token is right, bool (N,)."""
    hidden = model.hidden(batch.input_ids, batch.positions, batch.rows, batch.first)
    parts = []
    for x, labels in in_parts(hidden, batch.labels):
        logits = model.head(x).float()
        parts.append((F.cross_entropy(logits, labels, reduction="none").double(), logits.argmax(dim=-1) == labels))
    losses, hits = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(hits)


def by_group(task: Task, seed: int, split: str, examples: int, batch_size: int, world: World) -> dict[str, Evaluation]:
    """Of examples 0 .. examples - 1 of a split: all of them under "", and each of the task's groups under its name."""
    batch = TaskSource(task, seed).batch(split, 0, examples)
    rows = {"": batch, **{name: batch.rows(index) for name, index in task.groups(batch).items()}}
    return {
        name: Evaluation.of_batch(some, batch_size, world, oracle_metrics(task, some)) for name, some in rows.items()
    }


def oracle_metrics(task: Task, batch: Batch) -> dict[str, float]:
    """What the Bayes-optimal predictor reaches on a batch; empty where the prompt determines the answer."""
    oracle = task.oracle(batch)
    if oracle is None:
        return {}
    scored = batch.targets != IGNORE
    tokens = scored.sum(dim=1).double()
    losses = -(oracle.log_prob * scored).sum(dim=1)  # (B,), per example
    loss = losses.sum() / tokens.sum()
    metrics = {"oracle_loss": loss.item(), "oracle_accuracy": ((oracle.best_prob * scored).sum() / tokens.sum()).item()}
    if len(losses) > 1:
        deviations = (losses - loss * tokens) / tokens.mean()
        metrics["oracle_error"] = deviations.std().item() / math.sqrt(len(losses))
    return metrics


# What was measured (split, length, ...), and the metrics
Slices = Sequence[tuple[dict[str, int | str], dict[str, float]]]
