"""Seeds trained at once end as runs of one seed each."""

import gc
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import flags, metrics

from core import checkpoint, hf, replicas
from core.model import GPT
from core.replicas import rows_of_seeds
from core.run_config import spelt_out
from core.stacked import StackedGPT
from core.trainer import Run
from procedural_pretraining import cli

TOLERANCE = 1e-5
HUNDRED = {"max_steps": 100, "save_every_steps": 50, "lr": 1e-3, "eval_every_steps": 25}


def assert_close(one, other, place: str = "", tolerance: float = TOLERANCE) -> None:
    """Equal, but for rounding: what nested values hold, and floats to `tolerance`."""
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_close(one[key], other[key], f"{place}.{key}", tolerance)
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_close(a, b, f"{place}[{number}]", tolerance)
    elif isinstance(one, float):
        assert math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance), (place, one, other)
    else:
        assert one == other, place


def names(run_dir: Path) -> set[str]:
    """Every file and folder of a run but those of the clock."""
    return {str(path.relative_to(run_dir)) for path in run_dir.rglob("*")}


def assert_same_course(together: Path, alone: Path, tolerance: float = TOLERANCE) -> None:
    assert names(together) == names(alone)
    assert (together / "best").readlink() == (alone / "best").readlink()
    assert_close(metrics(together), metrics(alone), "metrics", tolerance)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (together, alone)]
    for summary in summaries:
        for key in ("session", "checkpoint", "best"):
            del summary[key]
    assert_close(*summaries, "summary", tolerance)
    for step in checkpoint.list_steps(alone):
        states = [checkpoint.read_state(run / f"checkpoint-{step}") for run in (together, alone)]
        assert_close(*states, f"state {step}", tolerance)
        assert checkpoint.damage(together / f"checkpoint-{step}") is None


def assert_same_run(together: Path, alone: Path) -> None:
    assert_same_course(together, alone)
    for step in checkpoint.list_steps(alone):
        for file in ("model.safetensors", "optimizer.safetensors"):
            mine, theirs = (load_file(run / f"checkpoint-{step}" / file) for run in (together, alone))
            assert mine.keys() == theirs.keys()
            for name in mine:
                message = f"{step} {file} {name}"
                ours, other = without_keys_bias(name, mine[name]), without_keys_bias(name, theirs[name])
                torch.testing.assert_close(ours, other, atol=TOLERANCE, rtol=0, msg=message)


def without_keys_bias(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """It adds the same to all scores of a query, so that its gradient is rounding alone, of which Adam makes steps."""
    return tensor[torch.arange(3).repeat_interleave(len(tensor) // 3) != 1] if "c_attn.bias" in name else tensor


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"positions": "rope", "tied": "false", "gradient_accumulation_steps": 2,
         "warmup_steps": 5, "max_grad_norm": 0.1}, marks=pytest.mark.slow),
        pytest.param({"task": "mixture", "seq_length": None, "vocab_size": None, "parts": "[{task: set, weight: 1, "
         "seq_length: 7, vocab_size: 12}, {task: stack, weight: 1, seq_length: 5, vocab_size: 9}]"},
         marks=pytest.mark.slow),
        pytest.param({"max_grad_norm": "null", "eval_lengths": "[3]", "save_steps": "[7]", "save_total_limit": 1,
         "num_workers": 0}, marks=pytest.mark.slow),
    ],
    ids=["plain", "rope", "mixture of lengths", "limits"],
)  # fmt: skip
def test_each_seed_is_the_run_that_it_would_be_alone_after_100_updates(train, changes):
    together = train("together", **HUNDRED, seeds="3,5-6", **changes)
    for seed in (3, 5, 6):
        alone = train(f"alone{seed}", **HUNDRED, seed=seed, **changes)
        assert_same_run(together / f"seed{seed}", alone)
    assert sorted(path.name for path in together.iterdir()) == ["seed3", "seed5", "seed6"]
    losses = [metrics(together / f"seed{seed}")[1]["loss"] for seed in (3, 5, 6)]
    assert len(set(losses)) == 3, "seeds must differ, or there is nothing to show"


def test_runs_that_grow_or_end_at_different_updates(train, monkeypatch, capsys):
    growing = {
        "seq_length": 5, "vocab_size": 8, "use_curriculum": True, "curriculum_mastery_threshold": 0.28,
        "curriculum_step_size": 1, "eval_every_steps": 4, "save_every_steps": 10, "max_steps": 120, "lr": 3e-3,
        "stop_at_mastery": True,
    }  # fmt: skip
    stacks: list[weakref.ref] = []

    class Watched(StackedGPT):
        def __init__(self, models):
            gc.collect()
            assert not any(stack() for stack in stacks), "those that have ended hold what they shared"
            super().__init__(models)
            stacks.append(weakref.ref(self))

    monkeypatch.setattr(replicas, "StackedGPT", Watched)
    together = train("together", seeds="0-3", **growing)
    said = capsys.readouterr().out
    assert len(stacks) > 1
    ends, growth = set(), set()
    for seed in range(4):
        alone = train(f"alone{seed}", seed=seed, **growing)
        assert_same_course(together / f"seed{seed}", alone, tolerance=1e-3)  # rounding grows at this lr
        summary = json.loads((alone / "summary.json").read_text())
        ends.add(summary["step"])
        for step, length in summary["sources"]["set"]["history"][1:]:
            assert re.search(rf"{together}/seed{seed}: step {step}: seq_length \d mastered .*, now {length}\n", said)
        growth.add(json.dumps(summary["sources"]))
    assert len(ends) > 1, "must end apart"
    assert len(growth) > 1, "must grow apart"


