"""Keys that decide how a run is carried out, not what comes out."""

import json
import re

import pytest
from small_runs import flags, metrics

from core.profiler import PARTS, UPDATES
from procedural_pretraining import cli


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"profile": True}])
def test_the_run_is_the_same_run(train, changes):
    plain, other = train("plain"), train("other", **changes)
    assert metrics(plain) == metrics(other)
    name = "checkpoint-20/model.safetensors"
    assert (plain / name).read_bytes() == (other / name).read_bytes()


def test_a_profile_is_a_trace_and_five_lines(train, capsys):
    run = train("run", profile=True)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if "ms an update" in line]
    assert [row[:12].strip() for row in rows] == list(PARTS)
    shares = [float(re.search(r"([\d.]+)%", row)[1]) for row in rows]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    events = json.loads((run / "trace.json").read_text())["traceEvents"]
    for part in PARTS:
        assert sum(event.get("name") == part and event.get("ph") == "X" for event in events) >= UPDATES, part


def test_a_run_that_is_too_short_to_watch_ends_well(train, capsys):
    run = train("run", profile=True, max_steps=3)
    assert not (run / "trace.json").exists()
    assert "profile: no trace of 3 updates, as the first 5 pass unseen" in capsys.readouterr().out
    train("eight", profile=True, max_steps=8)
    assert "trace of 3 updates" in capsys.readouterr().out


def test_a_trace_that_could_not_be_written_is_not_claimed(train, tmp_path, capsys):
    (tmp_path / "run" / "trace.json" / "x").mkdir(parents=True)  # in the way
    run = train("run", profile=True, max_steps=8)
    assert f"trace of 3 updates could not be written: {run}/trace.json" in capsys.readouterr().out
    assert [path.name for path in run.glob("trace.json*")] == ["trace.json"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compile": "reduce-overhead"}, "compile: reduce-overhead replays CUDA graphs, which takes a GPU"),
        ({"compile": "reduce-overhead", "dry_run": "true"}, "reduce-overhead replays CUDA graphs, which takes a GPU"),
        ({"compile": "max-autotune"}, "compile: 'max-autotune' is not allowed"),
        ({"parallel": "zero"}, "parallel: 'zero' is not allowed"),
        ({"timeout_minutes": "0"}, "timeout_minutes"),
        ({"timeout_minutes": "1e-6"}, "in [0.01, 525600"),
        ({"timeout_minutes": "1e30"}, "in [0.01, 525600"),
        ({"seeds": "0-1", "profile": True}, "seeds: profile is for one run"),
    ],
)
def test_what_cannot_be_is_refused(train, tmp_path, capsys, changes, words):
    assert cli.main(flags(save_dir=tmp_path / "run", **changes)) == 2
    assert words in capsys.readouterr().err


def test_padding_is_counted(train):
    """`set` of 6 items: of 12 tokens read, as many are padding as items occur again, beyond the first."""
    run = train("run")
    share = json.loads((run / "summary.json").read_text())["session"]["padding_share"]
    assert 0.01 < share < 0.3
    sort = train("sort", task="sort")
    assert json.loads((sort / "summary.json").read_text())["session"]["padding_share"] == 0
