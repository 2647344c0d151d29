"""A disk that is full, broken, or not for writing: a line that says so, and nothing lost."""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_trials import Trial, in_words

BEFORE_WORK, IN_TRAINING = 2, 1  # exit statuses


def refused(trial: Trial, run: Path, call: int, code: int, lasting: bool) -> int:
    """A run whose disk refuses a call, and the one after it, which finds the disk well again."""
    name = errno.errorcode[code]
    fault = {"folder": str(run), "at": call, "code": code, "lasting": lasting}
    outcome = trial.run(run, ("disk_refuses", fault))
    assert "Traceback" not in outcome.said, (name, call, outcome.said)
    assert outcome.status in (0, 1, 2), (name, call, outcome)
    if outcome.status:
        last = outcome.said.strip().splitlines()[-1]
        assert last.startswith("error: "), (name, call, outcome.said)
        assert os.strerror(code) in last, (name, call, outcome.said)
        assert "smaller max_grad_norm" not in last, "that does not help against a full disk"
    trial.goes_on(run, f"{name} at call {call}")
    shutil.rmtree(run)
    return outcome.status


def test_the_disk_may_be_full_from_any_moment_on(trial, calls, tmp_path):
    statuses = [
        refused(trial, tmp_path / "run", call, errno.ENOSPC, lasting=True)
        for call in range(1, len(calls) + 1, 3)
        if not calls[call - 1].startswith("True")  # frees space
    ]
    assert 0 not in statuses
    assert statuses.count(BEFORE_WORK) < 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "lasting", "every"),
    [(errno.ENOSPC, True, 2), (errno.ENOSPC, False, 3), (errno.EIO, True, 3), (errno.EROFS, True, 5)],
)
def test_any_call_may_be_refused(trial, calls, tmp_path, code, lasting, every):
    for call in range(2, len(calls) + 1, every):
        if code != errno.ENOSPC or not calls[call - 1].startswith("True"):
            refused(trial, tmp_path / "run", call, code, lasting)


@pytest.mark.parametrize("size", [0, 40, 300, 700, 1000, 3000, 8000, 12000])
def test_the_system_refuses_files_beyond_a_size(trial, tmp_path, size):
    """These limits are the system's own, and hit what safetensors writes as well."""
    run = tmp_path / "run"
    outcome = trial.run(run, ("file_size_limit", {"size": size}))
    in_words(outcome, IN_TRAINING, str(run), "File too large")
    trial.goes_on(run)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("kilobytes", [4, 12, 24, 40, 60, 92])
def test_a_small_disk_that_is_full(trial, tmp_path, kilobytes):
    with small_disk(tmp_path / "disk", kilobytes):
        run = tmp_path / "disk" / "run"
        in_words(trial.run(run), IN_TRAINING, str(run), "No space left on device")
        subprocess.run(["mount", "-o", "remount,size=10m", tmp_path / "disk"], check=True)
        trial.goes_on(run)


def test_a_trace_that_a_disk_has_no_room_for_leaves_it_to_checkpoints(trial, tmp_path):
    with small_disk(tmp_path / "disk", 1500):
        run = tmp_path / "disk" / "run"
        outcome = trial.run(run, max_steps=15, profile=True)
        assert outcome.status == 0, outcome.said
        assert f"trace of 10 updates could not be written: {run}/trace.json" in outcome.said
        assert not list(run.glob("trace.json*"))


def test_a_disk_that_turns_read_only(trial, tmp_path):
    with small_disk(tmp_path / "disk", 1000):
        run = tmp_path / "disk" / "run"
        assert trial.run(run).status == 0
        shutil.rmtree(run / "checkpoint-6")
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
        in_words(trial.run(run), BEFORE_WORK, str(run), "Read-only file system")
        subprocess.run(["mount", "-o", "remount,rw", tmp_path / "disk"], check=True)
        trial.goes_on(run)


# --- Something stands in the way

IN_THE_WAY = [  # path in the run's folder, what is there, exit status
    (".", "file", BEFORE_WORK),
    (".lock", "folder", BEFORE_WORK),
    ("config.yaml", "folder", IN_TRAINING),
    ("metrics.jsonl", "folder", IN_TRAINING),
    ("metrics.jsonl", "dangling link", IN_TRAINING),
    (".checkpoint-2.partial", "file", IN_TRAINING),
    (".checkpoint-2.partial", "folder", 0),  # as a killed run leaves it
    (".best.partial", "file", 0),
    (".best.partial", "folder", IN_TRAINING),
    ("checkpoint-2", "file", BEFORE_WORK),
    ("checkpoint-2", "folder", BEFORE_WORK),
    ("best", "folder", BEFORE_WORK),
    ("best", "file", BEFORE_WORK),
    ("summary.json", "folder", IN_TRAINING),
    ("plots", "file", IN_TRAINING),
    ("plots/curves.png", "folder", IN_TRAINING),
]


@pytest.mark.parametrize(("name", "what", "status"), IN_THE_WAY)
def test_something_stands_where_the_run_is_to_write(trial, tmp_path, name, what, status):
    run = tmp_path / "run"
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "folder":
        path.mkdir()
        (path / "something").write_text("of somebody's")
    elif what == "file":
        path.write_text("of somebody's")
    else:
        path.symlink_to("/nowhere/at/all")
    outcome = trial.run(run)
    in_words(outcome, status, *([str(path.resolve() if name == "." else run)] if status else []))
    if status:
        path.rename(tmp_path / "moved")
    trial.goes_on(run)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("what", ["parent", "folder", "lock", "plots", "checkpoint"])
def test_a_folder_of_somebody_else(trial, open_folder, what):
    run, nobody = open_folder / "run", 65534
    mine = {"parent": [], "folder": [], "lock": [run], "plots": [run, run / ".lock"], "checkpoint": []}[what]
    if what != "parent":
        assert trial.run(run).status == 0
        shutil.rmtree(run / "checkpoint-6")
    for path in mine:
        os.chown(path, nobody, nobody)
    if what == "checkpoint":
        os.chmod(run / "checkpoint-4", 0o700)
        for path in [run, *run.glob("*"), run / ".lock"]:
            if path.name != "checkpoint-4" and not path.is_symlink():
                os.chown(path, nobody, nobody)
    outcome = trial.run(run, ("as_nobody", {}))
    words = {
        "plots": f"Permission denied: '{run}/plots/curves.png'",
        "checkpoint": "none of its 1 checkpoints is intact",
    }.get(what, str(run))
    in_words(outcome, IN_TRAINING if what == "plots" else BEFORE_WORK, words)
    trial.goes_on(run)
