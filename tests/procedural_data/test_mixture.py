import numpy as np
import pytest
import torch

from core.batch import IGNORE, Batch
from core.split import SHARES, draw_block, split_of
from procedural_data.dyck import Dyck
from procedural_data.mixture import Mixture

SET = {"task": "set", "seq_length": 4, "vocab_size": 6, "weight": 1.0}  # separator 6, pad 7, 8 ids
DYCK = {"task": "dyck", "seq_length": 10, "k": 2, "weight": 3.0}  # 5 ids


def drawn(**keys) -> tuple[Mixture, Batch]:
    task = Mixture(parts=[SET, DYCK], **keys)
    return task, task.sample(np.random.default_rng(0), 8000)


def test_parts_occur_by_weight():
    task, batch = drawn()
    counts = {name: len(rows) for name, rows in task.groups(batch).items()}
    assert counts.keys() == {"1:set", "2:dyck"}
    assert counts["1:set"] == pytest.approx(2000, abs=4 * (8000 * 0.25 * 0.75) ** 0.5)
    assert sum(counts.values()) == 8000


def test_a_shared_vocabulary_has_a_token_for_each_task_and_one_pad():
    task, batch = drawn()
    assert (task.payload, task.pad_token, task.num_tokens, task.block_size) == (8, 10, 11, 11)
    rows = task.groups(batch)
    assert (batch.input_ids[rows["1:set"], 0] == 8).all()
    assert (batch.input_ids[rows["2:dyck"], 0] == 9).all()
    assert batch.input_ids[rows["2:dyck"], 1:].max() == 3
    assert (batch.input_ids[rows["1:set"], 1:6] < 7).all()
    assert (batch.targets[rows["1:set"]] != 7).all()
    assert (batch.input_ids != 7).all(), "the pad of a part is written as that of the mixture"


def test_separate_vocabularies_do_not_overlap():
    task, batch = drawn(vocabulary="separate")
    assert (task.offsets, task.payload, task.pad_token, task.block_size) == ([0, 8], 13, 13, 10)
    rows = task.groups(batch)
    of_set, of_dyck = (batch.input_ids[rows[name]] for name in ("1:set", "2:dyck"))
    assert set(of_set.unique().tolist()) == {1, 2, 3, 4, 5, 6, 13}
    assert set(of_dyck.unique().tolist()) == {8, 9, 10, 11}
    assert task.token_name(8) == "2:(0"


@pytest.mark.parametrize("vocabulary", ["shared", "separate"])
def test_the_oracle_is_that_of_each_examples_own_task(vocabulary):
    task, batch = drawn(vocabulary=vocabulary)
    oracle, rows = task.oracle(batch), task.groups(batch)
    places = slice(task.prefixes, task.prefixes + 10)
    ids, targets = (x[rows["2:dyck"], places] for x in batch)
    offset = task.offsets[1]
    own = Dyck(seq_length=10, k=2).oracle(Batch(ids - offset, torch.where(targets == IGNORE, IGNORE, targets - offset)))
    assert torch.equal(oracle.log_prob[rows["2:dyck"], places], own.log_prob)
    assert torch.equal(oracle.best_prob[rows["2:dyck"], places], own.best_prob)
    certain = oracle.best_prob[rows["1:set"]][batch.targets[rows["1:set"]] != IGNORE]
    assert (certain == 1).all()


@pytest.mark.parametrize("vocabulary", ["shared", "separate"])
def test_a_prompt_is_in_the_split_that_it_has_without_mixture(vocabulary):
    parts = [{**SET, "seq_length": 20}, {"task": "stack", "seq_length": 12}, {"task": "eca", "width": 20}]
    task = Mixture(parts=[*parts, {**DYCK, "seq_length": 30}], vocabulary=vocabulary)
    for number, split in enumerate(SHARES):
        for kind, rows, own in task.by_part(draw_block(task, 0, split, 0)):
            assert len(rows) > 0
            for row in own.input_ids.tolist():
                kind.check(row)
            assert (split_of(kind.prompt(own)) == number).all(), kind.name


def test_one_length_for_all_parts():
    task = Mixture(parts=[SET, DYCK], seq_length=6)
    assert [part.model_dump()["seq_length"] for part in task.tasks] == [6, 6]
    assert task.replace(seq_length=8).block_size == 1 + 17


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([8, 1, 1, 2, 3, 6, 1, 2, 3, 7, 10], "7 stands for a pad"),
        ([8, 1, 1, 2, 3, 6, 1, 2, 3, 10, 1], "after the 9 tokens of 1:set come others than pads"),
        ([8, 1, 1, 2, 3, 6, 1, 2, 9, 10, 10], "9 is no token of 1:set"),
        ([1, 1, 1, 2, 3, 6, 1, 2, 3, 10, 10], "the first token is 1, which no part begins with"),
        ([8, 1, 1, 2, 3, 6, 1, 3, 2, 10, 10], "place 2 of the answer holds 3"),
        ([9, 1, 1, 2, 3, 6, 1, 2, 3, 10, 10], "no token of 2:dyck"),
    ],
)
def test_check_says_what_is_wrong(row, message):
    task = Mixture(parts=[SET, DYCK])
    task.check([8, 1, 1, 2, 3, 6, 1, 2, 3, 10, 10])
    with pytest.raises(ValueError, match=message):
        task.check(row)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"task": "sett"}], r"parts\[0\]: no task 'sett'"),
        ([{"task": "set"}, {"task": "mixture"}], r"parts\[1\]: a mixture cannot be part of a mixture"),
        ([{"task": "set"}, {"task": "dyck", "k": 0}], r"parts\[1\]: k: 0 is not allowed"),
        ([{"task": "set", "k": 2}], r"parts\[0\]: k: no such key"),
        ([{"task": "dyck", "k": 0, "seq_length": 3}, {"task": "sett"}], r"0\]: k: .*; seq_length: .*; .*1\]: no task"),
    ],
)
def test_parts_that_cannot_be_are_named(parts, message):
    with pytest.raises(ValueError, match=message):
        Mixture(parts=parts)
