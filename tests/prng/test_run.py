"""Whole runs, small: the documented commands, what they leave, resuming, ranks, fine-tuning, plots."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import types
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib import pyplot
from small_runs import metrics
from transformers import AutoModelForCausalLM

from core import checkpoint, hf
from prng import cli, curriculum_lowmem, parameters, plots, prng_train_lowmem, run
from prng.config import TrainConfig

ROOT = Path(__file__).parents[2]
SMALLER = [
    "--n_layer",
    "1",
    "--n_head",
    "2",
    "--n_embd",
    "16",
    "--seq_len",
    "9",
    "--batch_size",
    "4",
    "--device",
    "cpu",
]
SMALLER += ["--n_a", "6", "--n_c", "6", "--n_test_a", "3", "--n_test_c", "2", "--eval_interval", "10"]
COMMAND = """
--eval_interval 2000 --num_workers 8 --m 262144 --type XSLRR --n_layer 4 --n_head 8 --n_embd 1024 --seq_len 513
--batch_size 512 --grad_acc_steps 1 --lr_trgt 0.0005 --weight_decay 0.1 --data_seed 1 --main_seed 1
--n_a 1024 --n_c 1024 --n_example 1 --n_test_a 128 --n_test_c 64 --num_steps 400000 --warm_steps 5000
--save_correctness --save_params --save_checkpoints --digits 1 --base 512 --bits_to_keep 9 --control_bits 3
"""
DOCUMENTED_TRAIN = shlex.split(COMMAND)
PHASES = [  # two, the first with a transition from its first update to its last
    {
        "phase_steps": 40,
        "transition_steps": 40,
        "warmup_steps": 5,
        "start_weights": [0.9, 0.1],
        "end_weights": [0.1, 0.9],
    },
    {"phase_steps": 20, "lr_decay": "cosine", "end_weights": [0, 1], "name": "end"},
]
CURRICULUM = ["--type", "LCG+XSLRR", "--moduli", "2**6,2**8", "--control_bits", "1,2", "--phases", json.dumps(PHASES)]
CURRICULUM += ["--sampler_update_interval", "3", "--grad_acc_steps", "2", "--dropout", "0.1", "--lr_trgt", "1e-2"]
CURRICULUM += ["--save_checkpoints", "--checkpoint_interval", "7", "--save_correctness", "--n_example", "2", *SMALLER]


def replaced(words: list[str], **changes: str) -> list[str]:
    words = list(words)
    for key, value in changes.items():
        words[words.index(f"--{key}") + 1] = value
    return words


@pytest.fixture
def train(tmp_path):
    """Runs a verb in `tmp_path/NAME` and returns the folder; the exit status must be as expected."""

    def train(name: str, *words: str, verb: str = "train", status: int = 0) -> Path:
        assert cli.main([verb, *words, "--results_dir", str(tmp_path), "--experiment_name", name]) == status
        return tmp_path / name

    return train


def assert_same_end(one: Path, other: Path, step: int) -> None:
    for name in ("metrics.jsonl", f"checkpoint-{step}/model.safetensors", f"checkpoint-{step}/optimizer.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    with np.load(one / "correctness.npz") as a, np.load(other / "correctness.npz") as b:
        assert all(np.array_equal(a[key], b[key], equal_nan=a[key].dtype.kind == "f") for key in a)


# --- The documented commands


def test_the_documented_command_trains_on_one_modulus(tmp_path, monkeypatch):
    smaller = {"num_steps": "20", "warm_steps": "5", "n_layer": "1", "n_head": "2", "n_embd": "32", "seq_len": "17"}
    smaller |= {"batch_size": "8", "n_test_a": "4", "n_test_c": "3", "eval_interval": "10", "num_workers": "1"}
    words = [*replaced(DOCUMENTED_TRAIN, **smaller), "--results_dir", str(tmp_path), "--device", "cpu"]
    script = ROOT / "prng" / "prng_train_lowmem.py"
    done = subprocess.run([sys.executable, script, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run_dir,) = tmp_path.iterdir()
    assert run_dir.name.startswith("XSLRR_m262144_")
    assert len(run_dir.name) < 40
    kept = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert (kept["num_steps"], kept["base"], kept["bits_to_keep"], kept["control_bits"]) == (20, 512, 9, [3])
    for name in ("correctness.npz", "ac_values.npz", "params/model.safetensors", "plots/curves.png", "checkpoint-20"):
        assert (run_dir / name).exists(), name
        assert name.partition("/")[0].partition(".")[0] in done.stdout or name.startswith("plots")
    rows = metrics(run_dir)
    assert {row["step"] for row in rows if row["split"] == "test"} == {0, 10, 20}
    assert len([row for row in rows if row["step"] == 20 and row["split"] == "test"]) == 4


def test_every_flag_of_the_documented_command_means_what_it_says():
    from core.config import read_flags, resolve

    read = resolve(lambda values: TrainConfig, None, read_flags(DOCUMENTED_TRAIN))
    for key, text in read_flags(DOCUMENTED_TRAIN).items():
        value = getattr(read, key)
        assert (
            str(value) == text or value == [int(text)] if key == "control_bits" else str(value) in (text, text.title())
        )
    assert read.model_shape.num_tokens == 512
    assert read.model_shape.n_positions == 512


def test_the_documented_curriculum_trains(tmp_path):
    script = ROOT / "prng" / "curriculum_lowmem.py"
    phases = [{**phase, "phase_steps": 10, "warmup_steps": 2, "transition_steps": 5} for phase in PHASES]
    words = [*SMALLER, "--phases", json.dumps(phases), "--results_dir", str(tmp_path), "--lr_min", "1e-7"]
    command = [sys.executable, script, "--config", "configs/curriculum.yaml", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run_dir,) = tmp_path.iterdir()
    assert run_dir.name.startswith("XSLRR_m65536-262144_")
    ours = hf.load(run_dir / "checkpoint-20").eval()
    theirs = AutoModelForCausalLM.from_pretrained(run_dir / "params").eval()
    ids = torch.randint(0, 1024, (2, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=0)
    assert {row["phase"] for row in metrics(run_dir)} == {"phase 1", "end"}
    assert {row.get("m") for row in metrics(run_dir) if row["split"] == "test"} == {65536, 262144, None}


def test_the_documented_yaml_has_the_documented_values(capsys):
    assert (
        curriculum_lowmem.main(["curriculum", "--config", str(ROOT / "configs/curriculum.yaml"), "--print_config"]) == 0
    )
    read = yaml.safe_load(capsys.readouterr().out)
    expected = {"n_layer": 4, "n_head": 8, "n_embd": 1024, "type": "XSLRR", "vocab_size": 1024, "base": 1024}
    expected |= {"seq_len": 513, "control_bits": [3], "n_a": 1024, "n_c": 1024, "n_test_a": 128, "n_test_c": 64}
    expected |= {"moduli": [2**16, 2**18], "bits_to_keep": [8, 9], "sampler_update_interval": 100, "lr_min": 1e-7}
    expected |= {"batch_size": 256, "eval_interval": 200, "lr_trgt": 5e-4, "data_seed": 2, "checkpoint_interval": 1000}
    expected |= {"save_checkpoints": True, "results_dir": "results/FT", "wandb_project": "prng_curriculum"}
    assert {key: read[key] for key in expected} == expected
    first, second = read["phases"]
    assert (first["phase_steps"], first["transition"], first["start_weights"]) == (4000, "exp", [0.001, 0.999])
    assert (second["phase_steps"], second["lr_decay"], second["end_weights"]) == (1000, "cosine", [0, 1])


@pytest.mark.parametrize("heading", ["output", "training"])
def test_checkpoints_are_asked_for_under_either_heading(tmp_path, heading):
    path = tmp_path / "c.yaml"
    path.write_text(f"{heading}:\n  save_checkpoints: true\n  checkpoint_interval: 8\ndata:\n  m: 2**8\n")
    words = [
        "--config",
        str(path),
        "--num_steps",
        "20",
        *SMALLER,
        "--results_dir",
        str(tmp_path),
        "--experiment_name",
        "r",
    ]
    assert prng_train_lowmem.main(["train", *words]) == 0
    assert checkpoint.list_steps(tmp_path / "r") == [8, 16, 20]


def test_steps_and_learning_rates_are_exact_with_accumulation(train):
    words = ["--m", "256", "--num_steps", "25", "--warm_steps", "5", "--grad_acc_steps", "3", "--log_every_steps", "1"]
    rows = metrics(train("run", *words, *SMALLER))
    training = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in training] == list(range(1, 26))
    assert [row["examples"] for row in training] == [12 * step for step in range(1, 26)]
    assert training[0]["lr"] == pytest.approx(1e-7)
    assert training[5]["lr"] == 1e-3
    assert training[15]["lr"] == pytest.approx((1e-3 + 1e-7) / 2)
    assert all(a["lr"] > b["lr"] for a, b in pairwise(training[5:]))
    assert training[0]["loss"] == pytest.approx(np.log(256), abs=0.2)


@pytest.mark.parametrize(("digits", "no_rope"), [(2, True), (2, False), (1, True)])
def test_digits_and_positions_train_and_come_back(train, digits, no_rope):
    words = ["--m", "2**10", "--digits", str(digits), *(["--no_rope"] if no_rope else []), "--num_steps", "20"]
    run_dir = train("run", *words, *SMALLER, "--save_checkpoints", "--checkpoint_interval", "12", "--save_correctness")
    model = hf.load(run_dir / "checkpoint-20")
    assert model.config.num_tokens == (32 if digits == 2 else 1024)
    assert model.config.n_positions == 9 * digits - 1
    assert model.config.tokens_per_number == (digits if no_rope else 1)
    shutil.copytree(run_dir, run_dir.with_name("again"), symlinks=True)
    again = run_dir.with_name("again")
    shutil.rmtree(again / "checkpoint-20")
    train(
        "again", *words, *SMALLER, "--save_checkpoints", "--checkpoint_interval", "12", "--save_correctness", "--resume"
    )
    assert_same_end(run_dir, again, 20)


# --- Resume and ranks


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_bit_identical(train, tmp_path, seed):
    """40 of the 60 updates lie in a transition of the weights."""
    whole = train("whole", *CURRICULUM, verb="curriculum")
    script = ROOT / "tests" / "support" / "kill_and_resume.py"
    words = ["curriculum", *CURRICULUM, "--results_dir", str(tmp_path), "--experiment_name", "killed", "--resume"]
    command = [sys.executable, script, str(seed), "8", "prng.cli", *words]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "killed 8 times" in done.stdout
    assert_same_end(whole, tmp_path / "killed", 60)


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_accumulation(train, tmp_path):
    words = [*replaced(CURRICULUM, dropout="0.0"), "--log_every_steps", "1"]
    one = train("one", *words, verb="curriculum")
    words = replaced(words, grad_acc_steps="1")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    command += ["-m", "prng.cli", "curriculum", *words, "--results_dir", str(tmp_path), "--experiment_name", "two"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    a, b = metrics(one), metrics(tmp_path / "two")
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        for key in ("step", "examples", "tokens", "split", "cell", "generator"):
            assert left.get(key) == right.get(key)
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--lr_trgt", "2e-3"], ["lr_trgt: the run in"]),
        (["--data_seed", "2"], ["data_seed", "ac_values"]),
        (["--n_a", "7"], ["n_a", "ac_values"]),
        (["--grad_acc_steps", "2"], ["examples_per_update"]),
    ],
)
def test_a_changed_run_is_refused_on_resume(train, capsys, changes, words):
    train("run", "--m", "256", "--num_steps", "20", *SMALLER)
    keys = [word for word in changes if word.startswith("--")]
    rest = [w for i, w in enumerate(SMALLER) if w not in keys and (i == 0 or SMALLER[i - 1] not in keys)]
    train("run", "--m", "256", "--num_steps", "20", *rest, *changes, "--resume", status=2)
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


def test_a_run_whose_excluded_files_changed_is_refused_on_resume(train, tmp_path, capsys):
    words = ["--m", "2**9", "--num_steps", "20", *SMALLER, "--exclude_ac_paths", str(tmp_path / "*.npz")]
    np.savez(tmp_path / "used.npz", train_a=np.array([5]))
    train("run", *words)
    np.savez(tmp_path / "more.npz", train_a=np.arange(5, 300, 4))
    train("run", *words, "--resume", status=2)
    assert "ac_values: the run in" in capsys.readouterr().err


def test_a_glob_that_covers_the_run_itself_means_the_others(train, tmp_path):
    words = ["--m", "2**9", "--num_steps", "11", *SMALLER]
    train("first", *words)
    words += ["--exclude_ac_paths", str(tmp_path / "*" / "ac_values.npz")]
    run_dir = train("second", *words)
    before = parameters.load(run_dir / "ac_values.npz")
    train("second", *words, "--resume")
    assert parameters.load(run_dir / "ac_values.npz") == before


def test_a_second_run_excludes_what_the_first_has_used(train, tmp_path):
    words = ["--m", "2**9", "--num_steps", "11", *SMALLER]
    (first,) = parameters.load(train("first", *words) / "ac_values.npz")
    (second,) = parameters.load(
        train("second", *words, "--exclude_ac_paths", str(tmp_path / "first") + "/ac_values.npz") / "ac_values.npz"
    )
    assert not {*first.train_a, *first.test_a} & {*second.train_a, *second.test_a}
    assert not {*first.train_c, *first.test_c} & {*second.train_c, *second.test_c}


# --- Fine-tuning


def test_fine_tuning_starts_from_the_trained_weights_with_a_larger_vocabulary(train, tmp_path, monkeypatch, capsys):
    old = train("old", "--m", "2**8", "--num_steps", "20", *SMALLER)
    words = ["--m", "2**9", "--num_steps", "20", "--lr_trgt", "1e-20", "--lr_min", "0", "--weight_decay", "0"]
    words += ["--pretrained_path", str(old / "checkpoint-20"), "--pretrain_m", "256"]
    longer = replaced(SMALLER, seq_len="13")
    new = hf.load(train("new", *words, *longer) / "checkpoint-20")
    before = hf.load(old / "checkpoint-20")
    for name, parameter in before.named_parameters():
        assert torch.equal(dict(new.named_parameters())[name][: len(parameter)], parameter), name
    assert new.config.num_tokens == 512
    assert new.config.n_positions == 12
    # a resumed run does not need the old one any more, and does not start over from it
    shutil.rmtree(old)
    train("new", *words, *longer, "--resume")
    # and knows it under any spelling, but no other
    monkeypatch.chdir(tmp_path)
    place = words.index("--pretrained_path") + 1
    train("new", *replaced(words, pretrained_path="old/checkpoint-20"), *longer, "--resume")
    train("new", *replaced(words, pretrained_path="old/checkpoint-10"), *longer, "--resume", status=2)
    assert f"was started with {words[place]!r}, now it is 'old/checkpoint-10'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pretrained_path": "{old}/nothing"}, "does not exist"),
        ({"pretrained_path": "{old}/config.yaml"}, "is a file"),
        ({"pretrained_path": "{old}"}, "is a run's folder, take one of its checkpoints, such as"),
        ({"pretrained_path": "{old}", "pretrain_m": "256"}, "is a run's folder, take one of its checkpoints, such as"),
        ({"pretrain_m": "512"}, "was trained on moduli up to 256"),
        ({"n_embd": "32"}, "n_embd is 16, not 32"),
        ({"no_rope": "true"}, "positions is rope, not learned"),
        ({"m": "2**7"}, "num_tokens is 256, more than 128"),
        ({"digits": "2", "m": "2**20"}, "has digits to base 256"),
    ],
)
def test_what_cannot_be_loaded_is_an_error_and_no_random_start(train, tmp_path, capsys, changes, words):
    old = train("old", "--m", "2**8", "--num_steps", "20", *SMALLER)
    flags = dict(zip(SMALLER[::2], SMALLER[1::2], strict=True)) | {"--m": "2**9", "--num_steps": "20"}
    flags |= {"--pretrained_path": str(old / "checkpoint-20")}
    flags |= {f"--{key}": value.format(old=old) for key, value in changes.items()}
    train("new", *[word for pair in flags.items() for word in pair], status=2)
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not checkpoint.list_steps(tmp_path / "new")


def test_a_run_of_another_command_is_told_in_one_line(train, tmp_path, capsys):
    other = train("other", "--m", "256", "--num_steps", "20", *SMALLER)
    (other / "config.yaml").write_text("task: sort\nseed: 1\nlr: 0.1\n")
    train("new", "--m", "256", "--num_steps", "20", *SMALLER, "--pretrained_path", str(other / "best"), status=2)
    assert cli.main(["evaluate", "--checkpoint", str(other / "best")]) == 2
    assert cli.main(["plot", str(other)]) == 2
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")] == [
        "error: config.yaml beside the checkpoint has no main_seed: it is of no PRNG run"
    ] * 3


# --- Afterwards


def test_evaluating_a_checkpoint_gives_what_the_run_measured(train, capsys):
    run_dir = train("run", *CURRICULUM, verb="curriculum")
    expected = json.loads((run_dir / "summary.json").read_text())["evaluation"]
    capsys.readouterr()
    assert cli.main(["evaluate", "--checkpoint", str(run_dir / "checkpoint-60"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 + len(expected) + 1
    assert len(expected) == 1 + 2 * 3 * 4
    for line, row in zip(said[1:], expected, strict=False):
        assert f"{row['loss']:.4f}" in line
        assert row["generator"] in line
    with np.load(run_dir / "correctness.npz") as a, np.load(run_dir / "correctness_checkpoint-60.npz") as b:
        np.testing.assert_allclose(a["by_number"], b["by_number"])
    (run_dir / ".correctness_checkpoint-60.npz.partial").mkdir()  # stands for a folder that must not be written
    assert cli.main(["evaluate", "--checkpoint", str(run_dir / "checkpoint-60"), "--device", "cpu"]) == 1
    assert capsys.readouterr().out.splitlines() == said[:-1], "what was measured is lost"


def test_the_weights_alone_are_measured_and_trained_on_like_the_last_checkpoint(train, capsys):
    words = ["--m", "256", "--num_steps", "10", "--warm_steps", "2", *SMALLER]
    run_dir = train("run", *words, "--save_params")
    tables = []
    for name in ("checkpoint-10", "params"):
        capsys.readouterr()
        assert cli.main(["evaluate", "--checkpoint", str(run_dir / name), "--device", "cpu"]) == 0
        tables.append(capsys.readouterr().out.partition("by position")[0])
    assert tables[0] == tables[1]
    further = [train(name, *words, "--pretrained_path", str(run_dir / name)) for name in ("checkpoint-10", "params")]
    one, other = ((path / "checkpoint-10" / "model.safetensors").read_bytes() for path in further)
    assert one == other


@pytest.mark.pictures
def test_plots_are_drawn_from_any_checkpoint(train, capsys):
    runs = [train(f"run{n}", "--m", f"2**{n}", "--num_steps", "20", *SMALLER) for n in (6, 8)]
    words = [str(r) for r in runs]
    assert cli.main(["plot", *words, "--checkpoint", "20", "--device", "cpu", "--threshold", "1e-9"]) == 0
    assert (runs[0] / "plots" / "embedding_checkpoint-20.png").stat().st_size > 10_000
    assert (runs[1] / "plots" / "positions_checkpoint-20.png").stat().st_size > 10_000
    assert cli.main(["plot", words[0], "--checkpoint", "21", "--device", "cpu"]) == 2
    assert "holds checkpoints of steps: 20" in capsys.readouterr().err
    assert cli.main(["plot", f"{words[0]}/checkpoint-20", "--device", "cpu"]) == 2
    assert "is a checkpoint; give its run's folder" in capsys.readouterr().err


def test_many_generators_are_all_drawn_and_told_apart(train, monkeypatch):
    drawn = {}

    def draw(axis_of_each, path, **texts):
        _, axes = pyplot.subplots(1, len(axis_of_each))
        for axis, panel in zip(axes, axis_of_each, strict=True):
            panel(axis)
        drawn[path.name] = axes
        return path

    monkeypatch.setattr(plots, "draw_panels", draw)
    words = ["--type", "XSPCGs", "--moduli", "2**12,2**13,2**14", "--control_bits", "1,2", *SMALLER]
    run_dir = train("run", *words, "--phases", '[{"phase_steps": 2}]', "--eval_examples", "2", verb="curriculum")
    names = {generator.name for row in run.open_run(run_dir / "checkpoint-2")[0].generators for generator in row}
    assert len(names) == 18

    losses = [axis for axis in drawn["curves.png"] if axis.get_ylabel().startswith("loss")]
    labels = [text.removesuffix(", unseen a, unseen c") for axis in losses for text in _labels(axis)]
    assert sorted(set(labels) - {"training"}) == sorted(names)
    for axis in losses:
        assert len({line.get_color() for line in axis.lines}) == len(axis.lines), "two curves of one colour"

    assert cli.main(["plot", str(run_dir), "--device", "cpu"]) == 0
    titles = [axis.get_title() for name, axes in drawn.items() if name.startswith("positions") for axis in axes]
    assert sorted(titles) == sorted(names)
    pyplot.close("all")


def _labels(axis):
    return axis.get_legend_handles_labels()[1]


def test_generate_prints_the_numbers(capsys):
    words = "--type xshrr --m 2**64 --control_bits 5 --a 6364136223846793005 --c 109 --x0 151 --seq_len 2 --show hex"
    assert cli.main(["generate", *words.split()]) == 0
    assert capsys.readouterr().out == "a15c02b7\n7b47f409\n"
    assert cli.main(["generate", "--m", "16", "--a", "17", "--c", "1"]) == 2
    assert "a is 17, not below the modulus 16" in capsys.readouterr().err


def test_a_rehearsal_writes_nothing(tmp_path, capsys):
    assert cli.main(["train", "--m", "256", *SMALLER, "--results_dir", str(tmp_path / "x"), "--dry_run"]) == 0
    assert "expected duration" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_big_moduli_train_through_python_integers(train):
    words = ["--type", "XSLRR", "--m", "2**128", "--control_bits", "6", "--digits", "8", "--num_steps", "11"]
    run_dir = train("run", *words, *SMALLER)
    assert hf.load(run_dir / "checkpoint-11").config.num_tokens == 256
    (chosen,) = parameters.load(run_dir / "ac_values.npz")
    assert max(chosen.train_a) > 2**64


def test_the_values_of_a_run_are_those_its_configuration_chooses(train):
    run_dir = train("run", "--m", "2**9", "--num_steps", "11", *SMALLER)
    config, chosen = run.open_run(run_dir / "checkpoint-11")
    assert run.choose(config) == chosen


def test_a_run_does_not_keep_the_values_of_one_that_was_killed_before_its_first_checkpoint(train):
    words = ["--m", "256", "--num_steps", "10", "--warm_steps", "2", *SMALLER]
    run_dir = train("run", *words)
    shutil.rmtree(run_dir / "checkpoint-10")  # what is left of a run that is killed before it
    (run_dir / "best").unlink()
    train("run", *words, "--data_seed", "2")
    _, chosen = run.open_run(run_dir / "checkpoint-10")
    again = TrainConfig.model_validate(yaml.safe_load((run_dir / "config.yaml").read_text()))
    assert again.data_seed == 2
    assert chosen == run.choose(again)


def test_weights_and_biases_gets_the_documented_arguments_and_the_key_is_written_nowhere(train, monkeypatch):
    started, logged = {}, {}

    class Run:
        def log(self, values, step):
            logged.setdefault(step, {}).update(values)

        def finish(self, exit_code):
            assert exit_code == 0

    fake = types.SimpleNamespace(init=lambda **settings: started.update(settings) or Run())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    words = ["--use_wandb", "--wandb_project", "p", "--wandb_entity", "e", "--wandb_tags", "a,b", "--wandb_notes", "n"]
    words += ["--wandb_offline", "--wandb_api_key", "secret", "--m", "256", "--num_steps", "11", *SMALLER]
    run_dir = train("run", *words)
    expected = {"project": "p", "entity": "e", "tags": ["a", "b"], "notes": "n", "mode": "offline", "name": "run"}
    assert {key: started[key] for key in expected} == expected
    assert os.environ["WANDB_API_KEY"] == "secret"
    assert "secret" not in json.dumps(started["config"])
    assert not any(b"secret" in path.read_bytes() for path in run_dir.rglob("*") if path.is_file())
    assert {"train/loss", "test/unseen a, unseen c/LCG m=2^8/last_accuracy"} <= set(logged[11])


def test_mixtures_of_types_leave_their_width_to_those_that_have_a_choice():
    read = TrainConfig(type="lcg+xslrr+tlcg", m=2**16, control_bits=[3], bits_to_keep=5)
    assert [(g.kind, g.k) for g in read.generators[0]] == [("LCG", 16), ("XSLRR", 8), ("TLCG", 5)]
    assert read.model_shape.num_tokens == 2**16
