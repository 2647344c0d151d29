"""Several processes that train together: the same course as one process, whichever way the model is spread."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fault_trials import Server, in_words, order, orders_of_ranks
from safetensors.torch import load_file
from small_runs import metrics
from transformers import AutoModelForCausalLM

from core import checkpoint

KEYS = {
    "seq_length": 6,
    "gpt2_size": "2_2_16",
    "lr": 1e-3,
    "lr_schedule": "constant",
    "max_grad_norm": 0.5,
    "max_steps": 50,
    "save_every_steps": 10,
    "save_total_limit": None,
    "log_every_steps": 1,
    "eval_examples": 24,
    "batch_size": 8,
}


def trained(server: Server, run_dir: Path, *faults, size: int = 1, examples: int = 48, **keys) -> Path:
    """A run of updates on `examples` each, by `size` processes."""
    keys = {**KEYS, "gradient_accumulation_steps": examples // KEYS["batch_size"] // size, **keys}
    for outcome in server.carry_out(*orders_of_ranks(run_dir, size, *faults, **keys)):
        assert outcome.status == 0, outcome.said
    return run_dir


@pytest.fixture(scope="module")
def alone(server, tmp_path_factory) -> Path:
    return trained(server, tmp_path_factory.mktemp("alone") / "run")


def assert_same_course(one: Path, other: Path) -> None:
    a, b = metrics(one), metrics(other)
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        for key in ("step", "examples", "tokens", "split"):
            assert left.get(key) == right.get(key)
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-5), left
        assert left.get("grad_norm", 0) == pytest.approx(right.get("grad_norm", 0), abs=1e-4), left


def assert_same_checkpoint(one: Path, other: Path) -> None:
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in other.iterdir())
    assert checkpoint.damage(other) is None
    for file in ("model.safetensors", "optimizer.safetensors"):
        a, b = load_file(one / file), load_file(other / file)
        assert a.keys() == b.keys()
        for name in a:  # a key's bias moves no loss: what Adam makes of its rounding errors is as large as a step
            if "c_attn.bias" not in name and "attn.qkv.bias" not in name:
                torch.testing.assert_close(a[name], b[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("kind", "size", "keys"),
    [
        ("ddp", 2, {}),
        ("fsdp", 2, {"gradient_checkpointing": True}),
        pytest.param("fsdp", 3, {}, marks=pytest.mark.slow),  # shares of different sizes
    ],
)
def test_several_processes_do_what_one_does(server, alone, tmp_path, kind, size, keys):
    run = trained(server, tmp_path / "run", size=size, parallel=kind, **keys)
    assert_same_course(alone, run)
    assert_same_checkpoint(alone / "checkpoint-50", run / "checkpoint-50")
    assert AutoModelForCausalLM.from_pretrained(run / "checkpoint-50").num_parameters() > 0


def test_a_run_goes_on_under_other_numbers_of_processes_and_another_spread(server, alone, tmp_path):
    run = tmp_path / "run"
    for steps, size, kind in [(10, 2, "fsdp"), (20, 1, "ddp"), (30, 2, "ddp"), (40, 3, "fsdp"), (50, 2, "fsdp")]:
        trained(server, run, size=size, parallel=kind, max_steps=steps)
    assert_same_course(alone, run)
    assert_same_checkpoint(alone / "checkpoint-50", run / "checkpoint-50")


def test_a_run_goes_on_from_between_two_lines_of_training_loss(server, tmp_path):
    keys = {"size": 2, "max_steps": 9, "save_every_steps": 3, "log_every_steps": 8}
    whole = trained(server, tmp_path / "whole", **keys)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut, symlinks=True)
    for step in (6, 9):
        shutil.rmtree(cut / f"checkpoint-{step}")
    trained(server, cut, **keys)
    assert metrics(cut) == metrics(whole)
    states = [checkpoint.read_state(run / "checkpoint-6") for run in (cut, whole)]
    assert len(states[0]["window"]) == 6
    assert states[0] == states[1]


def collectives(run: Path) -> dict[str, int]:
    """How often each was called in the updates of a trace. Gloo's reduce_scatter is an all_reduce."""
    events = json.loads((run / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("name", "").startswith("gloo:")]
    return {name: names.count(name) for name in sorted(set(names))}


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_gradients_are_reduced_once_an_update_however_many_micro_batches_it_has(server, tmp_path, kind):
    found = []
    for examples in (16, 48):
        keys = {"max_steps": 16, "save_every_steps": 100, "profile": True, "log_every_steps": 100, "positions": "rope"}
        run = trained(server, tmp_path / str(examples), size=2, examples=examples, parallel=kind, **keys)
        found.append(collectives(run))
    assert found[0]["gloo:all_reduce"] == found[1]["gloo:all_reduce"] > 10, found
    assert "gloo:broadcast" not in found[1], "what every rank has"


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_only_the_main_process_writes(server, tmp_path, kind):
    run, count = tmp_path / "run", {"folder": str(tmp_path / "run"), "into": str(tmp_path / "calls")}
    keys = {**KEYS, "max_steps": 4, "save_every_steps": 2, "parallel": kind}
    main, other = orders_of_ranks(run, 2, **keys)
    other["faults"] = [("count_disk_calls", count)]
    assert [outcome.status for outcome in server.carry_out(main, other)] == [0, 0]
    writes = [line for line in (tmp_path / "calls").read_text().splitlines() if ".lock" not in line]
    assert not [line for line in writes if "mkdir" not in line], "may make sure that the folder can be written"


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_signal_to_any_rank_stops_all_once_everything_is_saved(server, tmp_path, kind):
    run = tmp_path / "run"
    keys = {**KEYS, "parallel": kind, "gradient_accumulation_steps": 3}
    faults = [("at_update", {"number": 13, "action": "SIGUSR1", "rank": 1}), ("slow_updates", {"seconds": 0.002})]
    outcomes = server.carry_out(*orders_of_ranks(run, 2, *faults, **keys))
    assert [outcome.status for outcome in outcomes] == [75, 75], outcomes
    (step,) = checkpoint.list_steps(run)[-1:]
    assert step == 13 or step == 14
    assert f"step {step} is saved" in outcomes[0].said
    own = [line for line in outcomes[1].said.splitlines() if not line.startswith("[Gloo]")]  # as of PyTorch 2.9
    assert not own, "one rank speaks for all"


# --- A rank is lost


@pytest.mark.parametrize(
    ("kind", "lost"), [("ddp", 0), ("ddp", 1), *(pytest.param("fsdp", n, marks=pytest.mark.slow) for n in (0, 1))]
)
def test_a_killed_rank_ends_all_in_words_and_the_run_goes_on(server, alone, tmp_path, kind, lost):
    run = tmp_path / "run"
    keys = {**KEYS, "parallel": kind, "gradient_accumulation_steps": 3}
    outcomes = server.carry_out(
        *orders_of_ranks(run, 2, ("at_update", {"number": 24, "action": "SIGKILL", "rank": lost}), **keys)
    )
    assert outcomes[lost].status == -9
    assert outcomes[1 - lost].seconds < 30
    if lost == 1:
        in_words(outcomes[0], 1, str(run), "one of the 2 processes ended or hangs", f"{run}/checkpoint-20")
    else:
        assert outcomes[1].status == 1
        assert "Traceback" not in outcomes[1].said
    trained(server, run, size=2, parallel=kind)
    assert_same_course(alone, run)


@pytest.mark.parametrize(("error", "words"), [("OSError", "/data/tokens.bin"), ("MemoryError", "out of memory")])
def test_a_rank_that_fails_says_itself_why(server, tmp_path, error, words):
    run = tmp_path / "run"
    main, other = orders_of_ranks(run, 2, **{**KEYS, "max_steps": 10, "save_every_steps": 5})
    other["faults"] = [("source_breaks", {"at": 7, "error": error})]
    outcomes = server.carry_out(main, other)
    in_words(outcomes[1], 1, "rank 1: ", words)
    in_words(outcomes[0], 1, "one of the 2 processes ended or hangs", f"{run}/checkpoint-5")


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_others_after_the_timeout(server, tmp_path):
    run = tmp_path / "run"
    keys = {**KEYS, "timeout_minutes": 0.05}
    fault = ("at_update", {"number": 4, "action": "SIGSTOP", "rank": 1})
    orders = orders_of_ranks(run, 2, fault, _signals=[], **keys)
    orders[1]["signals"] = [[12.0, 18]]  # woken, it finds itself alone
    outcomes = server.carry_out(*orders)
    in_words(outcomes[0], 1, str(run), "one of the 2 processes ended or hangs (Timed out")
    assert outcomes[0].seconds < 12
    assert outcomes[1].status == 1
    assert "Traceback" not in outcomes[1].said


def test_what_fsdp_cannot_divide_is_refused(server, tmp_path):
    run = tmp_path / "run"
    (outcome,) = server.carry_out(order(run, **{**KEYS, "compile": "reduce-overhead"}))
    in_words(outcome, 2, "compile: reduce-overhead replays CUDA graphs, which takes a GPU")
    shutil.rmtree(run, ignore_errors=True)
    (outcome,) = server.carry_out(order(run, **{**KEYS, "parallel": "zero"}))
    in_words(outcome, 2, "parallel: 'zero' is not allowed")
