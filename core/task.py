"""The contract of a task, and how a task is found by the name of its file."""

import difflib
import hashlib
import importlib
import inspect
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from core.batch import Batch

NOT_TASKS = ("cli", "config", "run")  # names of modules that lie beside the tasks of a package


class Oracle(NamedTuple):
    """What an ideal predictor, which knows the law the sequences are drawn from, makes of a batch."""

    log_prob: Tensor  # float64 (B, T): log-probability in nats of each target given the tokens before; 0 where no loss
    best_prob: Tensor  # float64 (B, T): probability of the likeliest token there; 0 where no loss


class Task(BaseModel, ABC):
    """A family of sequences with known answers. Its parameters are its fields, each with a stated domain.

    Constructing a task outside its domain raises pydantic's ValidationError, which names every wrong parameter.
    A task holds no randomness and no state: `sample` takes a generator, so that an example depends on nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    examples_per_block: ClassVar[int] = 256  # drawn at once; a task with long sequences may state fewer
    ragged: ClassVar[bool] = False  # rows differ in length: a batch is only as long as its longest row

    @property
    @abstractmethod
    def num_tokens(self) -> int:
        """Size of the model's vocabulary: ids are 0 .. num_tokens - 1."""

    @property
    @abstractmethod
    def block_size(self) -> int:
        """Length of the longest sequence it can emit, in tokens."""

    @property
    def pad_token(self) -> int | None:
        """The id that fills a sequence up on the right; None where every sequence has full length."""
        return None

    @abstractmethod
    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`size` independent examples, vectorised; each row is as long as every other."""

    def sample_where(self, rng: np.random.Generator, size: int, choose: Callable[[np.ndarray], np.ndarray]) -> Batch:
        """Of `size` examples those that `choose` picks by their prompts: int64 (size, P) to ascending int64 (n,).

        The same as choosing among what `sample` gives, which a task may do without making the other rows to their end.
        """
        batch = self.sample(rng, size)
        return batch.rows(torch.from_numpy(choose(self.prompt(batch))))

    @abstractmethod
    def check(self, input_ids: Sequence[int]) -> None:
        """Parses one sequence and recomputes its answer the slow, obvious way, by other means than `sample`.

        Raises ValueError, saying what is wrong, unless the sequence is one that the task can emit.
        """

    @abstractmethod
    def token_name(self, token: int) -> str:
        """How a reader would write this id. Raises ValueError for one that the vocabulary does not have."""

    def check_token(self, token: int) -> None:
        """Raises ValueError for an id that the vocabulary does not have."""
        if not 0 <= token < self.num_tokens:
            raise ValueError(f"there is no token {token}; the ids are 0 .. {self.num_tokens - 1}")

    def full_length(self, input_ids: Sequence[int]) -> list[int]:
        """The sequence as Python's integers, for `check`. Raises ValueError unless it has `block_size` tokens."""
        if len(input_ids) != self.block_size:
            raise ValueError(f"the sequence has {len(input_ids)} tokens; it should have {self.block_size}")
        return [int(token) for token in input_ids]

    def prompt(self, batch: Batch) -> np.ndarray:
        """The tokens that decide which split an example belongs to, int64 (B, P).

        The whole row, which is right wherever the prompt determines the answer, or there is no prompt at all.
        """
        return batch.input_ids.numpy()

    def oracle(self, batch: Batch) -> Oracle | None:
        """The Bayes-optimal prediction of each target; None where the prompt determines it, or none is known."""
        return None

    def groups(self, batch: Batch) -> dict[str, Tensor]:
        """Kinds of examples that are worth a measurement of their own: the rows of each, int64 (n,), n 0 if absent.

        Mostly none.
        """
        return {}

    def __eq__(self, other: object) -> bool:
        """Of parameters alone: arrays that a task has computed from them have no truth value when compared."""
        return isinstance(other, Task) and type(self) is type(other) and self.model_dump() == other.model_dump()

    @property
    def mixed(self) -> Sequence["Task"]:
        """Tasks whose examples it mixes, each of which has to have prompts to train on. Mostly none."""
        return ()

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the task's name, parameters and block: two tasks that differ in any draw independent streams."""
        identity = [type(self).__module__, self.examples_per_block, self.model_dump()]
        return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()

    def replace(self, **changes: Any) -> Self:
        """The same task with some parameters changed, checked like a new one."""
        return type(self)(**{**self.model_dump(), **changes})


def task_names(package: str) -> list[str]:
    """The tasks of a package: every module but `cli`, `config`, `run` and those with a leading underscore."""
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted(m.name for m in modules if not m.name.startswith("_") and m.name not in NOT_TASKS and not m.ispkg)


def task_class(package: str, name: str) -> type[Task]:
    """The one Task that `package/name.py` defines. Only this module is imported: a broken task breaks nobody else."""
    names = task_names(package)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no task {name!r} in {package}/; it has {', '.join(names)}.{hint}")
    module = importlib.import_module(f"{package}.{name}")
    classes = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Task) and value.__module__ == module.__name__ and not inspect.isabstract(value)
    ]
    if len(classes) != 1:
        raise TypeError(f"{package}/{name}.py defines {len(classes)} Task classes; a task file defines exactly one")
    return classes[0]
