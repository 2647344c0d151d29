"""The clock may say what it likes: the newest checkpoint is the one of the highest step, and results hold no time."""

import os
import shutil

import pytest


@pytest.mark.parametrize("kind", ["frozen", "backwards", "jumps", "epoch", "far"])
def test_the_clock_changes_nothing(trial, tmp_path, kind):
    run = tmp_path / "run"
    outcome = trial.run(run, ("clock", {"kind": kind}), _environ={"TZ": "Asia/Kathmandu"})
    assert outcome.status == 0, outcome.said
    trial.goes_on(run)
    shutil.rmtree(run / "checkpoint-6")
    outcome = trial.run(run, ("clock", {"kind": kind}))
    assert outcome.status == 0, outcome.said
    trial.goes_on(run)


@pytest.mark.parametrize("times", [(0, 0), (2**33, 0), (0, 2**33)])
def test_the_newest_checkpoint_is_not_the_youngest_file(trial, tmp_path, times):
    run = tmp_path / "run"
    shutil.copytree(trial.whole, run, symlinks=True)
    for step, time in zip((4, 6), times, strict=True):
        for path in [run / f"checkpoint-{step}", *(run / f"checkpoint-{step}").iterdir()]:
            os.utime(path, (time, time))
    assert f"resuming {run}/checkpoint-6" in trial.run(run).said
    trial.goes_on(run)
