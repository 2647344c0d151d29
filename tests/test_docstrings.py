"""The row in the docstring of a task is a test: `sample` emits it, with just these targets, and `check` accepts it."""

import ast
import re

import numpy as np
import pytest

from core.batch import IGNORE
from core.task import Task, task_class, task_names

PACKAGES = ["procedural_data", "downstream.algorithmic_tasks.tasks"]
TASKS = [task_class(package, name) for package in PACKAGES for name in task_names(package)]


def example(kind: type[Task]) -> tuple[Task, list[int], list[int]]:
    """The task, the input ids and the targets that the docstring of a task shows."""
    call, inputs, targets = re.search(r"(\w+\(.*\))\n *input_ids +(.*)\n *targets +(.*)", kind.__doc__).groups()
    keywords = ast.parse(call, mode="eval").body.keywords
    task = kind(**{word.arg: ast.literal_eval(word.value) for word in keywords})
    ids = {task.token_name(token): token for token in range(task.num_tokens)} | {".": IGNORE}
    rows = [[ids[name] for name in row.split()[: task.block_size]] for row in (inputs, targets)]
    return task, *rows


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__module__)
def test_the_row_in_the_docstring_is_one_that_sample_emits(kind):
    task, input_ids, targets = example(kind)
    task.check(input_ids)
    batch = task.sample(np.random.default_rng(0), 100_000)
    (places,) = (batch.input_ids.numpy() == input_ids).all(axis=1).nonzero()
    assert len(places) > 0
    assert (batch.targets.numpy()[places] == targets).all()
