"""The face of every synthetic task: rows as dictionaries, streams, shards, presets."""

import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.utils.data import DataLoader

from core.batch import IGNORE, Batch
from core.distributed import World
from core.model import GPT, GPTConfig
from core.source import TaskSource
from core.task import task_class, task_names
from core.trainer import Phase, Run, Settings
from synthetic_tasks._example_task import ExampleTask, preset
from synthetic_tasks.brevo import BrevoTask
from synthetic_tasks.depo import DepoTask
from synthetic_tasks.mano import ManoTask

TASKS = [task_class("synthetic_tasks", name) for name in task_names("synthetic_tasks")]
SMALL = DepoTask(N=6, K=3, M=2, mini_vocab=5)

every_task = pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)


def keys(rows: list[dict]) -> list[tuple]:
    return [tuple(row["input_ids"]) for row in rows]


def test_parameters_come_as_keywords_or_as_one_mapping():
    assert DepoTask({"N": 75, "K": 16}) == DepoTask(N=75, K=16) == DepoTask({"N": 70}, N=75, K=16)
    with pytest.raises(ValidationError, match="no_such_key"):
        DepoTask({"no_such_key": 1})


@every_task
def test_tasks_are_equal_if_their_parameters_are_whatever_they_have_computed(kind):
    one, other = kind(), kind()
    one.take(seed=0, count=1)
    other.take(seed=0, count=1)
    assert one == other == pickle.loads(pickle.dumps(one))
    assert len({one, other}) == 1
    assert one != kind(**kind.presets[list(kind.presets)[-1]])


@every_task
def test_a_row_labels_just_the_tokens_that_its_mask_marks(kind):
    for row in kind().take(seed=0, count=5):
        assert len(row["input_ids"]) == len(row["loss_mask"]) == len(row["labels"])
        pairs = zip(row["input_ids"], row["loss_mask"], row["labels"], strict=True)
        assert all(label == (token if mask else IGNORE) for token, mask, label in pairs)
        assert sum(row["loss_mask"]) > 0
        assert all(type(value) is int for name in ("input_ids", "loss_mask", "labels") for value in row[name])


@every_task
def test_rows_are_the_training_examples_of_their_seed(kind):
    task = kind()
    count = task.examples_per_block + 3
    batch = TaskSource(task, seed=5).batch("train", 0, count)
    rows = task.take(seed=5, count=count)
    assert len(rows) == count
    for row, input_ids, targets in zip(rows, batch.input_ids.tolist(), batch.targets.tolist(), strict=True):
        length = len(row["input_ids"])
        assert row["input_ids"] + [task.pad_token] * (len(input_ids) - length) == input_ids
        assert row["labels"][1:] == targets[: length - 1]
        assert set(targets[length - 1 :]) == {IGNORE}
    assert task.take(seed=6, count=3) != rows[:3]


@every_task
def test_generated_and_streamed_examples_are_valid_and_wrong_masks_and_labels_are_not(kind):
    task = kind()
    for row in [
        task.generate_example(np.random.default_rng(1)),
        task.generate_example(random.Random(1)),
        *task.take(0, 3),
    ]:
        assert task.validate_example(row)
        assert task.validate_example({name: np.array(row[name]) for name in ("input_ids", "loss_mask", "labels")})
        scored = row["loss_mask"].index(1, 1)
        for name in ("loss_mask", "labels"):
            wrong = list(row[name])
            wrong[scored] = 0 if name == "loss_mask" else wrong[scored] + 1
            assert not task.validate_example({**row, name: wrong})
            assert not task.validate_example({**row, name: row[name][:-1]})


@every_task
@pytest.mark.parametrize(
    "wrong", [{}, {"input_ids": []}, {"input_ids": None}, {"input_ids": ["a"]}, {"input_ids": [[1]]}]
)
def test_what_is_no_row_is_not_valid(kind, wrong):
    assert kind().validate_example(wrong) is False


def test_the_same_generator_gives_the_same_example_and_goes_on():
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    assert SMALL.generate_example(one) == SMALL.generate_example(other) != SMALL.generate_example(one)
    assert SMALL.generate_example(random.Random(3)) == SMALL.generate_example(random.Random(3))


