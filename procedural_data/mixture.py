"""Mixture: each example is one of another task, drawn by weight."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from core.batch import IGNORE, Batch
from core.config import construct
from core.task import Oracle, Task, task_class

LARGEST = 2**20  # of any size: far beyond what a model reads
PACKAGE = __name__.rpartition(".")[0]
DEFAULT: Any = [{"task": "set"}, {"task": "union"}]


class Part(BaseModel):
    """A task of the mixture, its share, and its parameters as further keys."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    task: str
    weight: float = Field(1.0, gt=0, le=1e9)

    def built(self, overriding: dict[str, Any]) -> Task:
        """Raises ValueError in words."""
        if self.task == "mixture":
            raise ValueError("a mixture cannot be part of a mixture; name its parts instead")
        return construct(task_class(PACKAGE, self.task), {**(self.model_extra or {}), **overriding})


class Mixture(Task):
    """Each example is one of several tasks, drawn by weight; shorter ones are padded to the length of the longest.

    With a `shared` vocabulary, id t means t to every task, and the first token of an example names its task. With
    `separate` ones, each task has a range of ids of its own, in the order of the parts. Pads have one id of their own,
    the last.

        Mixture(parts=[{"task": "identity", "seq_length": 1}, {"task": "reverse", "seq_length": 2, "vocab_size": 3}])
        input_ids   2:reverse 1 2 3 2 1
        targets     .         . . 2 1 .     the second part's separator is 3; . is IGNORE, and no pad is ever predicted
    """

    parts: list[Part] = Field(
        DEFAULT, min_length=1, validate_default=True, description="tasks with their weights and their own parameters"
    )
    vocabulary: Literal["shared", "separate"] = Field(
        "shared",
        description="shared: the same ids, after a token that names the task; separate: ids of its own for each",
    )
    seq_length: int | None = Field(None, ge=1, le=LARGEST, description="of every part; null: each its own")

    @model_validator(mode="after")
    def _parts_are_tasks(self) -> Self:
        _ = self.tasks
        return self

    @cached_property
    def tasks(self) -> list[Task]:
        """Raises ValueError in words, of all parts that cannot be."""
        length = {} if self.seq_length is None else {"seq_length": self.seq_length}
        built, wrong = [], []
        for number, part in enumerate(self.parts):
            try:
                built.append(part.built(length))
            except ValueError as error:
                wrong.append(f"parts[{number}]: {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return built

    @property
    def mixed(self) -> list[Task]:
        return self.tasks

    @property
    def prefixes(self) -> int:
        """Tokens before the example of a part."""
        return 1 if self.vocabulary == "shared" else 0

    @property
    def offsets(self) -> list[int]:
        """What is added to the ids of each part."""
        if self.vocabulary == "shared":
            return [0] * len(self.tasks)
        return [0, *accumulate(task.num_tokens for task in self.tasks[:-1])]

    @property
    def payload(self) -> int:
        """Ids below this one belong to the parts; those that name a part follow."""
        return max(offset + task.num_tokens for offset, task in zip(self.offsets, self.tasks, strict=True))

    @property
    def pad_token(self) -> int:
        return self.payload + self.prefixes * len(self.tasks)

    @property
    def num_tokens(self) -> int:
        return self.pad_token + 1

    @property
    def block_size(self) -> int:
        return self.prefixes + max(task.block_size for task in self.tasks)

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        weights = np.array([part.weight for part in self.parts])
        chosen = rng.choice(len(self.parts), p=weights / weights.sum(), size=size)
        input_ids = torch.full((size, self.block_size), self.pad_token)
        targets = torch.full_like(input_ids, IGNORE)
        for number, (task, offset) in enumerate(zip(self.tasks, self.offsets, strict=True)):
            rows = torch.from_numpy(np.flatnonzero(chosen == number))
            ids, scored = task.sample(rng, len(rows))
            places = slice(self.prefixes, self.prefixes + ids.shape[1])
            if self.prefixes:
                input_ids[rows, 0] = self.payload + number
            is_pad = ids == (-1 if task.pad_token is None else task.pad_token)
            input_ids[rows, places] = torch.where(is_pad, self.pad_token, ids + offset)
            targets[rows, places] = torch.where(scored == IGNORE, IGNORE, scored + offset)
        return Batch(input_ids, targets)

    def part_of(self, first_tokens: Tensor) -> Tensor:
        """Number of the part that examples with these first tokens are of; outside the parts' numbers for others."""
        if self.prefixes:
            return first_tokens - self.payload
        borders = torch.tensor([*self.offsets[1:], self.payload])
        return torch.bucketize(first_tokens.contiguous(), borders, right=True)

    def by_part(self, batch: Batch) -> Iterator[tuple[Task, Tensor, Batch]]:
        """Each task with the rows of its examples, and these as the task itself would write them."""
        part = self.part_of(batch.input_ids[:, 0])
        for number, (task, offset) in enumerate(zip(self.tasks, self.offsets, strict=True)):
            rows = (part == number).nonzero()[:, 0]
            ids, targets = (x[rows, self.prefixes : self.prefixes + task.block_size] for x in batch)
            pad = 0 if task.pad_token is None else task.pad_token
            own_ids = torch.where(ids == self.pad_token, pad, ids - offset)
            yield task, rows, Batch(own_ids, torch.where(targets == IGNORE, IGNORE, targets - offset))

    def prompt(self, batch: Batch) -> np.ndarray:
        """That of each example's own task, filled up with zeros: its split is that without mixture."""
        prompts = np.zeros(batch.input_ids.shape, dtype=np.int64)
        for task, rows, own in self.by_part(batch):
            of_task = task.prompt(own)
            prompts[rows.numpy(), : of_task.shape[1]] = of_task
        return prompts

    def groups(self, batch: Batch) -> dict[str, Tensor]:
        part = self.part_of(batch.input_ids[:, 0])
        return {self.part_name(number): (part == number).nonzero()[:, 0] for number in range(len(self.tasks))}

    def part_name(self, number: int) -> str:
        return f"{number + 1}:{self.tasks[number].name}"

    def oracle(self, batch: Batch) -> Oracle | None:
        """That of each example's own task; where the prompt determines the answer, nothing is uncertain."""
        log_prob, best_prob = torch.zeros(batch.targets.shape, dtype=torch.float64), (batch.targets != IGNORE).double()
        is_uncertain = False
        for task, rows, own in self.by_part(batch):
            oracle = task.oracle(own)
            if oracle is not None and len(rows):
                is_uncertain = True
                places = slice(self.prefixes, self.prefixes + task.block_size)
                log_prob[rows, places], best_prob[rows, places] = oracle
        return Oracle(log_prob, best_prob) if is_uncertain else None

    def check(self, input_ids: Sequence[int]) -> None:
        """Hands the sequence to the check of its part, under the part's own ids."""
        tokens = self.full_length(input_ids)
        number = int(self.part_of(torch.tensor(tokens[0])))
        if not 0 <= number < len(self.tasks):
            raise ValueError(f"the first token is {tokens[0]}, which no part begins with")
        task, offset = self.tasks[number], self.offsets[number]
        end = self.prefixes + task.block_size
        if any(token != self.pad_token for token in tokens[end:]):
            raise ValueError(f"after the {task.block_size} tokens of {self.part_name(number)} come others than pads")
        own = []
        for token in tokens[self.prefixes : end]:
            if token != self.pad_token and not 0 <= token - offset < task.num_tokens:
                raise ValueError(f"{token} is no token of {self.part_name(number)}")
            if token - offset == task.pad_token:
                raise ValueError(f"{token} stands for a pad; that of a mixture is {self.pad_token}")
            own.append(token - offset if token != self.pad_token else -1 if task.pad_token is None else task.pad_token)
        task.check(own)

    def token_name(self, token: int) -> str:
        self.check_token(token)
        if token == self.pad_token:
            return "_"
        if token >= self.payload:
            return self.part_name(token - self.payload)
        if self.prefixes:
            return str(token)
        number = max(i for i, offset in enumerate(self.offsets) if offset <= token)
        return f"{number + 1}:{self.tasks[number].token_name(token - self.offsets[number])}"
