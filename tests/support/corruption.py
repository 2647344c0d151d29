"""Single-token corruptions of rows, for validators that are compared with another reading of the same rows."""

from collections.abc import Callable, Iterator

import numpy as np

from synthetic_tasks._example_task import ExampleTask


def corrupted(task: ExampleTask, count: int, seed: int = 0) -> Iterator[list[int]]:
    """`count` rows with one token replaced: by one of the same row, a neighbouring id, or any id, a third each."""
    rng = np.random.default_rng(seed)
    rows = [row["input_ids"] for row in task.take(seed, 200)]
    for number in range(count):
        row = list(rows[number % len(rows)])
        place = int(rng.integers(len(row)))
        choices = [rng.choice(row), row[place] + rng.choice([-1, 1]), rng.integers(task.num_tokens)]
        token = int(choices[number % 3])
        if token == row[place]:
            token = (token + 1) % task.num_tokens
        row[place] = token
        yield row


def agreement(task: ExampleTask, is_valid: Callable[[list[int]], bool], count: int = 10_000) -> int:
    """Asserts that the validator and `is_valid` judge every corrupted row alike; returns how many are still valid."""
    still_valid = 0
    for row in corrupted(task, count):
        verdict = is_valid(row)
        assert task.validate_example({"input_ids": row}) == verdict, row
        still_valid += verdict
    return still_valid
