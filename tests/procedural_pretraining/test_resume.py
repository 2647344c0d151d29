"""A run that is cut off, however and whenever, ends as if it had not been."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_runs import flags, metrics

from core import checkpoint
from procedural_pretraining import cli

FINAL_FILES = ["metrics.jsonl", *(f"checkpoint-{{}}/{name}" for name in ("model.safetensors", "optimizer.safetensors"))]
ALL_AT_ONCE = {  # everything that has a state, or could disturb the order of things
    "seq_length": 5,
    "use_curriculum": True,
    "curriculum_mastery_threshold": 0.3,
    "curriculum_step_size": 1,
    "gradient_accumulation_steps": 2,
    "num_workers": 2,
    "dropout": 0.1,
    "lr_schedule": "cosine",
    "warmup_steps": 10,
    "eval_lengths": "[3, 5]",
    "eval_every_steps": 10,
    "save_every_steps": 15,
    "save_steps": "[4, 22]",
    "save_total_limit": 3,
    "log_every_steps": 7,
    "max_steps": 300,
}


def assert_same_end(one: Path, other: Path, step: int) -> None:
    for name in FINAL_FILES:
        path = name.format(step)
        assert (one / path).read_bytes() == (other / path).read_bytes(), path
    states = [json.loads((run / f"checkpoint-{step}" / "trainer_state.json").read_text()) for run in (one, other)]
    assert states[0] == states[1]
    assert (one / "best").readlink() == (other / "best").readlink()


@pytest.mark.parametrize(("seed", "times"), [(1, 6), pytest.param(2, 12, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_during_saves_it_ends_bit_identical(train, tmp_path, seed, times):
    whole = train("whole", **ALL_AT_ONCE)
    assert len({row["seq_length"] for row in metrics(whole) if row["split"] == "validation"}) > 2, "must have grown"

    script = Path(__file__).parents[1] / "support" / "kill_and_resume.py"
    killed = tmp_path / "killed"
    command = [sys.executable, script, str(seed), str(times), "procedural_pretraining.cli"]
    command += flags(save_dir=killed, resume=True, **ALL_AT_ONCE)
    environment = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}  # one thread, as here: sums depend on it
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"killed {times} times" in done.stdout
    assert_same_end(whole, killed, 300)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves_and_the_run_can_go_on(train, tmp_path, capsys, number, status):
    whole = train("whole", max_steps=60)

    def send_when_training_has_begun():
        while not list((tmp_path / "cut").glob("checkpoint-5")):
            time.sleep(0.002)
        os.kill(os.getpid(), number)

    threading.Thread(target=send_when_training_has_begun, daemon=True).start()
    cut = train("cut", status=status, max_steps=60)
    (step,) = checkpoint.list_steps(cut)[-1:]
    assert 5 <= step < 60
    assert f"checkpoint-{step}" in capsys.readouterr().err

    train("cut", max_steps=60, resume=True)
    assert_same_end(whole, cut, 60)


def test_max_steps_may_grow(train):
    train("run", max_steps=10, lr_schedule="constant")
    run = train("run", max_steps=20, lr_schedule="constant", resume=True)
    whole = train("whole", max_steps=20, lr_schedule="constant")
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (run / "checkpoint-20" / name).read_bytes() == (whole / "checkpoint-20" / name).read_bytes()


def test_a_finished_run_is_left_as_it_is(train):
    run = train("run")
    before = {
        path: path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.suffix in (".jsonl", ".safetensors")
    }
    train("run", resume=True)
    assert {path: path.read_bytes() for path in before} == before
    assert json.loads((run / "summary.json").read_text())["evaluation"][0]["exact_match"] >= 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 2e-2, "seed": 7}, ["lr: the run in", "seed: the run in", "0.01", "0.02"]),
        ({"batch_size": 16}, ["examples_per_update", "8", "16"]),
        ({"max_steps": 15}, ["max_steps", "may only grow"]),
        ({"vocab_size": 13}, ["vocab_size", "12", "13"]),
        ({"curriculum_mastery_threshold": 0.5}, ["curriculum_mastery_threshold"]),
    ],
)
def test_a_changed_configuration_is_refused_with_every_key_named(train, capsys, changes, words):
    run = train("run")
    config = (run / "config.yaml").read_bytes()
    train("run", status=2, resume=True, **changes)
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert (run / "config.yaml").read_bytes() == config


def test_what_does_not_define_the_run_may_change(train):
    train("run", max_steps=10)
    train("run", max_steps=20, resume=True, num_workers=0, save_every_steps=20, eval_every_steps=5, log_every_steps=1)


def test_a_folder_that_holds_a_run_is_not_written_over(train, capsys):
    run = train("run")
    before = (run / "metrics.jsonl").read_bytes()
    train("run", status=2)
    assert "already holds a run (checkpoint-20)" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_copy_of_a_run_in_which_best_became_a_folder_is_refused_in_words(train, capsys):
    run = train("run")
    best = (run / "best").resolve()
    (run / "best").unlink()
    shutil.copytree(best, run / "best")
    train("run", status=2, resume=True, max_steps=30)
    assert f"{run}/best is a folder, where a link is to be made" in capsys.readouterr().err


def test_if_the_best_checkpoint_was_deleted_best_is_one_that_exists(train):
    rising = {"lr": 0.5, "warmup_steps": 39}  # diverges after a good start
    run = train("run", max_steps=40, **rising)
    assert (run / "best").resolve() == run / "checkpoint-15"
    shutil.rmtree(run / "checkpoint-15")
    train("run", max_steps=45, resume=True, **rising)
    summary = json.loads((run / "summary.json").read_text())
    assert Path(summary["best"]) == (run / "best").resolve() == run / "checkpoint-45"
    assert checkpoint.damage(run / "best") is None


def test_of_a_checkpoint_that_was_moved_elsewhere_the_limit_takes_the_link(train, tmp_path):
    run = train("run", max_steps=10)
    (run / "checkpoint-5").rename(tmp_path / "elsewhere")
    (run / "checkpoint-5").symlink_to(tmp_path / "elsewhere")
    train("run", max_steps=20, resume=True, save_total_limit=1)
    assert not (run / "checkpoint-5").is_symlink()
    assert checkpoint.damage(tmp_path / "elsewhere") is None


def test_a_link_best_to_something_else_is_no_best_checkpoint(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best").symlink_to(tmp_path / "other")
    run = train("run", save_steps="[1]", save_total_limit=1)  # the first is saved without a measurement
    assert (run / "best").resolve().parent == run


# --- Damage
CHECKPOINT_FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "trainer_state.json", "manifest.json"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main(flags(save_dir=run_dir)) == 0
    return run_dir


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", CHECKPOINT_FILES)
@pytest.mark.parametrize("harm", [truncate, flip_a_byte, Path.unlink])
def test_a_damaged_checkpoint_is_named_and_skipped_and_nothing_is_lost(finished, tmp_path, capsys, file, harm):
    run = tmp_path / "run"
    shutil.copytree(finished, run, symlinks=True)
    harm(run / "checkpoint-20" / file)
    assert cli.main(flags(save_dir=run, resume=True, save_total_limit=1)) == 0
    said = capsys.readouterr().out
    assert f"{run}/checkpoint-20 is damaged and skipped: " in said
    assert f"resuming {run}/checkpoint-15" in said
    assert (run / "checkpoint-20.damaged1").is_dir()
    assert checkpoint.damage(run / "checkpoint-20") is None
    assert_same_end(finished, run, 20)


def test_every_single_flipped_byte_of_a_manifest_is_noticed(finished, tmp_path):
    path = tmp_path / "checkpoint-20"
    shutil.copytree(finished / "checkpoint-20", path)
    manifest = path / "manifest.json"
    content = manifest.read_bytes()
    whitespace = set(b" \n")
    for place, byte in enumerate(content):
        changed = bytearray(content)
        changed[place] ^= 1
        manifest.write_bytes(changed)
        if byte not in whitespace:
            assert checkpoint.damage(path) is not None, (place, chr(byte))


def test_the_limit_counts_no_checkpoint_of_a_damaged_future(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run, symlinks=True)
    truncate(run / "checkpoint-20" / "model.safetensors")
    truncate(run / "checkpoint-15" / "model.safetensors")
    assert cli.main(flags(save_dir=run, resume=True, save_total_limit=1, max_steps=20, save_every_steps=2)) == 2
    assert cli.main(flags(save_dir=run, resume=True, save_total_limit=1, eval_every_steps=5, save_every_steps=3)) == 0
    assert checkpoint.list_steps(run)[-1] == 20


def test_if_no_checkpoint_is_intact_the_run_does_not_start_over(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run, symlinks=True)
    for step in checkpoint.list_steps(run):
        truncate(run / f"checkpoint-{step}" / "model.safetensors")
    assert cli.main(flags(save_dir=run, resume=True)) == 2
    assert "none of its 4 checkpoints is intact" in capsys.readouterr().err
    assert checkpoint.list_steps(run) == [5, 10, 15, 20]


# --- World size


def torchrun(*arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    command += ["-m", "procedural_pretraining.cli", *arguments]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def assert_same_course(one: Path, other: Path) -> None:
    a, b = metrics(one), metrics(other)
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        for key in ("step", "examples", "tokens", "split", "seq_length"):
            assert left.get(key) == right.get(key)
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-5)


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_accumulation_and_take_over_from_each_other(train, tmp_path):
    # Logged every 3rd update, so that the loss at 21 is a mean over updates before and after the resume at 20.
    common = {"max_steps": 50, "save_every_steps": 10, "log_every_steps": 3, "save_total_limit": None}
    common |= {"use_curriculum": True, "curriculum_mastery_threshold": 0.4, "curriculum_step_size": 2}
    one = train("one", gradient_accumulation_steps=2, **common)
    torchrun(*flags(save_dir=tmp_path / "two", **common))
    assert_same_course(one, tmp_path / "two")

    for source, target in [("one", "one_two"), ("two", "two_one")]:
        shutil.copytree(tmp_path / source, tmp_path / target, symlinks=True)
        for step in (30, 40, 50):
            shutil.rmtree(tmp_path / target / f"checkpoint-{step}")
    torchrun(*flags(save_dir=tmp_path / "one_two", resume=True, **common))
    assert_same_course(one, tmp_path / "one_two")
    assert_same_course(one, train("two_one", gradient_accumulation_steps=2, resume=True, **common))
