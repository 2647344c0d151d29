"""The small parts of the loop: rates, optimiser, sources, prefetching, devices and signals."""

import os
import signal
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core import optim, source
from core.distributed import World, pick_device
from core.model import GPT, GPTConfig, loss_sum
from core.prefetch import Prefetcher
from core.schedule import SHAPES, factor
from core.signals import StopSignals
from core.source import TaskSource
from procedural_data.sort import Sort

TASK = Sort(seq_length=3, vocab_size=9)


@given(
    shape=st.sampled_from(SHAPES),
    steps=st.integers(1, 500),
    warmup=st.integers(0, 499),
    floor=st.floats(0, 1),
    data=st.data(),
)
def test_rates_rise_from_above_zero_to_one_and_fall_to_no_less_than_the_floor(shape, steps, warmup, floor, data):
    warmup = min(warmup, steps - 1)
    step = data.draw(st.integers(0, steps - 1))
    now, then = (factor(s, shape=shape, steps=steps, warmup=warmup, floor=floor) for s in (step, step + 1))
    assert 0 < now <= 1 or (floor == 0 and step > warmup)
    assert now < then if step < warmup else now >= then
    assert step < warmup or now >= floor - 1e-12


def test_rates_have_their_closed_forms():
    at = {"steps": 110, "warmup": 10, "floor": 0.2}
    assert factor(0, shape="linear", **at) == pytest.approx(1 / 11)
    assert factor(10, shape="cosine", **at) == 1
    assert factor(60, shape="cosine", **at) == pytest.approx(0.6)
    assert factor(60, shape="linear", **at) == pytest.approx(0.6)
    assert factor(85, shape="linear", **at) == pytest.approx(0.4)
    assert factor(110, shape="cosine", **at) == pytest.approx(0.2)
    assert factor(109, shape="constant", **at) == 1


def test_a_warm_up_may_start_where_told():
    at = {"steps": 40, "warmup": 5, "shape": "constant", "start": 1e-4}
    trace = [factor(step, **at) for step in range(7)]
    assert trace == pytest.approx([0.0001, 0.20008, 0.40006, 0.60004, 0.80002, 1, 1])


def steps(model, optimizer, first, last):
    served = TaskSource(TASK, 0)
    for step in range(first, last):
        loss_sum(model, served.batch("train", step * 4, step * 4 + 4).supervised()).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_the_optimisers_state_by_name_continues_bit_for_bit():
    config = GPTConfig(TASK.num_tokens, TASK.block_size, 1, 1, 8)
    whole, half = GPT(config), GPT(config)
    steps(whole, optim.adamw(whole, lr=1e-2, weight_decay=0.1), 0, 6)
    before = optim.adamw(half, lr=1e-2, weight_decay=0.1)
    steps(half, before, 0, 3)
    after = optim.adamw(half, lr=1e-2, weight_decay=0.1)
    optim.load_state_tensors(after, half, optim.state_tensors(before, half))
    steps(half, after, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), half.parameters(), strict=True))


def test_matrices_decay_and_nothing_else_does():
    model = GPT(GPTConfig(TASK.num_tokens, TASK.block_size, 1, 1, 8))
    decayed, others = optim.adamw(model, lr=1e-2, weight_decay=0.1).param_groups
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("key", ["nothing.weight/exp_avg", "wte.weight/exp_avg"])
def test_a_foreign_state_is_refused(key):
    model = GPT(GPTConfig(TASK.num_tokens, TASK.block_size, 1, 1, 8))
    with pytest.raises(ValueError, match="the optimiser's state has"):
        optim.load_state_tensors(optim.adamw(model, lr=1, weight_decay=0), model, {key: torch.zeros(3)})


@given(start=st.integers(0, 900), length=st.integers(1, 700))
def test_any_slice_of_a_source_is_that_slice_of_the_whole(start, length):
    whole = TaskSource(TASK, 0).batch("train", 0, 1600).input_ids
    assert torch.equal(
        TaskSource(TASK, 0).batch("train", start, start + length).input_ids, whole[start : start + length]
    )


