"""What holds for every task of every package, asked of all of them over their whole domain."""

import json
import random
import typing
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from core.batch import IGNORE
from core.split import SHARES, TooFewPrompts, draw_block
from core.task import Task, task_class, task_names
from procedural_data.mixture import Part

PACKAGES = ["procedural_data", "downstream.algorithmic_tasks.tasks", "synthetic_tasks"]
TASKS = [task_class(package, name) for package in PACKAGES for name in task_names(package)]
SEVERAL_ANSWERS = {"brevo", "capo", "lano", "mano"}  # another token may be right as well; they have tests of their own
SEVERAL_QUESTIONS = SEVERAL_ANSWERS | {"depo"}  # whose prompt leaves open what is asked
SPAN = 30  # integers reach from the lower bound of their domain to this much above it

every_task = pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__module__)
over_its_domain = settings(max_examples=25, deadline=None, derandomize=True)


def bounds(field: FieldInfo) -> dict:
    """The constraints of a field by name: ge, le, multiple_of."""
    names = ("ge", "le", "multiple_of")
    return {name: getattr(c, name) for c in field.metadata for name in names if hasattr(c, name)}


def types(field: FieldInfo) -> tuple[type, ...]:
    """`int | None` to (int, NoneType), `int` to (int,)."""
    return typing.get_args(field.annotation) or (field.annotation,)


PARTS = [  # of mixtures
    Part(task="identity", seq_length=3, vocab_size=5),
    Part(task="set", seq_length=4, vocab_size=4, weight=0.5),
    Part(task="dyck", seq_length=6, k=2),
    Part(task="eca", seq_length=2, width=5, weight=3.0),
]


def values(field: FieldInfo) -> st.SearchStrategy:
    """Values of one parameter's domain, its edges among them."""
    if typing.get_origin(field.annotation) is typing.Literal:
        return st.sampled_from(types(field))
    if field.annotation is str:
        return st.sampled_from(field.examples)
    if field.annotation == list[Part]:
        return st.lists(st.sampled_from(PARTS), min_size=1, max_size=4)
    low, high = bounds(field).get("ge"), bounds(field).get("le")
    step = bounds(field).get("multiple_of", 1)
    of_type = {
        bool: lambda: st.booleans(),
        int: lambda: st.integers(low, min(low + SPAN, high or low + SPAN)).filter(lambda n: n % step == 0),
        float: lambda: st.floats(low, high),
        str: lambda: st.nothing(),  # a path
        type(None): lambda: st.none(),
    }
    return st.one_of([of_type[kind]() for kind in types(field)])


@st.composite
def tasks(draw: st.DrawFn, kind: type[Task]) -> Task:
    """Draws one parameter after the other; one that the task excludes beside those before it keeps its default."""
    parameters = {}
    for name in draw(st.permutations(sorted(kind.model_fields))):
        value = draw(values(kind.model_fields[name]), label=name)
        with suppress(ValidationError):
            kind(**parameters, **{name: value})
            parameters[name] = value
    return kind(**parameters)


def some_of(data: st.DataObject, ids: range) -> list[int]:
    """All ids, or where they are many, some of them, the ends among them."""
    if len(ids) <= 300:
        return list(ids)
    return [ids[0], *sorted(data.draw(st.sets(st.integers(ids[0], ids[-1]), max_size=30))), ids[-1]]


def without_pads(row: list[int], task: Task) -> list[int]:
    while task.ragged and row[-1] == task.pad_token:
        row = row[:-1]
    return row


def some_batch(data: st.DataObject, task: Task):
    seed = data.draw(st.integers(0, 10**6), label="seed")
    return task.sample(np.random.default_rng(seed), data.draw(st.integers(1, 20), label="size"))


def is_pad(tokens: torch.Tensor, task: Task) -> torch.Tensor:
    return tokens == (-1 if task.pad_token is None else task.pad_token)


# The parameters


@every_task
def test_every_parameter_has_a_default_a_meaning_and_a_domain(kind):
    for name, field in kind.model_fields.items():
        assert not field.is_required(), name
        assert field.description, name
        if {int, float} & set(types(field)):
            assert "ge" in bounds(field), name


@every_task
def test_values_outside_the_domain_are_refused_by_name(kind):
    for name, field in kind.model_fields.items():
        limits = bounds(field)
        beyond = [limits[edge] + step for edge, step in (("ge", -1), ("le", 1)) if edge in limits]
        for value in ["text", *beyond]:
            with pytest.raises(ValidationError, match=name):
                kind(**{name: value})
    with pytest.raises(ValidationError, match="no_such_key"):
        kind(no_such_key=1)