def test_interrupted_together_they_go_on_together_or_alone(train, tmp_path, capsys):
    keys = {"max_steps": 60, "lr": 1e-3}
    whole = train("whole", seeds="0-2", **keys)

    def send_when_training_has_begun():
        while not list((tmp_path / "cut" / "seed2").glob("checkpoint-5")):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send_when_training_has_begun, daemon=True).start()
    cut = train("cut", status=75, seeds="0-2", **keys)
    steps = {checkpoint.list_steps(cut / f"seed{seed}")[-1] for seed in range(3)}
    (step,) = steps
    assert 5 <= step < 60
    assert f"step {step} of each" in capsys.readouterr().err

    apart = tmp_path / "apart"
    shutil.copytree(cut, apart, symlinks=True)
    train("cut", seeds="0-2", resume=True, **keys)
    for seed in range(3):
        for file in ("metrics.jsonl", "checkpoint-60/model.safetensors", "checkpoint-60/optimizer.safetensors"):
            one, other = (folder / f"seed{seed}" / file for folder in (whole, cut))
            assert one.read_bytes() == other.read_bytes(), "resumed together it is the same to the last bit"

    own = str(apart / "seed1" / "config.yaml")
    assert cli.main(["--config", own, "--save_dir", str(apart), "--resume"]) == 0
    train("apart", seeds="0-2", resume=True, **keys)  # one of them is at its end, the others are not
    for seed in range(3):
        assert metrics(apart / f"seed{seed}")[-1]["step"] == 60
        assert_close(metrics(apart / f"seed{seed}"), metrics(whole / f"seed{seed}"))


@pytest.mark.slow
def test_one_that_was_resumed_alone_is_caught_up_with(train):
    keys = {"lr": 1e-3, "lr_schedule": "constant"}
    whole = train("whole", seeds="0-2", max_steps=40, **keys)
    run = train("run", seeds="0-2", max_steps=10, **keys)
    train("run", run_name="seed1", seed=1, max_steps=20, resume=True, **keys)
    train("run", seeds="0-2", max_steps=40, resume=True, **keys)
    for seed in range(3):
        assert_close(metrics(run / f"seed{seed}")[-1], metrics(whole / f"seed{seed}")[-1])


@pytest.mark.slow
def test_killed_at_random_moments_and_during_saves_they_end_as_if_they_had_not_been(train, tmp_path):
    keys = {"seeds": "0-2", "max_steps": 100, "lr": 1e-3, "save_every_steps": 6, "save_total_limit": 3}
    whole = train("whole", **keys)
    script = Path(__file__).parents[1] / "support" / "kill_and_resume.py"
    killed = tmp_path / "killed"
    command = [sys.executable, script, "3", "8", "procedural_pretraining.cli"]
    command += flags(save_dir=killed, resume=True, **keys)
    environment = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "killed 8 times" in done.stdout
    for seed in range(3):
        assert_close(metrics(killed / f"seed{seed}"), metrics(whole / f"seed{seed}"))
        assert checkpoint.list_steps(killed / f"seed{seed}") == checkpoint.list_steps(whole / f"seed{seed}")


def test_one_that_diverges_ends_with_its_reason_and_the_others_go_on(train, monkeypatch, capsys):
    keys = {"lr": 1e-3, "max_steps": 30}
    whole = train("whole", seeds="0-2", **keys)
    note = Run.note

    def spoil(self, *arguments):
        note(self, *arguments)
        if self.settings.seed == 1 and self.state.step == 12:
            with torch.no_grad():
                self.model.wte.weight.fill_(torch.nan)

    monkeypatch.setattr(Run, "note", spoil)
    run = train("run", seeds="0-2", status=1, **keys)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert f"{run}/seed1: loss is nan and gradient norm nan at step 13" in errors[0]
    assert f"last good checkpoint: {run}/seed1/checkpoint-10" in errors[0]
    assert checkpoint.list_steps(run / "seed1") == [5, 10]
    for seed in (0, 2):
        assert_close(metrics(run / f"seed{seed}"), metrics(whole / f"seed{seed}"))
        assert (run / f"seed{seed}" / "summary.json").exists()


def test_one_that_fails_before_its_first_update_leaves_the_others_as_if_alone(train, monkeypatch, capsys):
    alone = train("alone", seed=0)
    initialise = GPT.__init__

    def spoil(self, config, seed=0):
        initialise(self, config, seed)
        if seed == 1:
            torch.nn.init.constant_(self.wte.weight, torch.nan)

    monkeypatch.setattr(GPT, "__init__", spoil)
    run = train("run", seeds="0-1", status=1)
    assert f"{run}/seed1: validation loss is nan after step 0; no checkpoint yet" in capsys.readouterr().err
    assert_close(metrics(run / "seed0"), metrics(alone))


