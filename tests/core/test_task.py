import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field, ValidationError

from core.batch import IGNORE, Batch
from core.task import Task, task_class, task_names

TASK_FILE = """
from core.task import Task
from {package}._base import Base

class {name}(Base):
    pass
"""

BASE_FILE = """
from core.task import Task

class Base(Task):
    @property
    def num_tokens(self): ...
    @property
    def block_size(self): ...
    def sample(self, rng, size): ...
    def check(self, input_ids): ...
    def token_name(self, token): ...
"""


class Copy(Task):
    """Two equal tokens."""

    vocab_size: int = Field(8, ge=1, description="tokens to choose from")
    share: float = Field(0.5, ge=0, le=1, description="has no effect")

    @property
    def num_tokens(self) -> int:
        return self.vocab_size

    @property
    def block_size(self) -> int:
        return 2

    def sample(self, rng, size):
        tokens = np.repeat(rng.integers(self.vocab_size, size=(size, 1)), 2, axis=1)
        targets = tokens.copy()
        targets[:, 1] = IGNORE
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets))

    def check(self, input_ids):
        if input_ids[0] != input_ids[1]:
            raise ValueError("the tokens differ")

    def token_name(self, token):
        return str(token)


class CopyInSmallBlocks(Copy):
    examples_per_block: ClassVar[int] = 2


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `zoo` with two sound tasks, a broken one, one with two classes, and modules that are no tasks."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    for name in ("__init__", "cli", "config", "run"):
        (folder / f"{name}.py").write_text("")
    (folder / "_base.py").write_text(BASE_FILE)
    (folder / "lion.py").write_text(TASK_FILE.format(package="zoo", name="Lion"))
    (folder / "tiger.py").write_text(TASK_FILE.format(package="zoo", name="Tiger"))
    (folder / "twins.py").write_text(TASK_FILE.format(package="zoo", name="One") + "\nclass Two(Base):\n    pass\n")
    (folder / "broken.py").write_text("import no_such_module")
    (folder / "data").mkdir()
    (folder / "data" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield "zoo"
    for module in [name for name in sys.modules if name.partition(".")[0] == "zoo"]:
        del sys.modules[module]


def test_tasks_are_the_modules_of_a_package_but_for_its_machinery(package):
    assert task_names(package) == ["broken", "lion", "tiger", "twins"]


def test_a_task_is_found_by_the_name_of_its_file_and_nothing_else_is_imported(package):
    lion = task_class(package, "lion")
    assert lion.__name__ == "Lion"
    assert lion().name == "lion"
    assert "zoo.tiger" not in sys.modules


def test_an_unknown_task_is_answered_with_the_known_ones_and_the_nearest(package):
    with pytest.raises(ValueError, match=r"no task 'tigre' in zoo/; it has .*lion.*Did you mean 'tiger'\?"):
        task_class(package, "tigre")
    with pytest.raises(ValueError, match="no task '_base'"):
        task_class(package, "_base")


def test_a_file_with_two_tasks_is_refused(package):
    with pytest.raises(TypeError, match=r"twins\.py defines 2 Task classes"):
        task_class(package, "twins")


def test_tasks_are_frozen_and_strict():
    task = Copy()
    with pytest.raises(ValidationError, match="frozen"):
        task.vocab_size = 9
    for wrong in (
        {"vocab_size": "8"},
        {"vocab_size": 8.0},
        {"vocab_size": True},
        {"share": float("nan")},
        {"other": 1},
    ):
        with pytest.raises(ValidationError):
            Copy(**wrong)


def test_every_wrong_parameter_is_named_at_once():
    with pytest.raises(ValidationError, match=r"(?s)vocab_size.*share"):
        Copy(vocab_size=0, share=1.5)


def test_replace_changes_what_it_is_told_and_checks_it():
    assert Copy(share=0.25).replace(vocab_size=9) == Copy(vocab_size=9, share=0.25)
    with pytest.raises(ValidationError, match="vocab_size"):
        Copy().replace(vocab_size=0)


def test_the_fingerprint_covers_parameters_block_and_module():
    fingerprints = {Copy().fingerprint, Copy(vocab_size=9).fingerprint, Copy(share=0.25).fingerprint}
    fingerprints.add(CopyInSmallBlocks().fingerprint)
    elsewhere = type("Copy", (Copy,), {"__module__": "another.place"})
    fingerprints.add(elsewhere().fingerprint)
    assert len(fingerprints) == 5
    assert Copy().fingerprint == Copy(vocab_size=8, share=0.5).fingerprint


def test_the_prompt_is_the_whole_row_by_default():
    batch = Copy().sample(np.random.default_rng(0), 3)
    assert np.array_equal(Copy().prompt(batch), batch.input_ids.numpy())
