"""Benchmarks that cannot go on say so, in place of waiting for what will not come."""

import json

import pytest
from torch.multiprocessing import ProcessRaisedException

from benchmarks import generation, grammar, masked_head, packing, report, scaling, seeds, train_step

CASE = scaling.Case("1_1_8", 2, 8, 1, 16, "cpu", "fp32", "ddp", False)


@pytest.mark.parametrize(
    ("benchmark", "wrong"),
    [
        *((scaling, wrong) for wrong in ("--sizes=2_3_16", "--processes=two", "--lengths=0")),
        *((scaling, wrong) for wrong in ("--processes=0", "--batches=4,0", "--device=abacus")),
        *((seeds, wrong) for wrong in ("--sizes=2_3_16", "--sizes=", "--seeds=0", "--rounds=0", "--batch_size=0")),
        *((seeds, wrong) for wrong in ("--device=abacus", "--compile=reduce-overhead")),
        *((train_step, wrong) for wrong in ("--device=abacus", "--compile=reduce-overhead", "--sizes=2_3_16")),
        *((train_step, wrong) for wrong in ("--rounds=0", "--batch_size=0", "--json={folder}", "--json={file}/x.json")),
    ],
)
def test_a_case_that_cannot_be_is_refused_before_any_is_measured(tmp_path, capsys, monkeypatch, benchmark, wrong):
    (file := tmp_path / "file").touch()
    monkeypatch.setattr(benchmark, "measure", lambda *case: pytest.fail("was measured"))
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["--device=cpu", wrong.format(folder=tmp_path, file=file)])
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("benchmark", "wrong"),
    [
        (packing, "--tasks=mano,sort"), (packing, "--turns=0"), (packing, "--batch_size=-1"),
        (grammar, "--grammars=cfg4"), (grammar, "--rounds=0"), (generation, "--json=/dev/null/x.json"),
        (masked_head, "--sizes=3"), (masked_head, "--batch_size=two"), (generation, "--tasks=sort,sorted"),
    ],
)  # fmt: skip
def test_the_same_of_those_that_run_on_a_cpu_alone(capsys, monkeypatch, benchmark, wrong):
    monkeypatch.setattr(benchmark, "measure", lambda *case: pytest.fail("was measured"))
    with pytest.raises(SystemExit, match="2"):
        benchmark.main([wrong])
    assert "error: " in capsys.readouterr().err


def test_figures_are_not_lost_to_a_folder_that_is_not_there(tmp_path):
    report.write(tmp_path / "not" / "there" / "it.json", {"machine": {}}, [{"seconds": 1.0}])
    assert json.loads((tmp_path / "not" / "there" / "it.json").read_text())["results"] == [{"seconds": 1.0}]


@pytest.mark.slow
def test_a_process_that_fails_ends_the_benchmark():
    with pytest.raises(ProcessRaisedException, match="division by zero"):
        scaling.measure(CASE._replace(batch_size=0), 0.1)
