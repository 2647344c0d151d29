"""Signals at bad moments, one or hundreds: the run saves, leaves with 75 (130 after Ctrl-C), and can go on."""

import random
import shutil
import signal

import pytest
from fault_trials import in_words

TERM, USR1, INT = int(signal.SIGTERM), int(signal.SIGUSR1), int(signal.SIGINT)
MOMENTS = ["restore", "measure", "make_update", "update", "log", "save", "summarise"]


def stopped(outcome, status=75) -> None:
    if outcome.status < 0:
        assert not outcome.said, "killed by a signal, though it had begun"
    elif outcome.status != 0:  # else it had ended when the signal came
        in_words(outcome, status)
        assert "stopped by a signal" in outcome.said or status == 130, outcome.said


@pytest.mark.parametrize("signals", [[TERM], [USR1, TERM]])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_storm_of_signals(trial, tmp_path, moment, signals):
    run = tmp_path / "run"
    outcome = trial.run(run, ("storm", {"first": moment, "signals": signals, "every": 0.001}))
    if outcome.status != 0:  # the storm may have come too late to stop it
        assert outcome.status == 75, outcome
        assert outcome.said.strip().splitlines()[-1].startswith("stopped by a signal"), outcome.said
    assert outcome.status or moment in ("log", "summarise")
    trial.goes_on(run, f"a storm from {moment} on")


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_again_and_again(trial, tmp_path, moment):
    run = tmp_path / "run"
    outcome = trial.run(run, ("storm", {"first": moment, "signals": [INT], "every": 0.003}))
    if outcome.status != 0:  # the storm may have come too late to stop it
        in_words(outcome, 130)
    assert outcome.status or moment == "summarise"
    trial.goes_on(run, f"Ctrl-C from {moment} on")


def signalled_at_call(trial, run, call: int, number: int, times: int) -> None:
    fault = {"folder": str(run), "at": call, "number": number, "times": times}
    stopped(trial.run(run, ("killed_at_disk_call", fault)), 130 if number == INT else 75)
    trial.goes_on(run, f"{times} times signal {number} at call {call}")
    shutil.rmtree(run)


def test_a_signal_in_the_middle_of_a_write(trial, calls, tmp_path):
    choice = random.Random(0)
    for call in range(1, len(calls) + 1, 6):
        signalled_at_call(trial, tmp_path / "run", call, choice.choice([TERM, USR1]), choice.choice([1, 5]))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "times"), [(TERM, 1), (USR1, 100), (INT, 1), (INT, 2)])
def test_a_signal_in_the_middle_of_any_write(trial, calls, tmp_path, number, times):
    for call in range(1, len(calls) + 1, 2):
        signalled_at_call(trial, tmp_path / "run", call, number, times)


def test_signals_at_random_times(trial, tmp_path):
    """The same run, stopped over and over: it always goes on from where it was."""
    run, choice, stops = tmp_path / "run", random.Random(3), 0
    while True:
        when = [[choice.uniform(0.01, 0.25), choice.choice([TERM, USR1])] for _ in range(choice.choice([1, 3]))]
        outcome = trial.run(run, ("slow_updates", {"seconds": 0.1}), _signals=when)
        stopped(outcome)
        if outcome.status == 0:
            break
        stops += 1
    assert stops
    trial.goes_on(run)
