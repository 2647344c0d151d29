"""The three metrics and their floors, counted the slow, obvious way."""

from collections import Counter

import numpy as np
import pytest
import torch

from core.batch import IGNORE
from core.distributed import World
from core.model import GPT, GPTConfig
from core.source import TaskSource
from downstream.algorithmic_tasks.config import parse
from downstream.algorithmic_tasks.exam import Exam, QuestionSource, constant_guess, distinct


def model_for(task) -> GPT:
    """One with weights so large that its guesses vary."""
    model = GPT(GPTConfig(task.num_tokens, task.block_size, 1, 2, 8), seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20)
    return model.eval()


@pytest.mark.parametrize("name", ["forwardaddition_1_2", "multiplication_2", "condattendstream_3", "sorting_2"])
@pytest.mark.parametrize("batch_size", [7, 1000])
def test_metrics_are_shares_of_tokens_and_of_questions(name, batch_size):
    task = parse(name)
    model = model_for(task)
    metrics = Exam(task, 0, "test", 60, batch_size, World())(model)
    tokens, earlier, whole = [], [], []
    for ids, targets in zip(*distinct(TaskSource(task, 0).batch("test", 0, 60)), strict=True):
        guesses = model(ids[None])[0].argmax(dim=-1).tolist()
        hits = [guesses[p] == t for p, t in enumerate(targets.tolist()) if t != IGNORE]
        tokens += hits
        whole.append(all(hits))
        if "addition" in name or "multiplication" in name:  # where the token read is one of the answer
            earlier += [guesses[p] == ids[p + 1].item() for p in range(len(ids) - 1) if ids[p] >= 20]
        else:
            earlier += hits
    assert metrics["accuracy"] == pytest.approx(np.mean(tokens))
    assert metrics["exact_match"] == pytest.approx(np.mean(whole))
    assert metrics["documented_accuracy"] == pytest.approx(np.mean(earlier))


def test_questions_drawn_twice_are_measured_once():
    task = parse("forwardaddition_1")
    batch = distinct(TaskSource(task, 0).batch("test", 0, 4000))
    assert 4 <= len(batch.input_ids) <= 20
    assert len(set(map(tuple, batch.input_ids.tolist()))) == len(batch.input_ids)
    exam = Exam(task, 0, "test", 4000, 1000, World())
    assert exam(model_for(task))["questions"] == len(batch.input_ids)


@pytest.mark.parametrize("name", ["forwardaddition_1_2", "condattendstream_2", "sorting_1_3"])
def test_the_constant_guess_is_the_most_frequent_token_of_each_place(name):
    task = parse(name)
    seen, asked = (task.sample(np.random.default_rng(seed), 300) for seed in (0, 1))

    def lists(batch):
        return [tuple(t for t in row if t != IGNORE) for row in batch.targets.tolist()]

    places = [Counter(row[p] for row in lists(seen) if len(row) > p) for p in range(task.block_size)]
    guess = [count.most_common(1)[0][0] if count else None for count in places]
    right = [token == guess[p] for row in lists(asked) for p, token in enumerate(row)]
    (likeliest, _), *_ = Counter(lists(seen)).most_common(1)
    token, whole = constant_guess(seen, asked)
    assert token == pytest.approx(np.mean(right))
    assert whole == pytest.approx(np.mean([row == likeliest for row in lists(asked)]))


def test_floors_are_those_measured_for_the_documented_sizes():
    for name, floor in (("forwardaddition_5", 0.242), ("additionstream_10", 0.195), ("multiplication_5", 0.255)):
        exam = Exam(parse(name), 0, "test", 4000, 1000, World())
        assert exam.floors["documented_accuracy_floor"] == pytest.approx(floor, abs=0.01), name
    assert 0.002 < Exam(parse("condattendstream_30"), 0, "test", 4000, 1000, World()).floors["accuracy_floor"] < 0.014


def test_the_documented_mask_changes_what_is_scored_and_nothing_else():
    task = parse("additionstream_3")
    plain, documented = (QuestionSource(task, 0, mask).batch("train", 0, 50) for mask in ("answer", "documented"))
    assert torch.equal(plain.input_ids, documented.input_ids)
    first = (plain.targets != IGNORE).int().argmax(dim=1)
    assert (plain.input_ids[range(50), first] == 11).all(), "= predicts the first digit"
    assert (documented.targets[range(50), first] == IGNORE).all()
