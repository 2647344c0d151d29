import pytest
from fault_trials import Server, Trial


@pytest.fixture(scope="session")
def trial(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    whole = tmp_path_factory.mktemp("whole") / "run"
    trial = Trial(server, whole, {})
    outcome = trial.run(whole)
    assert outcome.status == 0, outcome.said
    return trial


@pytest.fixture(scope="session")
def calls(trial: Trial, tmp_path_factory) -> list[str]:
    """Every call of a run that changes its folder, in order."""
    folder = tmp_path_factory.mktemp("calls")
    run = folder / "run"
    assert trial.run(run, ("count_disk_calls", {"folder": str(run), "into": str(folder / "calls")})).status == 0
    lines = [line.removeprefix("False ") for line in (folder / "calls").read_text().splitlines()]
    assert len(lines) > 60
    return lines
