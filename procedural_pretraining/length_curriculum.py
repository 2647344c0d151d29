"""A length curriculum: short sequences first, longer ones once they are mastered."""

from collections.abc import Callable, Sequence
from typing import Any

from core.source import TaskSource, Verdict
from core.task import Task


class LengthCurriculum(TaskSource):
    """Examples of a task, given for each seq_length, which grows when an evaluation shows mastery of the present one.

    Mastery is an accuracy of at least `threshold` times the best possible one (1, where the prompt determines the
    answer). A length is kept for at least `min_steps` updates. At mastery of the last length, training may stop.
    """

    def __init__(
        self,
        task_at: Callable[[int | None], Task],
        seed: int,
        lengths: Sequence[int | None],  # None: the one length of a task that has none to set
        threshold: float,
        min_steps: int,
        stop_at_mastery: bool,
        say: Callable[[str], None],
    ):
        self.lengths, self.threshold, self.min_steps = lengths, threshold, min_steps
        self.stop_at_mastery, self.say = stop_at_mastery, say
        self.history = [(0, lengths[0])]  # (step, seq_length from then on)
        self._task_at = task_at
        super().__init__(task_at(lengths[0]), seed)

    @property
    def length(self) -> int | None:
        return self.history[-1][1]

    def on_evaluation(self, step: int, metrics: dict[str, float]) -> Verdict:
        since, length = self.history[-1]
        if metrics["accuracy"] < self.threshold * metrics.get("oracle_accuracy", 1.0) or step - since < self.min_steps:
            return Verdict.GO_ON
        if length == self.lengths[-1]:
            return Verdict.MASTERED if self.stop_at_mastery else Verdict.GO_ON
        longer = self.lengths[self.lengths.index(length) + 1]
        self.history.append((step, longer))
        self.task = self._task_at(longer)
        self.say(f"step {step}: seq_length {length} mastered at accuracy {metrics['accuracy']:.4f}, now {longer}")
        return Verdict.CHANGED

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = [(step, length) for step, length in state["history"]]
        self.task = self._task_at(self.length)