@every_task
@over_its_domain
@given(data=st.data())
def test_parameters_survive_a_round_trip(kind, data):
    task = data.draw(tasks(kind))
    assert kind(**json.loads(json.dumps(task.model_dump()))) == task
    assert task.replace() == task
    assert kind().replace(**task.model_dump()) == task


@every_task
@over_its_domain
@given(data=st.data())
def test_fingerprints_differ_exactly_where_parameters_do(kind, data):
    one, other = data.draw(tasks(kind)), data.draw(tasks(kind))
    assert (one.fingerprint == other.fingerprint) == (json.dumps(one.model_dump()) == json.dumps(other.model_dump()))


@every_task
@over_its_domain
@given(data=st.data())
def test_a_change_of_one_parameter_changes_the_fingerprint(kind, data):
    task = data.draw(tasks(kind))
    name = data.draw(st.sampled_from(sorted(kind.model_fields)))
    value = data.draw(values(kind.model_fields[name]).filter(lambda v: v != getattr(task, name)))
    try:
        changed = task.replace(**{name: value})
    except ValidationError:
        reject()
    assert changed.fingerprint != task.fingerprint


def test_no_two_tasks_share_a_fingerprint():
    assert len({kind().fingerprint for kind in TASKS}) == len(TASKS)


# The sequences


@every_task
@over_its_domain
@given(data=st.data())
def test_batches_hold_ids_of_the_vocabulary_in_rows_of_at_most_block_size(kind, data):
    task = data.draw(tasks(kind))
    size = data.draw(st.integers(0, 20), label="size")
    input_ids, targets = task.sample(np.random.default_rng(0), size)
    assert input_ids.dtype == targets.dtype == torch.int64
    assert input_ids.shape == targets.shape
    assert input_ids.is_contiguous()
    assert targets.is_contiguous()
    assert len(input_ids) == size
    assert input_ids.shape[1] <= task.block_size
    assert ((input_ids >= 0) & (input_ids < task.num_tokens)).all()


@every_task
@over_its_domain
@given(data=st.data())
def test_each_row_scores_some_next_tokens_and_never_a_pad(kind, data):
    task = data.draw(tasks(kind))
    input_ids, targets = some_batch(data, task)
    scored = targets != IGNORE
    assert scored.any(dim=1).all()
    assert not scored[:, -1].any()
    assert (targets[:, :-1] == input_ids[:, 1:])[scored[:, :-1]].all()
    assert not is_pad(targets, task).any()


@every_task
@over_its_domain
@given(data=st.data())
def test_pads_stand_at_the_end_only(kind, data):
    task = data.draw(tasks(kind))
    assert (is_pad(some_batch(data, task).input_ids, task).long().diff(dim=1) >= 0).all()


@every_task
@over_its_domain
@given(data=st.data())
def test_check_accepts_every_sample(kind, data):
    task = data.draw(tasks(kind))
    for row in some_batch(data, task).input_ids.tolist():
        task.check(row)


@every_task
@over_its_domain
@given(data=st.data())
def test_check_rejects_every_other_token_in_place_of_a_scored_one(kind, data):
    task = data.draw(tasks(kind))
    batch = some_batch(data, task)
    if task.oracle(batch) is not None or task.name in SEVERAL_ANSWERS:
        return  # another continuation may be right; such tasks have tests of their own
    row, scored = batch.input_ids[0].tolist(), (batch.targets[0] != IGNORE).nonzero().flatten().tolist()
    position = 1 + data.draw(st.sampled_from(scored), label="position")
    for token in {*row, *some_of(data, range(task.num_tokens))} - {row[position]}:
        with pytest.raises(ValueError, match=r"."):
            task.check([*row[:position], token, *row[position + 1 :]])


@every_task
@over_its_domain
@given(data=st.data())
def test_check_rejects_sequences_cut_short_or_with_ids_outside_the_vocabulary(kind, data):
    task = data.draw(tasks(kind))
    row = without_pads(some_batch(data, task).input_ids[0].tolist(), task)
    position = data.draw(st.integers(0, len(row) - 1), label="position")
    for token in (-1, task.num_tokens):
        with pytest.raises(ValueError, match=r"."):
            task.check([*row[:position], token, *row[position + 1 :]])
    for wrong in (row[:-1], []):
        with pytest.raises(ValueError, match=r"." if task.ragged else str(len(wrong))):
            task.check(wrong)


@every_task
@over_its_domain
@given(data=st.data())
def test_token_names_are_distinct_and_end_with_the_vocabulary(kind, data):
    task = data.draw(tasks(kind))
    ids = some_of(data, range(task.num_tokens))
    names = [task.token_name(token) for token in ids]
    assert len(set(names)) == len(set(ids))
    assert not any(set(name) & set(" \n") for name in names)
    for token in (-1, task.num_tokens):
        with pytest.raises(ValueError, match=str(token)):
            task.token_name(token)