def test_streams_end_where_they_are_told_and_never_otherwise():
    assert SMALL.take(0, 0) == []
    assert len(list(SMALL.iter_examples(0, 300))) == 300
    endless = SMALL.iter_examples(0)
    assert [next(endless) for _ in range(300)] == SMALL.take(0, 300)
    assert list(SMALL.iterable(0, 300)) == SMALL.take(0, 300)
    with pytest.raises(ValueError, match="num_examples is -1"):
        SMALL.iterable(0, -1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_workers_and_ranks_share_the_examples_without_repeats_or_gaps(monkeypatch, workers, ranks):
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    rows, counts = [], []
    for rank in range(ranks):
        monkeypatch.setenv("RANK", str(rank))
        loader = DataLoader(SMALL.iterable(7, 301), batch_size=16, num_workers=workers, collate_fn=list)
        mine = [row for batch in loader for row in batch]
        counts.append(len(mine))
        rows += mine
    assert Counter(keys(rows)) == Counter(keys(SMALL.take(7, 301)))
    assert max(counts) - min(counts) <= max(workers, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_endless_stream_is_dealt_out_without_repeats(monkeypatch, workers):
    monkeypatch.setenv("WORLD_SIZE", "2")
    n, rows = SMALL.examples_per_block, []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        stream = iter(DataLoader(SMALL.iterable(7), batch_size=n, num_workers=workers, collate_fn=list))
        rows += next(stream) + next(stream)
    assert Counter(keys(rows)) == Counter(keys(SMALL.take(7, 4 * n)))


def test_ranks_of_a_process_group_win_over_the_environment(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    rows = []
    for rank in range(3):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        rows += list(SMALL.iterable(7, 100))
    assert rows == SMALL.take(7, 100)


def test_presets_are_known_by_name():
    assert preset("depo2_75") == DepoTask(N=75, K=16, mini_vocab=3, min_tlen=5, max_tlen=7)
    assert preset("mano_13") == ManoTask(L=13)
    assert preset("brevo2_50") == BrevoTask(N=50, multi=True)
    with pytest.raises(ValueError, match=r"no preset 'dep02_75'; there are .*depo1_225.*Did you mean 'depo2_75'\?"):
        preset("dep02_75")


@pytest.mark.parametrize("name", sorted({name for kind in TASKS for name in kind.presets}))
def test_every_preset_makes_valid_rows(name):
    task = preset(name)
    assert isinstance(task, ExampleTask)
    if task.name != "capo":  # half a million people take their time
        assert task.validate_example(task.generate_example(np.random.default_rng(0)))


def test_a_batch_is_as_long_as_its_longest_row():
    task = DepoTask(N=30)
    source = TaskSource(task, seed=0)
    lengths = [len(row["input_ids"]) for row in task.take(0, 200)]
    for start, stop in [(0, 1), (3, 7), (120, 140), (0, 200)]:
        batch = source.batch("train", start, stop)
        assert batch.input_ids.shape == (stop - start, max(lengths[start:stop]))
        assert (batch.input_ids != task.pad_token).sum(dim=1).tolist() == lengths[start:stop]


def test_spans_of_a_task_are_its_answers():
    batch = Batch(
        torch.tensor([[9, 1, 2, 3], [9, 4, 5, 0]]), torch.tensor([[IGNORE, 2, 3, IGNORE], [4, 5, IGNORE, IGNORE]])
    )
    row, start, stop, kind = ExampleTask.spans(SMALL, batch)
    assert (row.tolist(), start.tolist(), stop.tolist(), kind.tolist()) == ([0, 1], [2, 1], [4, 3], [0, 0])


def test_a_run_on_packed_rows_learns_what_a_run_on_padded_ones_learns(tmp_path):
    task = ManoTask(L=8, value_mod=5)
    results = {}
    for pack_to in (None, 64):
        model = GPT(GPTConfig(task.num_tokens, task.block_size, 1, 2, 16))
        phase = Phase("mano", TaskSource(task, seed=0), 4, 32, lambda step: 1e-2, pack_to=pack_to)
        run = Run(model, [phase], lambda model, step: [], Settings(pad_token=task.pad_token), tmp_path, World())
        run.tracker = type("Silent", (), {"advance": lambda self: None})()
        for step in range(4):
            run.update(run.make_update(step), 1e-2, 0)
        run.read()
        results[pack_to] = run.state
    padded, together = results[None], results[64]
    assert padded.examples == together.examples == 128
    assert together.tokens < padded.tokens
    for (loss, targets, norm), (loss_2, targets_2, norm_2) in zip(padded.window, together.window, strict=True):
        assert targets == targets_2
        assert loss == pytest.approx(loss_2, rel=1e-4)
        assert norm == pytest.approx(norm_2, rel=1e-3)