def test_threads_that_want_one_block_draw_it_once(monkeypatch):
    drawn, draw = [], source.draw_block
    barrier = threading.Barrier(4)

    def count(*arguments):
        drawn.append(arguments)
        return draw(*arguments)

    monkeypatch.setattr(source, "draw_block", count)
    shared = TaskSource(TASK, 0)

    def ask():
        barrier.wait()
        shared.batch("train", 0, 10)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 1


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_prefetcher_serves_in_order_and_starts_again_where_told(workers):
    offset = 0
    with Prefetcher(lambda t: [t + offset], start=3, stop=9, workers=workers) as batches:
        assert [batches.take(t) for t in (3, 4, 5)] == [[3], [4], [5]]
        offset = 100
        batches.restart(6)
        assert [batches.take(t) for t in (6, 7, 8)] == [[106], [107], [108]]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_fails_in_a_worker_fails_in_the_caller(workers):
    def fail(t):
        raise ZeroDivisionError(t)

    with Prefetcher(fail, start=0, stop=2, workers=workers) as batches, pytest.raises(ZeroDivisionError):
        batches.take(0)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", 99, "mps", "meta"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match="use auto"):
        pick_device(device)


@pytest.mark.parametrize(("device", "chosen"), [("auto", 1), ("cuda", 1), ("cuda:0", 0), (0, 0), ("1", 1)], ids=str)
def test_a_gpu_is_chosen_by_its_number(monkeypatch, device, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device(device) == torch.device("cuda", chosen)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    is_own = device in ("auto", "cuda")
    words = "'cuda:2' is not there: this machine has 2 GPUs" if is_own else "is one GPU for several processes"
    with pytest.raises(ValueError, match=words):
        pick_device(device)


@pytest.mark.parametrize("device", [256, "cuda:256", 255, 10**14, "²"], ids=str)
def test_a_number_that_pytorch_takes_for_another_is_refused(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="use auto"):
        pick_device(device)


def test_a_world_of_one_sums_to_itself():
    assert World().sum([1.5, 2]) == [1.5, 2]
    assert pick_device("cpu") == World().device


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_the_old_handler_comes_back(number, status):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.status == 0
        os.kill(os.getpid(), number)
        assert stop.status == status
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_muon_moves_matrices_of_blocks_orthogonally_and_adamw_the_rest():
    torch.manual_seed(0)
    model = GPT(GPTConfig(11, 8, 2, 2, 16), seed=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = optim.OPTIMIZERS["muon"](model, lr=1e-2, weight_decay=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = parameter.detach() - before[name]
        if name.startswith("blocks.") and parameter.dim() == 2:
            assert optimizer.state[parameter].keys() == {"momentum_buffer"}
            singular = torch.linalg.svdvals(moved / (1e-2 * 0.2 * max(parameter.shape) ** 0.5))
            assert 0.5 < singular.min() < singular.max() < 1.5  # five Newton-Schulz steps: about one
        else:
            assert {"step", "exp_avg", "exp_avg_sq"} <= optimizer.state[parameter].keys()
            torch.testing.assert_close(moved.abs(), torch.full_like(moved, 1e-2), atol=1e-5, rtol=0)


def test_muon_goes_on_from_its_saved_state():
    def trained(updates, state=None, weights=None):
        model = GPT(GPTConfig(11, 8, 1, 2, 16), seed=0)
        optimizer = optim.OPTIMIZERS["muon"](model, lr=1e-2, weight_decay=0.1)
        if state is not None:
            model.load_state_dict(weights)
            optim.load_state_tensors(optimizer, model, state)
        for update in updates:
            generator = torch.Generator().manual_seed(update)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optim.set_lr(optimizer, 1e-2 / (update + 1))
            optimizer.step()
        return model, {key: value.clone() for key, value in optim.state_tensors(optimizer, model).items()}

    whole, _ = trained(range(6))
    half, state = trained(range(3))
    after, _ = trained(range(3, 6), state, half.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), after.parameters(), strict=True))
