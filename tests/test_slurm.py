"""The batch scripts, without a cluster: SLURM's commands are stand-ins that start processes on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_runs import flags

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "scripts" / "slurm"
SCRIPTS = sorted(FOLDER.glob("*.sbatch"))

# Like SLURM, runs a copy of the script, from the folder where it was submitted.
SBATCH = """
script="$1"; shift
value() { sed -n "s/^#SBATCH --$1=//p" "$script"; }
export SLURM_SUBMIT_DIR="$PWD" SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES="$(value nodes)" SLURM_JOB_NODELIST="node[1-2]"
if [ -n "$(value array)" ]; then
    export SLURM_ARRAY_JOB_ID=5 SLURM_ARRAY_TASK_ID=6 SLURM_ARRAY_TASK_COUNT=2  # as of --array=4-7:2
    export SLURM_ARRAY_TASK_MIN=4 SLURM_ARRAY_TASK_STEP=2
fi
cp "$script" "$SPOOL/slurm_script"
cd "$SPOOL"
exec bash "$SPOOL/slurm_script" "$@"
"""
SRUN = """
while [[ "$1" == --* ]]; do shift; done
pids=()
for node in $(seq 1 "$SLURM_JOB_NUM_NODES"); do "$@" & pids+=($!); done
trap 'signalled=yes; kill -USR1 "${pids[@]}"' USR1
status=0
for pid in "${pids[@]}"; do
    signalled=yes
    while [ -n "$signalled" ]; do signalled= code=0; wait "$pid" || code=$?; done
    (( code > status )) && status=$code
done
exit "$status"
"""
SCONTROL = """
if [ "$1" = show ]; then echo localhost; sleep 0.1; echo localhost; else echo "$@" >> "$SPOOL/requeued"; fi
"""


@pytest.fixture
def cluster(tmp_path) -> dict[str, str]:
    """The environment of somebody who may submit jobs."""
    (tmp_path / "bin").mkdir()
    for name, text in [("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)]:
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SPOOL": str(tmp_path), "OMP_NUM_THREADS": "1"}


def test_there_is_a_script_for_each_kind_of_job():
    assert [path.stem for path in SCRIPTS] == ["array", "multi_node", "single_node"]


@pytest.mark.parametrize("script", [*SCRIPTS, FOLDER / "job.sh"], ids=lambda path: path.name)
def test_bash_can_read_it(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_asks_for_what_going_on_needs(script):
    directives = [line.split()[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--signal=B:USR1@120", "--open-mode=append"} <= set(directives)


def stopped_and_submitted_again(cluster, tmp_path, script: str, words: list[str], begun, ranks: int) -> str:
    """Submits a job, has SLURM announce its end once it has `begun`, submits it again; returns what they printed."""
    command = [tmp_path / "bin" / "sbatch", FOLDER / script, *words]
    environment = {**cluster, "RANKS_PER_NODE": str(ranks)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(command, cwd=ROOT, env=environment, **streams)
    deadline = time.monotonic() + 120
    while not begun():
        assert first.poll() is None, first.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.send_signal(signal.SIGUSR1)  # to the script alone, as with B:
    said, error = first.communicate(timeout=100)
    assert first.returncode == 75, error[-3000:]
    number = "5_6" if script.startswith("array") else "7"
    assert (tmp_path / "requeued").read_text() == f"requeue {number}\n"
    second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert second.returncode == 0, second.stderr[-3000:]
    assert (tmp_path / "requeued").read_text() == f"requeue {number}\n", "it has ended"
    return said + error + second.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("script", "ranks"), [("single_node.sbatch", 2), ("multi_node.sbatch", 1)])
def test_a_job_that_is_stopped_saves_is_queued_again_and_goes_on(cluster, tmp_path, script, ranks):
    run = tmp_path / "run"
    keys = flags(save_dir=run, max_steps=600, save_every_steps=20, gpt2_size="1_1_8", save_total_limit=2)
    words = ["-m", "procedural_pretraining.cli", *keys]
    said = stopped_and_submitted_again(cluster, tmp_path, script, words, (run / "checkpoint-20").exists, ranks)
    assert "stopped by a signal; step" in said
    assert f"resuming {run}/checkpoint-" in said
    assert json.loads((run / "summary.json").read_text())["session"]["world_size"] == 2
    assert (run / "checkpoint-600").is_dir()


@pytest.mark.parametrize("script", ["single_node.sbatch", "multi_node.sbatch"])
@pytest.mark.parametrize(
    "words", ["--lr 1", "--lr 1 --resume", "--resume --lr 1", "--resume true --lr 1", "--resume=true"]
)
def test_what_a_job_starts_is_told_once_to_resume(cluster, tmp_path, script, words):
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / "bin" / "python").write_text('#!/usr/bin/env bash\necho "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    command = [tmp_path / "bin" / "sbatch", FOLDER / script, "-m", "prng.cli", *words.split()]
    done = subprocess.run(command, cwd=tmp_path, env=cluster, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == (2 if "multi" in script else 1)
    for line in lines:
        assert "-m core.launch" in line
        assert line.count("--resume") == 1, line
        assert "multi" not in script or "--rdzv_endpoint localhost:20007 " in line


GRID = {
    "seeds": [0, 1],
    "pretraining": {},
    "weights": {},
    "controls": ["no_pretraining"],
    "downstream": {"sorting": {"task": "sorting_2"}},
    "downstream_keys": {
        "n_layer": 1, "n_head": 2, "n_embd": 16, "batch_size": 8, "max_steps": 1500, "eval_steps": 500, "eval_size": 20,
        "validation_size": 20, "device": "cpu", "save_steps": 20,
    },
}  # fmt: skip


@pytest.mark.slow
def test_a_task_of_an_array_that_is_stopped_goes_on_with_its_share_of_the_grid(cluster, tmp_path):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({**GRID, "save_dir": str(tmp_path / "grid")}))
    words = ["--config", str(tmp_path / "grid.yaml")]
    stopped_and_submitted_again(
        cluster, tmp_path, "array.sbatch", words, lambda: list(tmp_path.glob("grid/**/checkpoint-20")), ranks=1
    )
    assert len(list(tmp_path.glob("grid/**/summary.json"))) == 1, "one of two runs is this task's"


@pytest.mark.parametrize(
    ("end", "status"), [("exit 75", 75), ("kill -USR1 $$", 138), ("kill -TERM $$", 143), ("exit 1", 1), ("exit 0", 0)]
)
def test_a_job_is_queued_again_if_it_was_told_to_stop_be_it_while_python_started(cluster, tmp_path, end, status):
    script = f"source scripts/slurm/job.sh; carry_out bash -c '{end}'"
    environment = {**cluster, "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7"}
    assert subprocess.run(["bash", "-c", script], env=environment, capture_output=True).returncode == status
    assert (tmp_path / "requeued").exists() == (status > 1)


def test_ranks_that_are_stopped_before_they_can_note_it_have_to_be_started_again(tmp_path):
    (tmp_path / "ranks.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGUSR1)\n")
    command = [sys.executable, "-m", "core.launch", "--standalone", "--nproc_per_node", "2", str(tmp_path / "ranks.py")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=100).returncode == 75


def test_a_rank_that_fails_gives_the_job_its_status(tmp_path):
    (tmp_path / "ranks.py").write_text("import os, sys\nsys.exit(3 * int(os.environ['RANK']))\n")
    command = [sys.executable, "-m", "core.launch", "--standalone", "--nproc_per_node", "2", str(tmp_path / "ranks.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 3
    assert "error: rank 1 was the first to end, with status 3" in done.stderr
    assert "Traceback" not in done.stderr
