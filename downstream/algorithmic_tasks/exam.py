"""What a model is measured by: three metrics on the same distinct questions, each beside what blind guesses reach."""

from collections import Counter

import numpy as np
import torch

from core.batch import IGNORE, Batch
from core.distributed import World
from core.evaluate import Asking, Evaluation, answered
from core.model import LanguageModel
from core.source import TaskSource
from downstream.algorithmic_tasks.tasks._question import Question

GUESSES_FROM = 8192  # training examples that the best constant guesses are taken from


class QuestionSource(TaskSource):
    """Questions with their answers scored, or as documented."""

    def __init__(self, task: Question, seed: int, mask: str):
        super().__init__(task, seed)
        self._question, self._mask = task, mask

    def batch(self, split: str, start: int, stop: int) -> Batch:
        batch = super().batch(split, start, stop)
        return self._question.documented(batch) if self._mask == "documented" else batch


class Exam:
    """The distinct ones among the first `examples` of a split.

    Calling it gives `loss`, `accuracy` and `exact_match` over all tokens of the answers, as `core.evaluate` says;
    `documented_accuracy`, over the positions that the earlier system scored; for each accuracy and for `exact_match` a
    `_floor`, the score of the best constant guess: at each place of the answer, or for the whole answer, what is most
    frequent in training; and the floors that the task itself knows of. `questions` is how many were asked.
    """

    def __init__(self, task: Question, seed: int, split: str, examples: int, batch_size: int, world: World):
        source = TaskSource(task, seed)
        batch = distinct(source.batch(split, 0, examples))
        seen = source.batch("train", 0, GUESSES_FROM)
        documented = task.documented(batch)
        token, whole = constant_guess(seen, batch)
        earlier, _ = constant_guess(task.documented(seen), documented)
        self.floors = {"accuracy_floor": token, "exact_match_floor": whole, "documented_accuracy_floor": earlier}
        self.floors |= task.floors(batch)
        self.size = len(batch.input_ids)
        self._answers = Evaluation.of_batch(batch, batch_size, world)
        is_other = not torch.equal(batch.targets, documented.targets)
        self._documented = Evaluation.of_batch(documented, batch_size, world) if is_other else None

    def __call__(self, model: LanguageModel) -> dict[str, float]:
        return answered(self.asking(), model)

    def asking(self) -> Asking[dict[str, float]]:
        """The same, one measurement at a time."""
        metrics = yield self._answers
        earlier = (yield self._documented) if self._documented else metrics
        return {"questions": self.size, **metrics, "documented_accuracy": earlier["accuracy"], **self.floors}


def distinct(batch: Batch) -> Batch:
    """The first of each group of equal examples, in order."""
    _, first = np.unique(batch.input_ids.numpy(), axis=0, return_index=True)
    return batch.rows(torch.from_numpy(np.sort(first)))


def constant_guess(seen: Batch, asked: Batch) -> tuple[float, float]:
    """Share of the tokens of `asked`, and of its whole answers, that equal the most frequent ones of `seen`."""
    known, wanted = answers(seen), answers(asked)
    modes = [Counter(column[column != IGNORE].tolist()).most_common(1) for column in known.T]
    right = sum(int((column == mode[0][0]).sum()) for column, mode in zip(wanted.T, modes, strict=False) if mode)
    tokens = int((wanted != IGNORE).sum())
    (likeliest, _), *_ = Counter(map(bytes, known)).most_common(1)
    return right / tokens, sum(bytes(row) == likeliest for row in wanted) / len(wanted)


def answers(batch: Batch) -> np.ndarray:
    """The scored tokens of each example, moved to the left, int64 (B, T); IGNORE fills up."""
    targets = batch.targets.numpy()
    order = np.argsort(targets == IGNORE, axis=1, kind="stable")
    return np.take_along_axis(targets, order, axis=1)
