"""The rows in the docstrings of the tasks are tests: the validator accepts them, with just the targets shown."""

import re

import numpy as np
import pytest

from synthetic_tasks._example_task import ExampleTask
from synthetic_tasks.brevo import BrevoTask
from synthetic_tasks.capo import CapoTask
from synthetic_tasks.depo import DepoTask
from synthetic_tasks.mano import ManoTask

SHOWN = {
    DepoTask: {"N": 3, "K": 2, "M": 1, "mini_vocab": 2, "min_tlen": 1, "max_tlen": 2, "fixed_k": 2},
    BrevoTask: {"N": 4, "max_in": 2},
    ManoTask: {"L": 2, "value_mod": 5, "loss": "answer"},
}


@pytest.mark.parametrize("kind", SHOWN)
def test_the_row_in_the_docstring_is_valid(kind: type[ExampleTask]):
    task = kind(SHOWN[kind])
    call = ", ".join(f"{name}={value!r}".replace("'", '"') for name, value in SHOWN[kind].items())
    assert f"{kind.__name__}({call})" in kind.__doc__
    names, scored = (
        re.search(rf"\n *{line} +(.*?)(?:  {{4,}}.*)?\n", kind.__doc__)[1].split() for line in ("input_ids", "loss")
    )
    ids = {task.token_name(token): token for token in range(task.num_tokens)}
    row = [ids[name] for name in names]
    mask = task.answer_mask(row)
    if kind is not ManoTask:  # which says in words what is scored
        assert [name for name, is_scored in zip(names, mask, strict=True) if is_scored] == scored


def test_the_text_in_the_docstring_is_told():
    text = " " + " ".join(re.search(r'text   " (.*?)"', CapoTask.__doc__, re.S)[1].split())
    task = CapoTask(num_people=1, exposures=1)
    assert task.texts(task.sample(np.random.default_rng(0), 1)) == [text]
