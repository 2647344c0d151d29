"""What a phase trains on: anything that serves the examples [start, stop) of a split, in any order of asking."""

import threading
from collections import OrderedDict
from concurrent.futures import Future
from enum import Enum
from typing import Any, Protocol

from core.batch import Batch, SupervisedBatch, concatenate
from core.split import draw_block
from core.task import Task


class Verdict(Enum):
    """What an evaluation means for a source."""

    GO_ON = "go on"
    CHANGED = "changed"  # the batches to come are others than before
    MASTERED = "mastered"  # there is nothing left to learn here


class Source(Protocol):
    goal: str = "mastery"  # what MASTERED ends a run for

    @property
    def ragged(self) -> bool:
        """Whether batches differ in length."""
        return False

    def batch(self, split: str, start: int, stop: int) -> Batch | SupervisedBatch:
        """Examples start .. stop - 1 of a split; supervised already if rows hold documents that see only themselves.

        Called from several threads.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the batches depend on beside their numbers, for the checkpoint; JSON values. Mostly empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on as the source whose `state_dict` this is."""
        return None

    def on_evaluation(self, step: int, metrics: dict[str, float]) -> Verdict:
        """Told the validation metrics after `step` updates, may change what it serves from now on."""
        return Verdict.GO_ON


class TaskSource(Source):
    """The examples of one task under one seed. Keeps the last few blocks, so that each is drawn once."""

    CACHED_BLOCKS = 8

    def __init__(self, task: Task, seed: int):
        self.task, self.seed = task, seed
        self._blocks: OrderedDict[tuple[str, str, int], Future[Batch]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def ragged(self) -> bool:
        return self.task.ragged

    def batch(self, split: str, start: int, stop: int) -> Batch:
        task = self.task  # a curriculum may replace it meanwhile
        n = task.examples_per_block
        parts = []
        for block in range(start // n, (stop - 1) // n + 1):
            first = block * n
            parts.append(self._block(task, split, block).rows(slice(max(start - first, 0), stop - first)))
        batch = concatenate(parts, task.pad_token)
        return batch.trimmed(task.pad_token) if task.ragged else batch

    def _block(self, task: Task, split: str, block: int) -> Batch:
        """Two threads that want the same block wait for the one that came first."""
        key = (task.fingerprint, split, block)
        with self._lock:
            future = self._blocks.get(key)
            is_mine = future is None
            if future is None:
                future = self._blocks[key] = Future()
                while len(self._blocks) > self.CACHED_BLOCKS:
                    self._blocks.popitem(last=False)
        if is_mine:
            try:
                future.set_result(draw_block(task, self.seed, split, block))
            except BaseException as error:
                future.set_exception(error)
        return future.result()
