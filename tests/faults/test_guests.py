"""Weights & Biases is a guest: a run does without its server."""

import pytest
from small_runs import flags, metrics

from core import checkpoint, tracking
from procedural_pretraining import cli


@pytest.mark.slow
def test_a_server_of_weights_and_biases_that_is_gone_is_said_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    """The package itself, and an address where nobody listens."""
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setitem(tracking.PATIENCE, "init_timeout", 3)
    plain, guarded = tmp_path / "plain", tmp_path / "guarded"
    assert cli.main(flags(save_dir=plain)) == 0
    capsys.readouterr()
    assert cli.main(flags(save_dir=guarded, wandb_enable=True)) == 0
    assert "Weights & Biases is off from here on: " in capsys.readouterr().err
    assert metrics(plain) == metrics(guarded)
    assert checkpoint.list_steps(guarded)[-1] == 20
