from pathlib import Path

import pytest
from small_runs import flags

from procedural_pretraining import cli


@pytest.fixture
def train(tmp_path):
    """Runs the command in `tmp_path/NAME` and returns the folder; the exit status must be as expected."""

    def train(name: str = "run", status: int = 0, **changes) -> Path:
        run_dir = tmp_path / name
        assert cli.main(flags(save_dir=run_dir, **changes)) == status
        return run_dir

    return train
