"""Several runs on one folder: one has it, the others are told so at once."""

import signal

import pytest
from fault_trials import in_words, order


def test_of_many_runs_that_start_at_once_one_goes_on(trial, tmp_path):
    run = tmp_path / "run"
    slow = ("slow_updates", {"seconds": 0.2})
    outcomes = trial.server.carry_out(*(order(run, slow) for _ in range(8)))
    winners = [outcome for outcome in outcomes if outcome.status == 0]
    assert len(winners) == 1, outcomes
    for outcome in outcomes:
        if outcome not in winners:
            in_words(outcome, 2, str(run), "another run is writing here")
    trial.goes_on(run)


def test_a_killed_run_leaves_its_folder_free(trial, tmp_path):
    run = tmp_path / "run"
    assert trial.run(run, ("at_update", {"number": 4, "action": "SIGKILL"})).status == -signal.SIGKILL
    trial.goes_on(run)


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_hangs_keeps_its_folder(trial, tmp_path, resume):
    """Stopped, as by a suspended machine, it still holds the lock; woken, it ends as ever."""
    run = tmp_path / "run"
    stopped = order(run, ("at_update", {"number": 4, "action": "SIGSTOP"}), _signals=[[3.0, int(signal.SIGCONT)]])
    late = order(run, ("begins_late", {"seconds": 1.5}), resume=resume)
    first, second = trial.server.carry_out(stopped, late)
    in_words(second, 2, str(run), "another run is writing here")
    assert first.status == 0, first.said
    trial.goes_on(run)
