"""Loss, token accuracy and exact match on a fixed set of examples, and the best that any model could reach on them."""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from core.batch import IGNORE, Batch, SupervisedBatch
from core.distributed import World
from core.loss import in_parts
from core.model import LanguageModel, evaluating
from core.source import TaskSource
from core.stacked import side_by_side
from core.task import Task

T = TypeVar("T")

# What was measured (split, length, ...), and the metrics
Slices = Sequence[tuple[dict[str, int | str], dict[str, float]]]

Measure = Callable[[LanguageModel], Any]
Asking = Generator[Measure, Any, T]  # yields what is to be measured, is sent what came of it, returns what it comes to


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
        self.batches = [batch.supervised() for batch in batches]
        self.world, self._best = world, best or {}

    @classmethod
    def of_batch(cls, batch: Batch, batch_size: int, world: World, best: dict[str, float] | None = None) -> Self:
        """All examples of `batch`, of which each rank takes its share."""
        starts = range(world.rank * batch_size, len(batch.input_ids), world.size * batch_size)
        return cls([batch.rows(slice(start, start + batch_size)) for start in starts], world, best)

    def __call__(self, model: LanguageModel) -> dict[str, float]:
        (metrics,) = measure_abreast(model, [self])
        return metrics

    def means(self, totals: Tensor) -> dict[str, float]:
        """Of this rank's sums, as `_score` has them."""
        loss, tokens, right, exact, examples = self.world.sum(totals.tolist())
        return {"loss": loss / tokens, "accuracy": right / tokens, "exact_match": exact / examples, **self._best}


@torch.no_grad()
def measure_abreast(model: LanguageModel, evaluations: Sequence[Evaluation]) -> list[dict[str, float]]:
    """What each evaluation gives for its own of the models that stand side by side in `model`."""
    totals = torch.zeros(len(evaluations), 5, dtype=torch.float64)
    with evaluating(model):
        for same in zip(*(evaluation.batches for evaluation in evaluations), strict=True):
            batch = same[0] if len(same) == 1 else side_by_side(same)
            totals += _score(model, batch.to(evaluations[0].world.device)).cpu()
    return [evaluation.means(row) for evaluation, row in zip(evaluations, totals, strict=True)]


def matching(measures: Iterable[Measure]) -> list[Evaluation] | None:
    """The same where `measure_abreast` takes them: evaluations with equally many rows, each alone in its context."""
    evaluations: list[Evaluation] = []
    for measure in measures:
        if not isinstance(measure, Evaluation) or any(batch.rows for batch in measure.batches):
            return None
        evaluations.append(measure)
    sizes = [[len(batch.input_ids) for batch in evaluation.batches] for evaluation in evaluations]
    return evaluations if all(own == sizes[0] for own in sizes) else None


def _score(model: LanguageModel, batch: SupervisedBatch) -> Tensor:
    """Of each of N models float64 (N, 5): loss sum, scored tokens, right ones, examples without a mistake, examples."""
    losses, right = score_tokens(model, batch)
    B, T = batch.input_ids.shape
    is_scored = batch.labels != IGNORE
    mistakes = torch.zeros(B, device=losses.device).index_add_(0, batch.positions // T, (is_scored & ~right).float())
    each = [losses, is_scored, right, mistakes == 0, torch.ones(B, device=losses.device)]
    return torch.stack([x.view(model.number, -1).sum(dim=1, dtype=torch.float64) for x in each], dim=1)


@torch.no_grad()
def score_each(model: LanguageModel, batch: SupervisedBatch) -> Tensor:
    """The same of each example by itself, float64 (B, 5)."""
    losses, right = score_tokens(model, batch)
    B, T = batch.input_ids.shape
    scores = torch.zeros(B, 5, dtype=torch.float64, device=losses.device)
    of_token = torch.stack([losses, torch.ones_like(losses), right.double()], dim=1)
    scores[:, :3].index_add_(0, batch.positions // T, of_token)
    scores[:, 3], scores[:, 4] = scores[:, 1] == scores[:, 2], 1
    return scores


def score_tokens(model: LanguageModel, batch: SupervisedBatch) -> tuple[Tensor, Tensor]:
    """Of each label its loss in nats, float64 (M,), and whether the likeliest token is right, bool (M,).

    One that only fills up has no loss and is never right.
    """
    hidden = model.hidden(batch.input_ids, batch.positions, batch.rows, batch.first)
    x, labels = (each.unflatten(0, (model.number, -1)) for each in (hidden, batch.labels))
    # Made first: a small result that stayed behind in the place of each part's logits would leave the next part's none.
    losses, hits = torch.empty_like(labels, dtype=torch.float64), torch.empty_like(labels, dtype=torch.bool)
    done = 0
    for rows, own in in_parts(x, labels):
        part = slice(done, done + own.shape[1])
        logits = model.head(rows).float()  # (models, positions of each, V)
        losses[:, part] = F.cross_entropy(logits.flatten(0, 1), own.flatten(), reduction="none").view_as(own)
        hits[:, part] = logits.argmax(dim=-1) == own
        done = part.stop
    return losses.flatten(), hits.flatten()


def answered(asking: Asking[T] | T, model: LanguageModel) -> T:
    """Measures on a model what is asked for. Returns what that comes to; or what is given, if it is that already."""
    (result,) = answered_by([asking], lambda asked: {number: measure(model) for number, measure in asked.items()})
    return result


def answered_by(askings: Sequence[Asking[T] | T], answer: Callable[[dict[int, Measure]], dict[int, Any]]) -> list[T]:
    """Lets several go on side by side; `answer` is given what each asks for next, under its number, until all ended."""
    going = [_asking(each) for each in askings]
    results: dict[int, T] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(going)))
    while answers:
        asked = {}
        for number, given in answers.items():
            try:
                asked[number] = going[number].send(given)
            except StopIteration as end:
                results[number] = end.value
        answers = answer(asked) if asked else {}
    return [results[number] for number in range(len(going))]


def _asking(given: Asking[T] | T) -> Asking[T]:
    return (yield from given) if isinstance(given, Generator) else given


def by_group(task: Task, seed: int, split: str, examples: int, batch_size: int, world: World) -> dict[str, Evaluation]:
    """Of examples 0 .. examples - 1 of a split: all of them under "", and each of the task's groups under its name.

    Says which group has none among them.
    """
    batch = TaskSource(task, seed).batch(split, 0, examples)
    groups = task.groups(batch)
    if absent := [name for name, index in groups.items() if not len(index)]:
        names = ", ".join(absent)
        world.say(f"{split} of seed {seed}: none of the {examples} examples is of {names}, which is not measured")
    rows = {"": batch, **{name: batch.rows(index) for name, index in groups.items() if len(index)}}
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
