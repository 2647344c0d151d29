"""Benchmarks that cannot go on say so, in place of waiting for what will not come."""

import json

import pytest
from torch.multiprocessing import ProcessRaisedException

from benchmarks import report, scaling

CASE = scaling.Case("1_1_8", 2, 8, 1, 16, "cpu", "fp32", "ddp", False)


@pytest.mark.parametrize("wrong", [("--sizes", "2_3_16"), ("--processes", "two"), ("--lengths", "0")])
def test_a_case_that_cannot_be_is_refused_before_any_is_measured(capsys, wrong):
    with pytest.raises(SystemExit, match="2"):
        scaling.main([*wrong, "--device", "cpu"])
    assert "error: " in capsys.readouterr().err


def test_figures_are_not_lost_to_a_folder_that_is_not_there(tmp_path):
    report.write(tmp_path / "not" / "there" / "it.json", {"machine": {}}, [{"seconds": 1.0}])
    assert json.loads((tmp_path / "not" / "there" / "it.json").read_text())["results"] == [{"seconds": 1.0}]


@pytest.mark.slow
def test_a_process_that_fails_ends_the_benchmark():
    with pytest.raises(ProcessRaisedException, match="division by zero"):
        scaling.measure(CASE._replace(batch_size=0), 0.1)
