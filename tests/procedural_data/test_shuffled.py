from collections import Counter

import numpy as np
import pytest

from core.batch import IGNORE
from core.split import SHARES, draw_block
from procedural_data._shuffled import Shuffled
from procedural_data.dyck_shuffle import DyckShuffle
from procedural_data.eca import Eca
from procedural_data.identity import Identity
from procedural_data.set import Set
from procedural_data.sort import Sort

TASKS = [Set(seq_length=6, vocab_size=9), Sort(seq_length=5), DyckShuffle(seq_length=8, k=3), Eca(width=4)]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_tokens_and_the_number_of_scored_ones_remain_and_only_the_order_is_lost(task):
    plain, mixed = (kind.sample(np.random.default_rng(3), 200) for kind in (task, Shuffled(of=task)))
    assert (plain.input_ids.sort(dim=1).values == mixed.input_ids.sort(dim=1).values).all()
    assert ((plain.targets != IGNORE) == (mixed.targets != IGNORE)).all()
    scored = mixed.targets != IGNORE
    assert (mixed.targets[:, :-1] == mixed.input_ids[:, 1:])[scored[:, :-1]].all()
    assert task.pad_token not in mixed.targets[scored].tolist()
    for row in mixed.input_ids.tolist():
        Shuffled(of=task).check(row)


def test_every_order_is_equally_likely():
    rows = Shuffled(of=Identity(seq_length=2, vocab_size=2)).sample(np.random.default_rng(0), 50_000).input_ids
    counts = Counter(map(tuple, rows.tolist()))  # 1 1 | 1 1 has five orders, by where the separator stands
    assert len(counts) == 5
    assert max(abs(count - 10_000) for count in counts.values()) < 4.5 * (50_000 * 0.2 * 0.8) ** 0.5


def test_streams_differ_from_those_of_the_task_and_of_other_shuffled_tasks():
    fingerprints = {Shuffled(of=task).fingerprint for task in [Set(), Sort(), Sort(seq_length=5)]}
    assert len(fingerprints | {Set().fingerprint, Sort().fingerprint}) == 5


def test_no_sequence_occurs_in_two_splits():
    rows = [set(map(tuple, draw_block(Shuffled(of=Set()), 0, split, 0).input_ids.tolist())) for split in SHARES]
    assert sum(map(len, rows)) == len(set.union(*rows))


@pytest.mark.parametrize("row", [[1, 1, 1, 2, 8, 8, 9, 9], [1, 1, 1, 2, 11, 8, 9, 9, 9], [9, 1, 1, 1, 2, 8, 8, 8, 9]])
def test_check_refuses_what_no_order_can_be(row):
    task = Shuffled(of=Set(seq_length=4, vocab_size=8))
    task.check([1, 1, 1, 2, 8, 8, 9, 9, 9])
    with pytest.raises(ValueError, match=r"it should have 9|no token 11|a pad stands before"):
        task.check(row)