def test_one_whose_summary_cannot_be_written_ends_with_its_reason_and_the_others_go_on(train, tmp_path, capsys):
    in_the_way = tmp_path / "run" / "seed0" / "summary.json"
    in_the_way.mkdir(parents=True)
    run = train("run", status=1, seeds="0-2")
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert f"{run}/seed0: after step 20: " in errors[0]
    assert "Is a directory" in errors[0]
    assert all((run / f"seed{seed}" / "summary.json").is_file() for seed in (1, 2))


def test_a_checkpoint_loads_alone_and_is_measured_by_the_command(train, capsys):
    together = train("together", seeds="4,9")
    model = hf.load(together / "seed9" / "best")
    assert all(p.isfinite().all() for p in model.parameters())
    assert cli.main(["evaluate", "--checkpoint", str(together / "seed9" / "checkpoint-20"), "--examples", "64"]) == 0
    assert "exact_match" in capsys.readouterr().out


def test_the_report_ends_with_all_seeds_and_their_mean(train, capsys):
    together = train("together", seeds="4,9")
    last = capsys.readouterr().out.splitlines()[-4:]
    assert last[0].split()[:2] == ["seed", "seq_length"]
    values = [float(line.split()[2]) for line in last[1:]]
    assert [line.split()[0] for line in last[1:]] == ["4", "9", "mean"]
    assert math.isclose(values[2], sum(values[:2]) / 2, abs_tol=1e-4)
    measured = [row["loss"] for row in metrics(together / "seed9") if row["split"] == "validation"]
    assert math.isclose(values[1], measured[-1], abs_tol=1e-4)


def test_means_are_of_what_all_seeds_measured():
    def evaluation(*rows):
        return {"evaluation": [{"split": "validation", **row} for row in rows]}

    whole, first, second = {"loss": 1.0}, {"part": "1:dyck", "loss": 2.0, "oracle_loss": 1.0}, {"part": "2:set"}
    of_each = {
        3: evaluation(whole, first, {**second, "loss": 3.0}),
        4: evaluation({"loss": 2.0, "oracle_error": 0.1}, {**second, "loss": 5.0}),
    }
    means = [row for row in rows_of_seeds(of_each) if row["seed"] == "mean"]
    mean = {"seed": "mean", "split": "validation"}
    assert means == [{**mean, "loss": 1.5}, {**mean, **second, "loss": 4.0}]
    asked = {seed: evaluation({"questions": 40 + seed, "loss": 1.0 + seed}) for seed in (0, 1)}
    assert rows_of_seeds(asked)[-1] == {**mean, "loss": 1.5}, "however many each was asked"
    assert rows_of_seeds({}) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": "0-1", "dropout": 0.1}, "set dropout to 0"),
        ({"seeds": "0-1", "resume_run_id": "abc"}, "resume_run_id names one run"),
        ({"seeds": "3-1"}, "'3-1' is no range"),
        ({"seeds": "0-99999"}, "is no range of up to 1000 seeds"),
        ({"seeds": "1,1"}, "a seed twice"),
        ({"seeds": "0-2,2"}, "a seed twice"),
        ({"seeds": "one"}, "'one' is no seed"),
        ({"seeds": "[]"}, "no seed"),
    ],
)
def test_what_cannot_be_is_refused_in_words_before_anything_is_written(train, capsys, changes, words):
    run = train("run", status=2, **changes)
    assert words in capsys.readouterr().err
    assert not list(run.rglob("checkpoint-*")) + list(run.rglob("metrics.jsonl"))


def test_folders_that_hold_runs_are_all_named(train, capsys):
    run = train("run", seeds="0-1", max_steps=5)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    train("run", status=2, seeds="0-2", max_steps=5)
    error = capsys.readouterr().err
    assert f"{run}/seed0 already holds a run" in error
    assert f"{run}/seed1 already holds a run" in error
    train("run", status=2, seeds="1-2", max_steps=5, resume=True, lr=1e-4)
    assert "lr: the run in" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before, "no folder is begun or changed"


def test_the_file_that_one_seed_left_goes_on_with_others_beside_it(train, capsys):
    run = train("run", seeds="0-1", max_steps=5, run_name="some")
    own = str(run / "some" / "seed1" / "config.yaml")
    assert cli.main(["--config", own, "--seeds", "0,2", "--resume"]) == 0
    assert sorted(path.name for path in (run / "some").iterdir()) == ["seed0", "seed1", "seed2"]
    assert f"resuming {run}/some/seed0/checkpoint-5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "seeds"),
    [("0-9", [*range(10)]), ("0,3,7-9", [0, 3, 7, 8, 9]), ([0, 3, "7-9"], [0, 3, 7, 8, 9]), ("5", [5]), (5, [5])],
)
def test_seeds_are_spelt_out(given, seeds):
    assert spelt_out(given) == seeds
