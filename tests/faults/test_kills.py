"""kill -9, at any moment: the run goes on, and ends bit for bit as if nothing had been."""

import random
import shutil
import signal

import pytest


def test_killed_at_any_call_that_changes_the_folder(trial, calls, tmp_path):
    run = tmp_path / "run"
    for call in range(2, len(calls) + 1, 3):
        outcome = trial.run(run, ("killed_at_disk_call", {"folder": str(run), "at": call}))
        assert outcome.status == -signal.SIGKILL, (call, outcome)
        trial.goes_on(run, f"killed at call {call}: {calls[call - 1]}")
        shutil.rmtree(run)


@pytest.mark.slow
def test_killed_twice_at_each_call(trial, calls, tmp_path):
    run = tmp_path / "run"
    for call in range(1, len(calls) + 1):
        fault = ("killed_at_disk_call", {"folder": str(run), "at": call})
        outcomes = [trial.run(run, fault), trial.run(run, fault)]
        assert outcomes[0].status == -signal.SIGKILL, call
        assert outcomes[1].status in (0, -signal.SIGKILL), call
        trial.goes_on(run, f"killed at call {call}")
        shutil.rmtree(run)


def killed_at_random_times(trial, run, seed: int, kills: int) -> None:
    """The same run again and again, each time killed after a random time, whatever it does then."""
    choice, killed, seconds = random.Random(seed), 0, 0.01
    while killed < kills:
        outcome = trial.run(run, ("slow_updates", {"seconds": 0.005}), _signals=[[choice.uniform(0, seconds), 9]])
        if outcome.status == 0:  # it got to the end, so from the start again
            trial.goes_on(run, f"seed {seed}, killed {killed} times")
            shutil.rmtree(run)
            seconds *= 0.7
        else:
            assert outcome.status == -signal.SIGKILL, outcome
            killed += 1
            seconds = min(seconds * 1.3, 0.3)
    trial.goes_on(run, f"seed {seed}, killed {killed} times")


def test_killed_at_random_times(trial, tmp_path):
    killed_at_random_times(trial, tmp_path / "run", seed=1, kills=40)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_killed_at_many_random_times(trial, tmp_path, seed):
    killed_at_random_times(trial, tmp_path / "run", seed, kills=60)
