"""Runs on mathematics, small: what they leave, resuming, the documented command and keys, what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import metrics

from core import hf
from core.config import resolve
from downstream import cli
from downstream.semantic.config import MathConfig

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "downstream" / "semantic" / "configs"
SMALL = {
    "gpt2_size": "2_4_16",
    "seq_length": 64,
    "batch_size": 4,
    "max_steps": 12,
    "passes": "null",
    "learning_rate": 1e-2,
    "eval_steps": 6,
    "save_steps": 3,
    "log_every_steps": 2,
    "device": "cpu",
}


def words(**keys) -> list[str]:
    return [f"--{key}={value}" for key, value in keys.items()]


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def train(tmp_path, archive):
    def train(name: str = "run", **changes) -> Path:
        keys = {"data": archive, "prepared_dir": tmp_path / "prepared", **SMALL, **changes}
        assert cli.main(["math", *words(**keys, save_dir=tmp_path / name)]) == 0
        return tmp_path / name

    return train


def test_a_rehearsal_writes_nothing_and_uses_what_is_ready(train, archive, tmp_path, capsys):
    keys = words(**SMALL, data=archive, save_dir=tmp_path / "other", prepared_dir=tmp_path / "prepared")
    assert cli.main(["math", "--dry_run", *keys]) == 0
    assert "prepared: for this rehearsal alone" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    train()
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert cli.main(["math", "--dry_run", *keys]) == 0
    assert f"prepared: {tmp_path}/prepared/mathematics-" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_reports_interpolation_and_extrapolation_apart_and_every_module(train, capsys):
    folder = train()
    rows = summary(folder)["evaluation"]
    assert [(row["split"], row["regime"], row.get("module")) for row in rows] == [
        ("validation", "interpolate", None),
        ("validation", "extrapolate", None),
        ("test", "interpolate", None),
        ("test", "extrapolate", None),
        ("test", "interpolate", "add_0"),
        ("test", "interpolate", "add_1"),
        ("test", "extrapolate", "add_big"),
    ]
    assert all({"loss", "perplexity", "accuracy", "exact_match"} <= row.keys() for row in rows)
    data = summary(folder)["data"]
    assert data["problems"] == {
        "train-easy": 37, "train-medium": 37, "train-hard": 15, "interpolate": 15, "extrapolate": 5
    }  # fmt: skip
    assert data["passes"] > 1
    assert "add_big" in capsys.readouterr().out


def test_the_loss_falls(train):
    losses = [row["loss"] for row in metrics(train(max_steps=60)) if row["split"] == "train"]
    assert losses[-1] < losses[0] - 1


def test_the_loss_does_not_depend_on_how_a_batch_is_cut(train):
    whole, cut = train("whole", dropout=0), train("cut", dropout=0, batch_size=2, gradient_accumulation_steps=2)
    for one, other in zip(metrics(whole), metrics(cut), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_what_is_evaluated_does_not_depend_on_the_seed(train):
    one, other = summary(train("one", seed=1))["data"], summary(train("other", seed=2))["data"]
    assert one["validation"] == other["validation"]
    assert one["test"] == other["test"]


def test_transfer_takes_attention_mlps_and_layer_norms_by_default_and_freezes_what_is_not_to_be_trained(
    train, pretrained
):
    source = pretrained()
    folder = train(pretrained_model=source, weights_to_be_trained="embed", gpt2_size="null")
    before, after = (dict(hf.load(path).named_parameters()) for path in (source, folder / "checkpoint-12"))
    for name in before:
        if ".attn." in name or ".mlp." in name or "ln_" in name:
            assert torch.equal(before[name], after[name]), name
    became = {row["group"]: (row["became"], row["then"]) for row in summary(folder)["transfer"]}
    assert became["attn.qkv"] == ("copied", "frozen")
    assert became["wte"] == ("skipped", "trained")


def test_a_run_ends_below_a_perplexity(train):
    result = summary(train(early_stopping_perplexity=1000))
    assert (result["stopped"], result["step"]) == ("perplexity", 6)


@pytest.mark.parametrize("form", [{"end_token": "false"}, {"isolated": "true"}, {"positions": "rope"}])
def test_other_forms_train(train, form):
    model = hf.load(train(**form) / "checkpoint-12")
    assert model.config.num_tokens == (99 if "end_token" in form else 100)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_bit_identical(train, tmp_path, archive):
    changes = {**SMALL, "max_steps": 30, "dropout": 0.1}
    whole = train("whole", **changes)
    keys = {"data": archive, "prepared_dir": tmp_path / "prepared", **changes, "save_dir": tmp_path / "killed"}
    command = [sys.executable, ROOT / "tests" / "support" / "kill_and_resume.py", "5", "3", "downstream.cli", "math"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *words(**keys), "--resume"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "killed 3 times" in done.stdout
    for file in ("metrics.jsonl", "checkpoint-30/model.safetensors", "checkpoint-30/optimizer.safetensors"):
        assert (whole / file).read_bytes() == (tmp_path / "killed" / file).read_bytes(), file


def test_other_problems_than_before_are_refused_on_resume(train, archive, tmp_path, capsys):
    folder = train()
    keys = {"data": archive, "prepared_dir": tmp_path / "prepared", **SMALL, "eval_problems": 1}
    assert cli.main(["math", *words(**keys, save_dir=folder), "--resume"]) == 2
    assert "eval_problems: the run in" in capsys.readouterr().err


# The documented command and keys


@pytest.mark.slow
def test_the_documented_script_runs_from_anywhere(tmp_path, archive, pretrained):
    command = [sys.executable, str(ROOT / "downstream/semantic/deepmind_math.py")]
    command += ["--config", str(CONFIGS / "deepmind_math.yaml"), "--pretrained_model", str(pretrained())]
    command += words(train_dir=archive, validation_dir=archive / "interpolate", test_dir=archive / "extrapolate")
    command += ["--max_train_steps=2", "--train_batch_size=2", "--passes=null", "--seq_length=64", "--device=cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path / "results/semantic/deepmind_math")["evaluation"][0]["regime"] == "interpolate"


@pytest.mark.parametrize(
    ("file", "tokens"), [("deepmind_math.yaml", 204_800_000), ("deepmind_math_paper.yaml", 1_638_400_000)]
)
def test_shipped_configurations_have_the_documented_budget(file, tokens):
    config = resolve(lambda values: MathConfig, str(CONFIGS / file), {})
    assert config.rows(1) * config.seq_length == tokens
    documented = {"learning_rate": 5e-5, "weight_decay": 0.01, "warmup_steps": 0, "seed": 42, "lr_schedule": "cosine"}
    assert {key: getattr(config, key) for key in documented} == documented


# What is refused


REFUSED = [
    ({"seq_length": 10}, ["seq_length: 10 is too short; the longest problem has 24 tokens"]),
    ({"data": "{tmp}/none"}, ["{tmp}/none/train-easy does not exist", "make_mathematics.py"]),
    ({"test_dir": "{tmp}/none"}, ["{tmp}/none does not exist"]),
    ({"passes": 1}, ["passes: 12 updates go", "1 allowed; set max_steps"]),
    ({"batch_siz": 1}, ["--batch_siz: no such key. Did you mean batch_size?"]),
    ({"max_eval_steps": 5}, ["--max_eval_steps: is no key any more; write eval_windows, or for mathematics"]),
    ({"mixed_precision": "fp16"}, ["--mixed_precision: is no key any more; write precision"]),
    ({"train_batch_size": 3}, ["--train_batch_size: stands twice, also as --batch_size"]),
    ({"lr": "high"}, ["--lr: stands twice"]),
    ({"end_token": "maybe"}, ["--end_token: 'maybe' is not allowed; it takes true or false"]),
    ({"gpt2_size": "big"}, ["--gpt2_size: 'big' is not a size"]),
    ({"early_stopping_perplexity": 1}, ["--early_stopping_perplexity: 1 is not allowed"]),
    ({"pretrained_model": "{tmp}/none"}, ["pretrained_model: {tmp}/none does not exist"]),
    ({"weights_to_transfer": "attn"}, ["weights_to_be_transferred is ['attn']", "does not say where from"]),
    ({"warmup_steps": 12}, ["warmup_steps is 12"]),
]


@pytest.mark.parametrize(("changes", "parts"), REFUSED, ids=[str(changes) for changes, _ in REFUSED])
def test_a_wrong_key_is_refused_in_one_line(tmp_path, archive, capsys, changes, parts):
    keys = {"data": archive, "prepared_dir": tmp_path / "prepared", **SMALL, **changes}
    keys = {key: str(value).format(tmp=tmp_path) for key, value in keys.items()}
    assert cli.main(["math", *words(**keys, save_dir=tmp_path / "run")]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert all(part.format(tmp=tmp_path) in line for part in parts), line
    assert not (tmp_path / "run").exists()


def test_an_empty_data_set_is_refused(tmp_path, capsys):
    for folder in ("train-easy", "interpolate"):
        (tmp_path / folder).mkdir()
    assert cli.main(["math", *words(**SMALL, data=tmp_path, prepared_dir=tmp_path / "p", save_dir=tmp_path / "r")]) == 2
    assert "train-easy holds no .txt files" in capsys.readouterr().err


def test_training_problems_that_are_all_test_questions_are_refused(tmp_path, capsys):
    for folder, text in (("train-easy", "1+1?\n2\n"), ("interpolate", "1+1?\n2\n1+2?\n3\n")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "sums.txt").write_text(text)
    keys = {**SMALL, "data": tmp_path / "data", "prepared_dir": tmp_path / "prepared", "save_dir": tmp_path / "run"}
    assert cli.main(["math", *words(**keys)]) == 2
    error = capsys.readouterr().err
    assert f"error: {tmp_path}/data: its training problems are all test questions; none is left to train on" in error
    assert not (tmp_path / "run").exists()
