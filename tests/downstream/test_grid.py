"""The grid: whole, cut off, shared by two processes; and its report against statistics worked out by hand."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from core.errors import UserError
from downstream import cli, grid_report
from downstream.grid import GridConfig, Workers, jobs

ROOT = Path(__file__).parents[2]
SMALL = {
    "seeds": [0],
    "pretraining": {"set": {"task": "set", "seq_length": 4, "vocab_size": 8}},
    "weights": {"attention": ["attn"]},
    "controls": ["no_pretraining", "shuffled_tokens", "shuffled_weights"],
    "downstream": {"sorting": {"task": "sorting_2"}},
    "pretraining_keys": {"gpt2_size": "1_2_16", "max_steps": 6, "batch_size": 4, "eval_examples": 8, "device": "cpu"},
    "downstream_keys": {
        "n_layer": 1, "n_head": 2, "n_embd": 16, "batch_size": 8, "max_steps": 8, "eval_steps": 4, "eval_size": 20,
        "validation_size": 20, "device": "cpu", "save_steps": 4,
    },
}  # fmt: skip
NAMES = {"no pretraining", "set, attention", "set, attention, shuffled tokens", "set, attention, shuffled weights"}

FEW = ["no_pretraining", "shuffled_weights"]


def written(folder: Path, **changes) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "save_dir": str(folder / "grid"), **changes}))
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(config: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "downstream.cli", "grid", "--config", str(config), *flags]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(folder: Path) -> Counter:
    path = folder / "grid" / "finished.txt"
    return Counter(path.read_text().split("\n")[:-1]) if path.exists() else Counter()


def test_donors_come_first_and_every_condition_has_a_cell_for_every_seed():
    config = GridConfig(**{**SMALL, "seeds": [0, 1]}, save_dir="x")
    found = jobs(config)
    donors = [job for job in found if not job.labels]
    assert [job.name for job in found[: len(donors)]] == [job.name for job in donors]
    assert len(donors) == 4, "set, and set with shuffled tokens, for two seeds"
    cells = [job for job in found if job.labels]
    assert {(job.labels["condition"], *job.seeds) for job in cells} == {(n, s) for n in NAMES for s in (0, 1)}
    for job in cells:
        has = any(word.startswith("--pretrained_model_path=") for word in job.command)
        assert has == (job.needs is not None) == (job.labels["condition"] != "no pretraining")
        if "shuffled tokens" in job.labels["condition"]:
            assert "shuffled_tokens" in job.needs.name
        assert ("--transfer_control=shuffle_weights" in job.command) == ("shuffled weights" in job.labels["condition"])


def test_a_key_that_is_null_is_null_in_the_run():
    """`max_grad_norm: null` means never, and is not what leaving the key out means."""
    keys = {place: {**SMALL[place], "max_grad_norm": None} for place in ("pretraining_keys", "downstream_keys")}
    found = jobs(GridConfig(**{**SMALL, **keys}, save_dir="x"))
    assert all("--max_grad_norm=null" in job.command for job in found)


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> Path:
    """A grid that was killed in the middle of a cell while two processes worked on it, and then run to its end."""
    folder = tmp_path_factory.mktemp("grid")
    config = written(folder, controls=FEW)
    killed = start(config)
    while len(finished(folder)) < 2:
        assert killed.poll() is None, killed.stdout.read().decode()
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert 2 <= len(finished(folder)) < 4
    both = [start(config), start(config, "--processes", "2")]
    said = [process.communicate()[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "3 cells on 1 pretrained models" in said[0]
    return folder


def test_killed_and_shared_a_grid_runs_every_cell_once(ended):
    expected = jobs(GridConfig(**{**SMALL, "controls": FEW}, save_dir=str(ended / "grid")))
    assert all(job.is_done() for job in expected)
    # The run that the killed process had begun ended by itself, or was gone on with; none was run again.
    counts = finished(ended)
    assert set(counts) <= {job.name for job in expected}
    assert max(counts.values()) == 1
    assert len(counts) >= len(expected) - 1
    before = {path: path.stat().st_mtime_ns for path in (ended / "grid" / "cells").rglob("summary.json")}
    assert start(ended / "grid.yaml").wait() == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.pictures
def test_the_report_is_complete(ended, capsys):
    rows = grid_report.report(grid_report.ReportConfig(grid=str(ended / "grid"), metric="exact_match"))
    assert {row["condition"] for row in rows} == NAMES - {"set, attention, shuffled tokens"}
    assert all(row["seeds"] == 1 for row in rows)
    said = capsys.readouterr().out
    for name in ("report.md", "report.json", "heat_map.png", "learning_curves.png"):
        assert str(ended / "grid" / name) in said
        assert (ended / "grid" / name).stat().st_size > 300
    assert json.loads((ended / "grid" / "report.json").read_text())["missing"] == []


def test_changed_settings_are_refused(ended, capsys):
    config = written(ended, controls=FEW, downstream={"sorting": {"task": "sorting_2", "learning_rate": 0.5}})
    assert cli.main(["grid", "--config", str(config)]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err
    config = written(ended, controls=FEW)
    (note,) = (ended / "grid" / "cells" / "sorting" / "no_pretraining").rglob("cell.json")
    said = note.read_text()
    note.write_text("")  # as a full disk or a power cut leaves it
    assert cli.main(["grid", "--config", str(config)]) == 2
    assert f"{note.parent} holds a run with other settings" in capsys.readouterr().err
    note.write_text(said)


@pytest.mark.slow
def test_seeds_at_once_come_to_what_each_alone_comes_to(tmp_path):
    """Begun with one seed, killed in the middle with three, and gone on with."""
    keys = {**SMALL, "controls": [], "seeds": [0, 3, 4]}
    folder = {mode: tmp_path / mode for mode in ("alone", "together")}
    for path in folder.values():
        path.mkdir()
    first = start(written(folder["together"], **{**keys, "seeds": [0]}))
    assert first.wait() == 0, first.stdout.read().decode()
    alone, together = written(folder["alone"], **keys), written(folder["together"], **keys, seeds_at_once=True)
    killed = start(together)
    while not list(folder["together"].rglob("cells/**/seed3/checkpoint-4")):
        assert killed.poll() is None, killed.stdout.read().decode()
        time.sleep(0.02)
    killed.kill()
    processes = [start(alone), start(together)]
    assert [process.wait() for process in processes] == [0, 0], processes[1].stdout.read().decode()
    assert max(finished(folder["together"]).values()) == 1
    for seed in keys["seeds"]:
        summaries = [path / "grid" / "cells" / "sorting" / "set-attention" / f"seed{seed}" for path in folder.values()]
        read = [json.loads((path / "summary.json").read_text()) for path in summaries]
        losses = [[row["loss"] for row in summary["evaluation"]] for summary in read]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        for summary in read:
            sources = {row["source"] for row in summary["transfer"]} - {"-"}
            assert sources
            assert all(source.endswith(f"pretraining/set/seed{seed}/final") for source in sources)


def test_seeds_at_once_are_one_process_for_each_condition():
    config = GridConfig(**{**SMALL, "seeds": [5, 7], "seeds_at_once": True}, save_dir="x")
    apart = GridConfig(**{**SMALL, "seeds": [5, 7]}, save_dir="x")
    together, alone = jobs(config), jobs(apart)
    assert len(together) == len(alone) / 2 == 6
    assert all("--seeds=5,7" in job.command for job in together)
    folders = [{job.run_dir(seed) for job in some for seed in job.seeds} for some in (together, alone)]
    assert folders[0] == folders[1]


@pytest.mark.slow
def test_a_signal_saves_ends_and_can_be_gone_on_from(tmp_path):
    config = written(tmp_path, downstream_keys={**SMALL["downstream_keys"], "max_steps": 100_000})
    process = start(config)
    while len(finished(tmp_path)) < 2:
        assert process.poll() is None, process.stdout.read().decode()
        time.sleep(0.05)
    while not list(
        (tmp_path / "grid" / "cells").glob("*/*/*/checkpoint-4")
    ):  # rglob would look into folders that come and go
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert b"goes on where it was" in said


def test_a_signal_that_comes_while_a_run_is_being_started_reaches_it(tmp_path, monkeypatch):
    config = GridConfig(**{**SMALL, "pretraining": {}, "weights": {}}, save_dir=str(tmp_path))
    workers = Workers(config, jobs(config))

    class Interrupted(subprocess.Popen):
        def __init__(self, command, **keys):
            super().__init__(["sleep", "30"], **keys)
            workers.stop(signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    began = time.monotonic()
    workers.work()
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_failed_cells_are_named_and_the_others_are_run(tmp_path, capsys):
    grid = tmp_path / "grid"
    config = written(tmp_path, controls=["no_pretraining"])
    blocked = grid / "cells" / "sorting" / "set-attention" / "seed0" / "summary.json"
    blocked.mkdir(parents=True)  # cannot be written
    process = start(config)
    said = process.communicate()[0].decode()
    assert process.returncode == 1
    assert "sorting/set-attention/seed0 failed: status" in said
    assert len(finished(tmp_path)) == 2


def test_a_cell_whose_folder_cannot_be_made_fails_by_name(tmp_path, capsys):
    config = written(tmp_path, pretraining={}, weights={}, controls=["no_pretraining"])
    (tmp_path / "grid" / "cells").mkdir(parents=True)
    (tmp_path / "grid" / "cells" / "sorting").write_text("")
    assert cli.main(["grid", "--config", str(config)]) == 1
    assert "error: sorting/no_pretraining/seed0 failed: [Errno 20] Not a directory" in capsys.readouterr().err


def test_the_file_of_a_grid_is_that_of_all_shares_and_never_half_written(tmp_path, capsys):
    """Tasks of an array begin together: one reads what another writes."""
    config = written(tmp_path, pretraining={}, weights={}, controls=["no_pretraining"])
    assert cli.main(["grid", "--config", str(config), "--slurm", "--shard", "3/8"]) == 0
    file = tmp_path / "grid" / "grid.yaml"
    values = yaml.safe_load(file.read_text())
    assert (values["shard"], values["slurm"]) == ("0/1", False)
    os.link(file, tmp_path / "open")  # as it is to somebody who is reading it
    assert cli.main(["grid", "--config", str(config), "--slurm", "--processes", "2"]) == 0
    assert yaml.safe_load((tmp_path / "open").read_text()) == values
    assert yaml.safe_load(file.read_text()) == {**values, "processes": 2}


def test_shards_divide_the_runs():
    config = GridConfig(**SMALL, save_dir="x")
    every = [job.name for job in jobs(config)]
    assert sorted(every[0::3] + every[1::3] + every[2::3]) == sorted(every)


@pytest.mark.slow
def test_a_share_waits_for_no_other_but_trains_the_models_it_needs(tmp_path):
    """Alone, and where they cannot be trained."""
    config = written(tmp_path, controls=[])
    (donor, cell) = jobs(GridConfig(**{**SMALL, "controls": []}, save_dir=str(tmp_path / "grid")))
    blocked = donor.run_dir(0) / "metrics.jsonl"
    blocked.mkdir(parents=True)  # cannot be written
    process = start(config, "--shard", "1/2")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"pretraining/set/seed0 failed: status" in said
    blocked.rmdir()
    process = start(config, "--shard", "1/2")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert set(finished(tmp_path)) == {donor.name, cell.name}


@pytest.mark.slow
def test_the_slurm_script_is_sound_and_runs_its_share(tmp_path):
    folder = tmp_path / "two words"
    folder.mkdir()
    config = written(folder, controls=["no_pretraining"])
    process = start(config, "--slurm", "--shard", "0/2")
    said = process.communicate()[0].decode()
    assert process.returncode == 0, said
    script = folder / "grid" / "grid.sbatch"
    assert f"sbatch '{script}'" in said
    assert "#SBATCH --array=0-1" in script.read_text()
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    tasks = [
        subprocess.Popen(["bash", script], cwd=ROOT, env={**environment(), "SLURM_ARRAY_TASK_ID": str(n)})
        for n in (0, 1)
    ]
    assert [task.wait() for task in tasks] == [0, 0]
    assert len(finished(folder)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "seeds: [] is not allowed"),
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"seeds": [2**64]}, "seeds: [18446744073709551616] is not allowed"),
        ({"controls": ["none"]}, "controls: ['none'] is not allowed"),
        ({"weights": {}}, "belong together"),
        ({"weights": {"none": []}}, "weights.none: [] takes nothing; name at least one of attn"),
        ({"weights": {"mlp": ["mlp"]}}, "it takes lines of the form `key: list of one of attn, heads"),
        ({"downstream": {}}, "downstream"),
        ({"downstream": {"a b": {"task": "sorting_2"}}}, "becomes the name of a folder"),
        ({"downstream": {"a": {"task": "sorting_2", "seed": 1}}}, "downstream.a.seed: the grid sets this key itself"),
        ({"downstream_keys": {"seed": 1}}, "downstream_keys.seed: the grid sets this key itself"),
        (
            {"downstream_keys": {"pretrained_path": "x"}},
            "downstream_keys.pretrained_path: the grid sets",
        ),
        (
            {"downstream": {"a": {"task": "sorting_2", "transfer_control": "reinit"}}},
            "downstream.a.transfer_control: the",
        ),
        (
            {"pretraining": {"p": {"task": "set", "shuffle_tokens": True}}},
            "p.shuffle_tokens: the grid",
        ),
        ({"downstream": {"a": {"task": "addition_5"}}}, "downstream.a: task: 'addition_5' is no task"),
        ({"downstream": {"a": {"task": "sorting_2", "lr": 1}}}, "downstream.a: lr: no such key"),
        ({"pretraining": {"p": {"task": "sort", "seq_length": 0}}}, "pretraining.p: seq_length: 0 is not allowed"),
        (
            {"seeds": [0, 1], "seeds_at_once": True, "downstream": {"a": {"task": "sorting_2", "dropout": 0.1}}},
            "downstream.a: command line: seeds: what dropout draws for one",
        ),
        (
            {"weights": {"attention": ["attn"], "attention-shuffled_tokens": ["ffn"]}},
            "cells/sorting/set-attention-shuffled_tokens would belong to two conditions",
        ),
        ({"shard": "2/2"}, "shard 2/2"),
        ({"shard": "x"}, "shard: 'x' is not allowed"),
        ({"nope": 1}, "nope: no such key"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused_before_anything_is(tmp_path, changes, message, capsys):
    assert cli.main(["grid", "--config", str(written(tmp_path, **changes))]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert not (tmp_path / "grid").exists()


# --- The report's numbers


class Made(grid_report.Cell):
    def __init__(self, condition: str, seed: int, value: float, loss: list[float]):
        self.task, self.condition, self.value, self.floor = "task", condition, value, 0.1
        self.loss, self.tokens = np.array(loss), 100.0 * np.arange(len(loss))
        self.course = 1 - self.loss


def test_means_intervals_p_and_tokens_saved_are_those_worked_out_by_hand():
    base = [Made("no pretraining", n, v, [2.0, 1.5, 1.0]) for n, v in enumerate((0.2, 0.4, 0.6))]
    better = [Made("set", n, v, [2.0, 1.0, 0.5]) for n, v in enumerate((0.6, 0.8, 1.0))]
    better[0].loss = np.array([2.0, 0.0, 0.0])
    first, second = grid_report.rows_of([*base, *better])
    assert first["mean"] == pytest.approx(0.4)
    assert first["interval"] == pytest.approx(4.302652729911275 * 0.2 / math.sqrt(3))  # t of 2 degrees of freedom
    assert second["difference"] == pytest.approx(0.4)
    t = 0.4 / math.sqrt(0.04 / 3 + 0.04 / 3)
    assert second["p"] == pytest.approx(2 * stats.t.sf(t, 4))
    assert second["tokens_saved"] == pytest.approx(1 - np.mean([50, 100, 100]) / 200)
    assert second["reached"] == 3
    text = grid_report.as_markdown([first, second], "accuracy", 8, ["a", "b"])
    assert "| task | set | 3 | 0.8000 ± 0.4968 | 0.1000 | +0.4000 | 0.0705 | 58% |" in text
    assert "2 of 8 cells have not ended: a, b" in text


def test_a_loss_that_is_never_reached_and_values_without_spread_are_said():
    base = [Made("no pretraining", n, 0.5, [2.0, 1.0]) for n in range(2)]
    worse = [Made("set", n, 0.5, [2.0, 1.5]) for n in range(2)]
    _, row = grid_report.rows_of([*base, *worse])
    assert row["p"] is None
    assert row["tokens_saved"] is None
    assert "never (0 of 2 seeds reached it)" in grid_report.as_markdown([row], "accuracy", 4, [])
    (single,) = grid_report.rows_of(base[:1])
    assert single["interval"] is None


def test_values_that_are_all_equal_have_no_p_though_their_mean_is_rounded():
    base = [Made("no pretraining", n, 0.1, [2.0, 1.0]) for n in range(3)]  # their standard deviation is 1e-17
    other = [Made("set", n, 0.1, [2.0, 1.0]) for n in range(5)]
    assert grid_report.rows_of([*base, *other])[1]["p"] is None


def test_a_report_on_nothing_is_refused(tmp_path, ended):
    with pytest.raises(UserError, match="holds no grid"):
        grid_report.report(grid_report.ReportConfig(grid=str(tmp_path)))
    (tmp_path / "grid.yaml").write_text("seeds: [0")
    with pytest.raises(UserError, match=r"grid.yaml: line 1, column"):
        grid_report.report(grid_report.ReportConfig(grid=str(tmp_path)))
    (tmp_path / "grid.yaml").write_text("seeds: [zero]")
    with pytest.raises(UserError, match=r"grid.yaml: seeds"):
        grid_report.report(grid_report.ReportConfig(grid=str(tmp_path)))
    for metric in ("speed", "split"):
        with pytest.raises(UserError, match=f"'{metric}' is none of the measurements"):
            grid_report.report(grid_report.ReportConfig(grid=str(ended / "grid"), metric=metric))


def test_a_cell_whose_course_was_lost_is_named(ended, tmp_path):
    """As by a power cut, or by somebody who made room: what is left of it would give another final loss."""
    damaged = shutil.copytree(ended / "grid", tmp_path / "grid", symlinks=True)
    metrics = damaged / "cells" / "sorting" / "no_pretraining" / "seed0" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    for left in ([line for line in lines if '"step": 8' not in line], []):
        metrics.write_text("".join(left))
        with pytest.raises(UserError, match=f"grid: {metrics} lacks the validation of update 8, the last one"):
            grid_report.report(grid_report.ReportConfig(grid=str(damaged)))


def test_a_grid_that_was_moved_is_reported_on(ended, tmp_path):
    """As from the cluster where it ran, or from another folder than the one that its save_dir counts from."""
    moved = shutil.copytree(ended / "grid", tmp_path / "moved", symlinks=True)
    saved = (moved / "grid.yaml").read_text()
    (moved / "grid.yaml").write_text(saved.replace(str(ended / "grid"), "results/not/here"))
    assert len(grid_report.report(grid_report.ReportConfig(grid=str(moved)))) == 3


def test_a_grid_that_was_moved_goes_on(ended, tmp_path):
    """Its cells take the same weights from where the donors lie now."""
    moved = shutil.copytree(ended / "grid", tmp_path / "moved", symlinks=True)
    cell = moved / "cells" / "sorting" / "set-attention" / "seed0"
    expected = (cell / "metrics.jsonl").read_bytes()
    (cell / "summary.json").unlink()
    shutil.rmtree(cell / "checkpoint-8")
    (ended / "grid").rename(ended / "away")
    try:
        assert start(ended / "grid.yaml", f"--save_dir={moved}").wait() == 0
    finally:
        (ended / "away").rename(ended / "grid")
    log = (moved / "logs" / "sorting.set-attention.seed0.log").read_text()
    assert f"resuming {cell}/checkpoint-4 at step 4 of 8" in log
    assert (cell / "metrics.jsonl").read_bytes() == expected


@pytest.mark.slow
def test_cells_may_be_language_models(tmp_path, archive):
    math_keys = {"verb": "math", "data": str(archive), "prepared_dir": str(tmp_path / "prepared"), "passes": None}
    math_keys |= {"gpt2_size": "1_2_16", "seq_length": 32, "batch_size": 2, "max_steps": 2, "device": "cpu"}
    keys = {"pretraining": {}, "weights": {}, "controls": ["no_pretraining"], "downstream_keys": {}}
    config = written(tmp_path, **keys, downstream={"sums": math_keys})
    assert cli.main(["grid", "--config", str(config)]) == 0
    assert finished(tmp_path) == Counter({"sums/no_pretraining/seed0": 1})
    (row,) = grid_report.report(grid_report.ReportConfig(grid=str(tmp_path / "grid"), metric="exact_match"))
    assert row["task"] == "sums"


def test_a_verb_that_is_none_is_refused(tmp_path, capsys):
    config = written(tmp_path, downstream={"text": {"verb": "poetry"}})
    assert cli.main(["grid", "--config", str(config)]) == 2
    assert "downstream.text.verb: 'poetry' is none of algorithmic, c4, codeparrot, math" in capsys.readouterr().err
