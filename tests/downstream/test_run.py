"""Whole runs, small: what is transferred and trained, what they leave, resuming, the documented command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import metrics

from core import hf
from core.config import resolve
from downstream import cli
from downstream.algorithmic_tasks import run
from downstream.algorithmic_tasks.config import AlgorithmicConfig
from downstream.algorithmic_tasks.experiment_stream import as_flags

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "downstream" / "algorithmic_tasks" / "configs"


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(hf.load(folder).named_parameters())


def test_a_run_leaves_a_test_result_beside_its_floors_and_the_fate_of_every_parameter(train, pretrained, capsys):
    folder = train(pretrained_model_path=pretrained())
    result = summary(folder)
    validation, test = result["evaluation"]
    assert (validation["split"], test["split"]) == ("validation", "test")
    names = ("accuracy", "exact_match", "documented_accuracy")
    assert {"loss", *names, *(f"{name}_floor" for name in names)} <= test.keys()
    groups = {row["group"]: row for row in result["transfer"]}
    assert groups["attn.qkv"]["became"] == "copied"
    assert groups["wte"]["became"] == groups["head"]["became"] == "mean of 102 rows"
    said = capsys.readouterr().out
    assert "mean of 102 rows" in said
    assert str(folder / "checkpoint-20") in said
    assert result["parameters"] == sum(int(row["parameters"].replace(",", "")) for row in groups.values())


def test_frozen_parts_stay_as_they_were_transferred(train, pretrained):
    source = pretrained()
    folder = train(
        pretrained_model_path=source,
        weights_to_be_transferred="attn,ffn",
        weights_to_be_trained="embed,ln",
        learning_rate=0.1,
        warmup_steps=0,
    )
    before, after = weights(source), weights(folder / "checkpoint-20")
    for name in before:
        if ".attn." in name or ".mlp." in name:
            assert torch.equal(before[name], after[name]), name
    assert not torch.equal(after["blocks.0.ln_1.weight"], torch.ones(16))


def test_attention_of_one_checkpoint_and_mlp_of_another(pretrained):
    one, other = pretrained("one"), pretrained("other", num_tokens=9)
    config = resolve(
        lambda values: AlgorithmicConfig,
        None,
        {
            "task": "sorting_3",
            "pretrained_model_path": str(one),
            "weights_to_be_transferred": "attn",
            "second_model_path": str(other),
            "second_weights_to_be_transferred": "ffn",
        },
    )
    model, fates = run.build_model(config, run.read_parts(config), config.shape)
    for name, parameter in model.named_parameters():
        source = one if ".attn." in name else other if ".mlp." in name else None
        assert fates.fates[name].source == (str(source) if source else "-")
        assert source is None or torch.equal(parameter, weights(source)[name]), name


def test_an_earlier_file_is_read_once_its_heads_are_told(train, pretrained, tmp_path):
    source = pretrained()
    torch.save({"model": hf.weights_to_hf(hf.load(source)), "step": 2500}, tmp_path / "set_model.pth")
    ends = [
        train(name, pretrained_model_path=path, n_head=4)
        for name, path in (("folder", source), ("file", tmp_path / "set_model.pth"))
    ]
    folder, file = (weights(end / "checkpoint-20") for end in ends)
    assert all(torch.equal(folder[name], file[name]) for name in folder)


def test_a_run_goes_on_with_the_same_weights_wherever_they_lie_and_with_no_others(train, pretrained, tmp_path, capsys):
    source = pretrained()
    folder = train(pretrained_model_path=source)
    whole = weights(folder / "checkpoint-20")
    shutil.rmtree(folder / "checkpoint-20")
    capsys.readouterr()
    train(pretrained_model_path=pretrained("other", num_tokens=9), resume=True, status=2)
    error = capsys.readouterr().err
    assert f"pretrained_model_path: the run in {folder} was started with 'weights " in error
    moved = os.path.relpath(source.rename(tmp_path / "moved"))
    train(pretrained_model_path=moved, resume=True)
    assert "checkpoint-15 at step 15 of 20" in capsys.readouterr().out
    assert all(torch.equal(whole[name], after) for name, after in weights(folder / "checkpoint-20").items())


@pytest.mark.parametrize("control", ["shuffle_weights", "reinit"])
def test_controls_reach_the_model(train, pretrained, control):
    folder = train(pretrained_model_path=pretrained(), transfer_control=control)
    word = {"shuffle_weights": "shuffled", "reinit": "re-drawn"}[control]
    assert word in {row["became"] for row in summary(folder)["transfer"]}


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (2, 4, 16, 40)),
        ({"task": "condattendstream_30"}, (2, 4, 16, 100)),
        ({"task": "multiplication_5"}, (4, 8, 512, 40)),
        ({"task": "additionstream_13"}, (2, 4, 16, 43)),
        ({"n_embd": 32, "n_positions": 90}, (2, 4, 32, 90)),
        ({"pretrained": {"n_layer": 3, "n_embd": 24, "positions": "rope"}}, (3, 4, 24, 40)),
    ],
)
def test_the_model_is_as_told_else_as_the_checkpoint_else_as_the_family(pretrained, changes, shape):
    changes = dict(changes)
    if "pretrained" in changes:
        changes["pretrained_model_path"] = str(pretrained(**changes.pop("pretrained")))
    given = {"task": "forwardaddition_5", **{key: str(value) for key, value in changes.items()}}
    config = resolve(lambda values: AlgorithmicConfig, None, given)
    model, _ = run.build_model(config, run.read_parts(config), config.shape)
    assert (model.config.n_layer, model.config.n_head, model.config.n_embd, model.config.n_positions) == shape
    assert model.config.positions == ("rope" if "pretrained_model_path" in changes else "learned")


def test_seeds_differ_in_everything_and_repeat_exactly(train):
    one, again, other = train("one", seed=1), train("again", seed=1), train("other", seed=2)
    assert (one / "metrics.jsonl").read_bytes() == (again / "metrics.jsonl").read_bytes()
    assert summary(one)["evaluation"] == summary(again)["evaluation"]
    assert metrics(one)[-1]["loss"] != metrics(other)[-1]["loss"]


def test_the_documented_mask_trains_on_other_positions_and_is_scored_the_same_way(train):
    plain, documented = train("plain"), train("documented", mask="documented")
    assert metrics(plain)[0] == metrics(documented)[0], "the same model and validation before training"
    losses = [[row["loss"] for row in metrics(folder) if row["split"] == "train"] for folder in (plain, documented)]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_a_model_learns_to_add(train):
    folder = train(
        task="forwardaddition_1", max_steps=400, batch_size=64, learning_rate=0.01, n_embd=32, eval_steps=200
    )
    test = summary(folder)["evaluation"][-1]
    assert test["accuracy"] > test["accuracy_floor"] + 0.1
    assert test["loss"] < 1.5


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_bit_identical(train, pretrained, tmp_path):
    source = pretrained()
    changes = {
        "pretrained_model_path": source,
        "embedding_init_strategy": "average_noise",
        "weights_to_be_trained": "attn,embed",
        "dropout": 0.1,
        "max_steps": 60,
    }
    whole = train("whole", **changes)
    words = [f"--{key}={value}" for key, value in changes.items()]
    script = ROOT / "tests" / "support" / "kill_and_resume.py"
    command = [sys.executable, script, "3", "4", "downstream.cli", "algorithmic", "--task=forwardaddition_2", *words]
    command += ["--batch_size=16", "--eval_steps=10", "--save_steps=5", "--eval_size=50", "--validation_size=50"]
    command += ["--log_every_steps=5", "--device=cpu", f"--save_dir={tmp_path}", "--run_name=killed", "--resume"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "killed 4 times" in done.stdout
    for file in ("metrics.jsonl", "checkpoint-60/model.safetensors", "checkpoint-60/optimizer.safetensors"):
        assert (whole / file).read_bytes() == (tmp_path / "killed" / file).read_bytes(), file
    ends = [summary(folder)["evaluation"] for folder in (whole, tmp_path / "killed")]
    assert ends[0] == ends[1]


# The commands and keys of the documentation


@pytest.mark.slow
def test_the_script_takes_its_configuration_as_a_word(tmp_path, pretrained):
    """From another folder, as a script, with the documented spelling of flags."""
    command = [sys.executable, str(ROOT / "downstream/algorithmic_tasks/experiment_stream.py")]
    command += [str(CONFIGS / "procedural.yaml"), f"--pretrained_model_path={pretrained()}"]
    command += ["--max_steps=3", "--batch_size=8", "--eval_size=20", "--validation_size=20", "--device=cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "results" / "algorithmic_tasks").iterdir()
    assert folder.name.startswith("forwardaddition_5__0_")
    assert summary(folder)["evaluation"][-1]["split"] == "test"


def test_the_word_may_come_first_only():
    assert as_flags(["a.yaml", "--seed=1"]) == ["--config", "a.yaml", "--seed=1"]
    assert as_flags(["--config", "a.yaml"]) == ["--config", "a.yaml"]
    assert as_flags([]) == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            "procedural.yaml",
            {
                "task": "forwardaddition_5",
                "seed": 0,
                "weights_to_be_transferred": ["everything"],
                "weights_to_be_trained": ["everything"],
                "embedding_init_strategy": "average",
                "wandb_project": "algorithmic_tasks",
            },
        ),
        ("baseline.yaml", {"task": "condattendstream_30", "seed": 42, "pretrained_model_path": None}),
    ],
)
def test_shipped_configurations_have_the_documented_values(file, expected):
    config = resolve(lambda values: AlgorithmicConfig, str(CONFIGS / file), {})
    assert {key: getattr(config, key) for key in expected} == expected
    assert (config.updates, config.warmup, config.micro_batch) == (10_000, 500, 1000)
    assert (config.learning_rate, config.weight_decay, config.min_lr_ratio) == (1e-3, 1e-3, 0)
    assert (config.eval_size, config.save_steps, config.save_total_limit) == (4000, 600, 3)


def test_multiplication_has_its_documented_budget():
    config = resolve(lambda values: AlgorithmicConfig, None, {"task": "multiplication_5"})
    assert (config.updates, config.micro_batch, config.eval_every) == (156_250, 64, 40)


def test_a_rehearsal_writes_nothing(tmp_path, pretrained, capsys):
    source = pretrained()
    before = sorted(tmp_path.rglob("*"))
    words = ["--task", "sorting_4", "--pretrained_model_path", str(source), "--device", "cpu"]
    assert cli.main(["algorithmic", "--dry_run", *words, "--save_dir", str(tmp_path / "runs")]) == 0
    assert "tokens per update" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