@every_task
@over_its_domain
@given(data=st.data())
def test_an_oracle_gives_a_probability_to_each_scored_target_and_to_no_other(kind, data):
    task = data.draw(tasks(kind))
    batch = some_batch(data, task)
    oracle = task.oracle(batch)
    if oracle is None:
        return
    scored = batch.targets != IGNORE
    assert oracle.log_prob.dtype == oracle.best_prob.dtype == torch.float64
    assert oracle.log_prob.shape == oracle.best_prob.shape == batch.targets.shape
    assert (oracle.log_prob[~scored] == 0).all()
    assert (oracle.best_prob[~scored] == 0).all()
    assert (oracle.best_prob[scored] <= 1).all()
    assert (oracle.log_prob.exp()[scored] <= oracle.best_prob[scored] * (1 + 1e-12)).all()
    assert (oracle.log_prob[scored] > -torch.inf).all()


# Randomness and splits


@every_task
@over_its_domain
@given(data=st.data())
def test_all_randomness_comes_from_the_generator(kind, data):
    task = data.draw(tasks(kind))
    batches = []
    for elsewhere in (1, 2):
        np.random.seed(elsewhere)  # noqa: NPY002, the global state that a task must not read
        random.seed(elsewhere)
        torch.manual_seed(elsewhere)
        batches.append(task.sample(np.random.default_rng(7), 12))
    assert torch.equal(batches[0].input_ids, batches[1].input_ids)
    assert torch.equal(batches[0].targets, batches[1].targets)


@every_task
@over_its_domain
@given(data=st.data())
def test_choosing_by_the_prompt_changes_no_row(kind, data):
    task, size = data.draw(tasks(kind)), data.draw(st.integers(1, 20), label="size")
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1)))), dtype=np.int64)
    seen = []

    def choose(prompts: np.ndarray) -> np.ndarray:
        seen.append(prompts)
        return chosen

    whole = task.sample(np.random.default_rng(5), size)
    part = task.sample_where(np.random.default_rng(5), size, choose)
    assert np.array_equal(seen, [task.prompt(whole)])
    for made, expected in zip(part, whole.rows(torch.from_numpy(chosen)), strict=True):
        assert made.dtype == torch.int64
        assert torch.equal(made, expected)


@every_task
def test_a_block_is_fixed_by_seed_split_and_number_and_by_each_of_them(kind):
    task = kind()
    block = draw_block(task, 0, "train", 0).input_ids
    keys = row_keys(block.numpy(), task)
    assert len(block) == task.examples_per_block
    assert torch.equal(block, draw_block(kind(), 0, "train", 0).input_ids)
    for seed, split, number in [(1, "train", 0), (0, "validation", 0), (0, "test", 0), (0, "train", 1)]:
        other = row_keys(draw_block(task, seed, split, number).input_ids.numpy(), task)
        assert len(np.intersect1d(keys, other)) < len(block) / 100  # the shortest rows of some tasks are few


def row_keys(rows: np.ndarray, task: Task) -> np.ndarray:
    """One value per row, equal exactly where the rows are, or, of a ragged task, what comes before their pads is."""
    fill = task.pad_token if task.ragged else None
    return np.array([row[: len(row) - (row[::-1] != fill).argmax()].tobytes().hex() for row in rows])


def prompt_keys(prompts: np.ndarray, task: Task) -> set[str]:
    """As `row_keys`, for prompts, which end in zeros where those of a ragged task are shorter."""
    return {(np.trim_zeros(row, "b") if task.ragged else row).tobytes().hex() for row in prompts}


@every_task
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_prompt_occurs_in_two_splits(kind, data):
    task = data.draw(tasks(kind))
    prompts = {}
    for split in SHARES:
        for seed in (0, 1):
            try:
                drawn = draw_block(task, seed, split, 0)
            except TooFewPrompts:
                continue
            prompts[split] = prompts.get(split, set()) | prompt_keys(task.prompt(drawn), task)
    assert prompts, "every split is empty"
    assert sum(len(p) for p in prompts.values()) == len(set().union(*prompts.values()))


@every_task
@over_its_domain
@given(data=st.data())
def test_the_prompt_is_read_off_the_tokens_and_leaves_no_answer_open(kind, data):
    task = data.draw(tasks(kind))
    if task.name in SEVERAL_QUESTIONS:
        return
    batch = task.sample(np.random.default_rng(0), 50)
    answers: dict[bytes, bytes] = {}
    for prompt, row in zip(task.prompt(batch), batch.input_ids.numpy(), strict=True):
        asked = row[:1].tobytes() + prompt.tobytes()  # the first token of a mixture says whose prompt it is
        assert answers.setdefault(asked, row.tobytes()) == row.tobytes()
