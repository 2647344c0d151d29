"""Exports: what `datasets` reads back is what training sees, however often the writing was cut off."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from core import export as exporting
from core.export import ExportConfig
from core.task_verbs import export_task
from procedural_data import cli
from procedural_data.set import Set
from synthetic_tasks.capo import CapoTask
from synthetic_tasks.depo import DepoTask

DEPO = DepoTask(N=6, K=3, M=2, mini_vocab=5)
SIZES = {"train": 700, "validation": 40, "test": 30, "rows_per_file": 300}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def load(folder: Path) -> datasets.DatasetDict:
    return datasets.load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("task", [DEPO, CapoTask(num_people=20)], ids=["depo", "capo"])
def test_datasets_reads_back_the_rows_that_take_gives(tmp_path, task, kind):
    export_task(task, 3, ExportConfig(out=str(tmp_path / "it"), format=kind, **SIZES))
    found = load(tmp_path / "it")
    assert {split: len(rows) for split, rows in found.items()} == {"train": 700, "validation": 40, "test": 30}
    assert found["train"].to_list() == task.take(3, 700)
    assert len(list((tmp_path / "it" / "data").glob(f"train-*.{kind}"))) == 3


def test_a_hundred_thousand_rows_are_those_of_the_source(tmp_path, capsys):
    command = ["export", "set", "--out", str(tmp_path / "it"), "--seq_length", "6", "--train", "100000"]
    assert cli.main([*command, "--validation", "0", "--test", "0"]) == 0
    assert "100,000 examples in 2 files" in capsys.readouterr().out
    rows = load(tmp_path / "it")["train"].with_format("numpy")
    batch = exporting.View.of_task(Set(seq_length=6), 42).batch("train", 0, 100_000)
    assert len(rows) == 100_000
    for number in range(0, 100_000, 997):
        tokens = [t for t in batch.input_ids[number].tolist() if t != Set(seq_length=6).pad_token]
        assert rows[number]["input_ids"].tolist() == tokens


def test_the_card_and_the_plan_say_what_it_is(tmp_path):
    export_task(DEPO, 3, ExportConfig(out=str(tmp_path), **SIZES))
    card, plan = (tmp_path / "README.md").read_text(), json.loads((tmp_path / "export.json").read_text())
    assert plan["fingerprint"] == DEPO.fingerprint
    assert plan["seed"] == 3
    assert DEPO.fingerprint in card
    assert '"mini_vocab": 5' in card
    assert "path: data/train-*.parquet" in card


@pytest.mark.slow
def test_an_export_killed_at_any_file_goes_on_and_ends_with_the_same_bytes(tmp_path):
    command = ["export", "set", "--seq_length", "5", "--train", "900", "--rows_per_file", "200", "--out"]
    assert cli.main([*command, str(tmp_path / "whole")]) == 0
    script = (
        "import os, signal, sys\n"
        "from core import export\n"
        "from procedural_data import cli\n"
        "files, rows = int(sys.argv[1]), export.rows_of\n"
        "replace = os.replace\n"
        "def dying(*paths):\n"
        "    global files\n"
        "    files -= 1\n"
        "    if files < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(*paths)\n"
        "export.os.replace = dying\n"
        "cli.main(sys.argv[2:])\n"
    )
    killed = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": "."}
    for files in (0, 2, 3):
        done = subprocess.run([sys.executable, "-c", script, str(files), *command, str(killed)], env=environment)
        assert done.returncode == -signal.SIGKILL
        assert not (killed / "README.md").exists(), "looks complete"
    assert cli.main([*command, str(killed)]) == 0
    assert contents(killed).keys() - contents(tmp_path / "whole").keys() == set()
    assert contents(killed) == contents(tmp_path / "whole")


def test_a_complete_export_is_left_as_it_is(tmp_path, capsys):
    config = ExportConfig(out=str(tmp_path), **SIZES)
    export_task(DEPO, 3, config)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    export_task(DEPO, 3, config)
    assert "already complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_file_that_was_deleted_from_a_complete_export_is_written_again(tmp_path, capsys):
    config = ExportConfig(out=str(tmp_path), **SIZES)
    export_task(DEPO, 3, config)
    before = contents(tmp_path)
    (tmp_path / "data" / "train-00001-of-00003.parquet").unlink()
    capsys.readouterr()
    export_task(DEPO, 3, config)
    assert "already complete" not in capsys.readouterr().out
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("prepare", "changes", "message"),
    [
        (lambda folder: folder.write_text("x"), [], "cannot be written"),
        (lambda folder: (folder.mkdir(), (folder / "export.json").write_text("[]")), [], "does not say what was"),
        (lambda folder: (folder.mkdir(), (folder / "export.json").write_bytes(b"\xff{")), [], "does not say what was"),
        (lambda folder: (folder.mkdir(), (folder / "notes").write_text("x")), [], "holds other files"),
        (
            lambda folder: cli.main(["export", "set", "--out", str(folder), "--train", "5"]),
            ["--seed", "7"],
            "seed 42, not 7",
        ),
        (lambda folder: None, ["--train", "0", "--validation", "0", "--test", "0"], "there is nothing to write"),
        (lambda folder: None, ["--format", "csv"], "--format: 'csv' is not allowed"),
        (lambda folder: None, ["--seq_length", "1", "--vocab_size", "2"], "too few distinct prompts"),
    ],
)
def test_a_folder_or_a_wish_that_does_not_fit_is_refused(tmp_path, prepare, changes, message, capsys):
    prepare(tmp_path / "it")
    capsys.readouterr()
    sizes = [] if "--train" in changes else ["--train", "5"]
    assert cli.main(["export", "set", "--out", str(tmp_path / "it"), *sizes, *changes]) == 2
    assert message in capsys.readouterr().err
