"""Numbers that are none: the run ends with the step and what is left, before anything spoiled is saved."""

import math
import shutil

import pytest
from fault_trials import Trial, in_words


@pytest.fixture(scope="module")
def halves(server, tmp_path_factory) -> Trial:
    """Two micro-batches in each update."""
    trial = Trial(server, tmp_path_factory.mktemp("whole") / "run", {"gradient_accumulation_steps": 2, "batch_size": 2})
    assert trial.run(trial.whole).status == 0
    return trial


@pytest.mark.parametrize("where", ["loss", "gradient", "weight"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_in_any_micro_batch(halves, tmp_path, where, value):
    for micro_batch in (1, 4, 5, 12):
        run = tmp_path / "run"
        fault = {"micro_batch": micro_batch, "value": value, "where": where}
        outcome = halves.run(run, ("poisoned", fault))
        step = (micro_batch + 1) // 2
        saved = (step - 1) // 2 * 2
        left = f"last good checkpoint: {run}/checkpoint-{saved}" if saved else "no checkpoint yet"
        in_words(outcome, 1, str(run), f"at step {step}; {left}")
        halves.goes_on(run, f"{where} {value} in micro-batch {micro_batch}")
        shutil.rmtree(run)


@pytest.mark.parametrize(
    ("error", "words"), [("OSError", "Input/output error: '/data/tokens.bin'"), ("MemoryError", "")]
)
def test_data_that_cannot_be_had(trial, tmp_path, error, words):
    run = tmp_path / "run"
    in_words(trial.run(run, ("source_breaks", {"at": 3, "error": error})), 1, words)
    trial.goes_on(run)
