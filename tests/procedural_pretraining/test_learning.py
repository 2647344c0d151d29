"""Models learn what they are shown, and no more than can be known."""

import pytest
from small_runs import metrics

LEARNS = {"gpt2_size": "2_4_128", "batch_size": 64, "lr": 2e-3, "warmup_steps": 100, "min_lr_ratio": 0.02}
LEARNS |= {"save_every_steps": 250, "eval_examples": 640, "log_every_steps": 100}


def last_validation(run):
    return [row for row in metrics(run) if row["split"] == "validation"][-1]


def test_a_copy_is_learnt_in_seconds(train):
    changes = {**LEARNS, "gpt2_size": "2_2_32", "max_steps": 400, "lr": 5e-3, "positions": "rope"}
    run = train(task="identity", seq_length=4, vocab_size=10, **changes)
    assert last_validation(run)["exact_match"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("task", ["reverse", "sort", "identity"])
def test_two_layers_master_ten_items(train, task):
    run = train(task=task, seq_length=10, vocab_size=20, max_steps=1500, **LEARNS)
    assert last_validation(run)["exact_match"] >= 0.99


@pytest.mark.slow
def test_brackets_are_learnt_to_within_a_twentieth_nat_of_what_can_be_known(train):
    run = train(task="dyck", k=4, seq_length=32, vocab_size=None, max_steps=1000, **LEARNS)
    last = last_validation(run)
    assert last["loss"] - last["oracle_loss"] < 0.05
    assert last["loss"] > last["oracle_loss"] - 4 * last["oracle_error"]
