"""The SLURM script, without a cluster: what it prints, and what it does with stand-ins for SLURM's commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "curriculum_finetune.sh"
PYTHON = Path(sys.executable).parent


def run(*words, folder=None, **environment):
    path = f"{folder}:{PYTHON}:{os.environ['PATH']}" if folder else f"{PYTHON}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": "", **environment}
    return subprocess.run(["bash", SCRIPT, *words], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_every_combination_is_reached_once():
    seen = set()
    for task in range(4):
        done = run("--print", SLURM_ARRAY_TASK_ID=str(task))
        assert done.returncode == 0, done.stderr
        config = yaml.safe_load(done.stdout)
        seen.add((config["lr_trgt"], config["weight_decay"]))
        assert config["experiment_name"] in done.stdout.splitlines()[0]
        assert config["resume"] is True
        assert config["save_checkpoints"] is True
        assert config["moduli"] == [65536, 262144]
        assert "srun" in done.stdout.splitlines()[-1]
    assert seen == {(1e-4, 0), (1e-4, 0.1), (5e-4, 0), (5e-4, 0.1)}


def test_the_shipped_array_covers_all_combinations_and_asks_for_what_resuming_needs():
    directives = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--array=0-3", "--requeue", "--signal=B:USR1@120", "--open-mode=append"} <= set(directives)


@pytest.mark.parametrize("task", ["4", "-1", "x"])
def test_a_task_beyond_the_grid_is_refused(task):
    done = run("--print", SLURM_ARRAY_TASK_ID=task)
    assert done.returncode == 2
    assert "are tasks 0 to 3" in done.stderr


@pytest.mark.parametrize("words", [["--prnt"], ["--num_steps", "9"], ["--print", "--seq_len", "9"]])
def test_words_that_would_do_nothing_are_refused(words, tmp_path):
    done = run(*words, RESULTS_DIR=str(tmp_path))
    assert done.returncode == 2
    assert f"error: {' '.join(words)}: only --print" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_grid_and_the_start_may_be_others():
    done = run("--print", SLURM_ARRAY_TASK_ID="5", LRS="1e-5 3e-5", WEIGHT_DECAYS="0 0.1 1", PRETRAINED="runs/old/best")
    config = yaml.safe_load(done.stdout)
    assert (config["lr_trgt"], config["weight_decay"], config["pretrained_path"]) == (3e-5, 1, "runs/old/best")


def stand_in(folder, name, text):
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


SMALL = """
data: {type: LCG, seq_len: 5, n_a: 4, n_c: 4, n_test_a: 2, n_test_c: 2}
model: {n_layer: 1, n_head: 1, n_embd: 8}
curriculum:
  moduli: [64, 128]
  phases: [{phase_steps: 1200, transition_steps: 30}]
training: {batch_size: 2, eval_interval: 1200}
device: cpu
"""


@pytest.mark.slow
def test_a_preempted_task_saves_is_queued_again_and_goes_on(tmp_path):
    """A stand-in for srun starts the one process of the job; the signal comes once training is under way."""
    (tmp_path / "bin").mkdir()
    stand_in(tmp_path / "bin", "srun", 'exec env SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 "$@"')
    stand_in(tmp_path / "bin", "scontrol", f'echo "$@" >> {tmp_path}/requeued')
    (tmp_path / "small.yaml").write_text(SMALL)
    environment = {"CONFIG": str(tmp_path / "small.yaml"), "RESULTS_DIR": str(tmp_path / "out"), "SLURM_JOB_ID": "7"}
    environment |= {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3", "OMP_NUM_THREADS": "1"}
    path = f"{tmp_path / 'bin'}:{PYTHON}:{os.environ['PATH']}"
    first = subprocess.Popen(
        ["bash", SCRIPT], cwd=ROOT, env={**os.environ, "PATH": path, **environment}, stderr=subprocess.PIPE, text=True
    )
    run_dir = tmp_path / "out" / "finetune_lr5e-4_wd0.1"
    while not (run_dir / "metrics.jsonl").exists() or '"train"' not in (run_dir / "metrics.jsonl").read_text():
        assert first.poll() is None, first.stderr.read()
    first.send_signal(10)  # USR1, to the script alone
    _, error = first.communicate(timeout=60)
    assert first.returncode == 75, error
    assert (tmp_path / "requeued").read_text() == "requeue 5_3\n"
    assert list(run_dir.glob("checkpoint-*"))

    second = run(folder=tmp_path / "bin", **environment)
    assert second.returncode == 0, second.stderr
    assert "resuming" in second.stdout
    assert (run_dir / "checkpoint-1200").is_dir()
    assert (tmp_path / "requeued").read_text() == "requeue 5_3\n"
