"""What is kept, and for how long: blocks that are computed twice, logits that never exist whole."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from core import optim
from core.batch import IGNORE, Batch, SupervisedBatch
from core.memory import peak_of_update, size_of
from core.model import GPT, GPTConfig, loss_sum

SHAPE = {"num_tokens": 13, "n_positions": 32, "n_layer": 4, "n_head": 2, "n_embd": 16}


def batch(rows: int, vocabulary: int = 13) -> Batch:
    ids = torch.randint(0, vocabulary, (rows, 32), generator=torch.Generator().manual_seed(0))
    return Batch(ids, torch.where(ids % 3 == 0, IGNORE, ids.roll(-1, dims=1)))


@pytest.mark.parametrize("positions", ["learned", "rope"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_blocks_that_are_computed_twice_give_the_same_gradients_and_keep_less(positions, dropout):
    results = []
    for recomputes in (False, True):
        model = GPT(GPTConfig(**SHAPE, positions=positions, dropout=dropout))
        model.recomputes = recomputes
        kept = peak_of_update(model, [batch(64).supervised()])
        torch.manual_seed(5)
        loss = loss_sum(model, batch(8).supervised())
        loss.backward()
        results.append((kept, loss, [p.grad for p in model.parameters()]))
    (kept, loss, gradients), (kept_less, same_loss, same_gradients) = results
    assert torch.equal(loss, same_loss)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same_gradients, strict=True))
    assert kept_less < kept / 2


def measured_peak(
    model: GPT, optimizer: torch.optim.Optimizer, update: Callable[[], None], inputs: int, path: Path
) -> int:
    """By PyTorch's allocator: what the update takes at its worst, on top of weights, moments and batch."""
    update()
    moments = sum(x.nbytes for x in optim.state_tensors(optimizer, model).values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        update()
    trace.export_chrome_trace(str(path))
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    sizes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(accumulate(sizes)) + size_of(model) + moments + inputs


@pytest.mark.parametrize(
    ("recomputes", "precision", "optimizer"),
    [(True, "fp32", "adamw"), (False, "fp32", "adamw"), (False, "fp32", "muon"), (True, "bf16", "adamw"),
     (False, "bf16", "adamw")],
)  # fmt: skip
def test_the_memory_of_an_update_is_known_before(tmp_path, recomputes, precision, optimizer):
    model = GPT(GPTConfig(**{**SHAPE, "n_embd": 64, "num_tokens": 100}))
    model.recomputes = recomputes
    one = batch(32, 100).supervised()
    mover = optim.OPTIMIZERS[optimizer](model, lr=0.0, weight_decay=0.0)

    def update():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_sum(model, one)
        loss.backward()
        mover.step()
        mover.zero_grad(set_to_none=True)

    inputs = sum(8 * x.numel() for x in (one.input_ids, one.positions, one.labels))
    measured = measured_peak(model, mover, update, inputs, tmp_path / "trace.json")
    assert peak_of_update(model, [one], precision, optimizer) == pytest.approx(
        measured, rel=0.01 if precision == "fp32" else 0.05
    )


def test_a_prompt_that_is_not_scored_can_be_predicted_too():
    """The last block's queries begin at the answer; how many there are changes little."""
    whole = batch(64)
    answers = Batch(whole.input_ids, torch.where(torch.arange(32) < 16, IGNORE, whole.targets))
    assert answers.supervised().first == 16
    model = GPT(GPTConfig(**SHAPE))
    assert 0.6 < peak_of_update(model, [answers.supervised()]) / peak_of_update(model, [whole.supervised()]) <= 1


PEAK = """
import resource, sys, torch
from core.loss import cross_entropy_sum
torch.set_num_threads(1)
def loss(positions):
    x = torch.randn(positions, 32, requires_grad=True)
    weight = torch.randn(50257, 32, requires_grad=True)
    cross_entropy_sum(x, weight, torch.arange(positions)).backward()
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
loss(512)
before = peak()
loss(int(sys.argv[1]))
print(peak() - before)
"""


@pytest.mark.slow
def test_the_memory_of_the_loss_does_not_grow_with_the_positions():
    """8,192 logits of GPT-2's vocabulary are 1,570 MiB; what grows here is their inputs, 32 numbers each."""
    command = [sys.executable, "-c", PEAK, "8192"]
    done = subprocess.run(command, env={"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 60


@pytest.mark.parametrize("vocabulary", [13, 4099])
def test_positions_that_fill_a_batch_up_count_for_nothing(vocabulary):
    results = []
    plain = batch(3, vocabulary).supervised()
    full = plain.filled(2)
    for one in (plain, full):
        model = GPT(GPTConfig(**{**SHAPE, "num_tokens": vocabulary}))
        loss = loss_sum(model, one)
        loss.backward()
        results.append((loss, [p.grad for p in model.parameters()]))
    assert full.fillers
    assert full.scored == plain.scored == len(plain.labels)
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_filled_batches_have_few_shapes():
    """As many numbers of targets, and of firsts, as asked for, and none fewer than before."""
    sizes, firsts = set(), set()
    for start in range(32):
        ids = torch.randint(0, 13, (8, 32), generator=torch.Generator().manual_seed(start))
        targets = torch.where(ids % 3 == 0, IGNORE, ids)
        targets[:, :start] = IGNORE
        plain = SupervisedBatch.of(Batch(ids, targets))
        filled = plain.filled(4)
        assert len(filled.labels) >= len(plain.labels)
        assert filled.first <= plain.first
        sizes.add(len(filled.labels))
        firsts.add(filled.first)
    assert len(firsts) <= 4 < len(sizes | firsts) <= 8
