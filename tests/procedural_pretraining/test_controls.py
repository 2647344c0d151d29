"""Mixtures and shuffled tokens are trained, evaluated and resumed like any task."""

import json

import pytest
from small_runs import metrics

from procedural_pretraining import cli

PARTS = [{"task": "set", "seq_length": 4, "vocab_size": 6}, {"task": "dyck", "seq_length": 10, "k": 2, "weight": 2}]
MIXTURE = {"task": "mixture", "parts": json.dumps(PARTS), "seq_length": None, "vocab_size": None}
SHUFFLED = {"shuffle_tokens": True, "use_curriculum": True, "curriculum_mastery_threshold": 0.05, "eval_lengths": 3}


@pytest.mark.parametrize("changes", [MIXTURE, SHUFFLED, {"task": "eca", "width": 4, "vocab_size": None}])
def test_a_resumed_run_ends_bit_for_bit_as_one_that_went_through(train, changes):
    whole = train("whole", lr_schedule="constant", **changes)
    cut = train("cut", max_steps=15, lr_schedule="constant", **changes)
    train("cut", resume=True, lr_schedule="constant", **changes)
    for file in ("metrics.jsonl", "checkpoint-20/model.safetensors", "checkpoint-20/optimizer.safetensors"):
        assert (whole / file).read_bytes() == (cut / file).read_bytes(), file


def test_each_part_of_a_mixture_is_measured(train, capsys):
    run = train(**MIXTURE)
    last = [row for row in metrics(run) if row["split"] == "validation" and row["step"] == 20]
    assert [row.get("part") for row in last] == [None, "1:set", "2:dyck"]
    pooled, of_set, of_dyck = last
    assert of_set["accuracy"] != of_dyck["accuracy"]
    assert min(of_set["loss"], of_dyck["loss"]) < pooled["loss"] < max(of_set["loss"], of_dyck["loss"])
    assert "oracle_loss" in of_dyck
    assert "oracle_loss" not in of_set
    capsys.readouterr()
    assert cli.main(["evaluate", "--checkpoint", f"{run}/best", "--examples", "50", "--device", "cpu"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[2:]] == ["1:set", "2:dyck"]


def test_a_part_without_examples_in_validation_is_named(train, capsys):
    rare = [PARTS[0], {**PARTS[1], "weight": 1e-6}]
    run = train(**{**MIXTURE, "parts": json.dumps(rare), "seq_length": 6})
    assert {row.get("part") for row in metrics(run) if row["split"] == "validation"} == {None, "1:set"}
    said = capsys.readouterr().out
    assert said.count("validation of seed 42: none of the 32 examples is of 2:dyck, which is not measured") == 1


def test_shuffled_tokens_cannot_be_learned(train):
    easy = {"task": "eca", "rule": 0, "width": 6, "seq_length": 3, "vocab_size": None, "max_steps": 100}
    plain, shuffled = train("plain", **easy), train("shuffled", shuffle_tokens=True, **easy)
    validated = [[row for row in metrics(run) if row["split"] == "validation"] for run in (plain, shuffled)]
    accuracy = [rows[-1]["accuracy"] for rows in validated]
    assert accuracy[0] == 1  # rule 0 writes zeros
    assert accuracy[1] < 0.9
