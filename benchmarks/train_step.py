"""A training step of ours, of a plain PyTorch loop around transformers' GPT-2, and of that loop as it was set before.

python -m benchmarks.train_step [--json FILE] [--sizes 12_12_768,2_4_16] [--rounds 7] [--batch_size 64]

All three start from the same weights, and the first loss is checked to be the same. They take turns, in rounds of some
seconds, so that whatever else the machine does falls on each alike. Data is made within our step, while the other two
are given batches that lie ready.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2LMHeadModel

from benchmarks import report
from core import hf
from core.batch import IGNORE, Batch
from core.distributed import World, join
from core.model import GPT, GPTConfig, loss_sum, parse_size
from core.prefetch import Prefetcher
from core.source import TaskSource
from core.tracking import Tracker
from core.trainer import Phase, Run, Settings
from procedural_data.sort import Sort

BARS = {  # least ratios of their time to ours: plain loop, earlier settings
    "12_12_768": (1.05, 1.4),
    "4_4_256": (1.2, 2.0),
    "2_4_16": (1.1, 3.0),
}
GENERATION_BAR = 0.02  # most of our step's time that making its data may take
SMALLER_BATCHES = {"12_12_768": 8}  # on a CPU, where 64 examples take half a minute
READY_BATCHES = 16
LR, WEIGHT_DECAY, MAX_GRAD_NORM = 5e-4, 0.1, 1.0

Step = Callable[[], object]


@contextmanager
def ours(model: GPT, source: TaskSource, batch_size: int, world: World, precision: Any) -> Iterator[Step]:
    """What `core.trainer.train` does for each update: data, update, now and then a line of metrics."""
    plan = [Phase("sort", source, 10**9, batch_size, lambda step: LR)]
    settings = Settings(weight_decay=WEIGHT_DECAY, max_grad_norm=MAX_GRAD_NORM, precision=precision)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = Run(model, plan, lambda model: [], settings, folder, world)
        with redirect_stderr(io.StringIO()):  # the progress bar works, unseen
            run.tracker = stack.enter_context(Tracker(folder, 0, run.total, is_main=True))
        workers = settings.workers
        batches = stack.enter_context(Prefetcher(run.make_update, start=0, stop=run.total, workers=workers))

        def step() -> None:
            phase, number = next(run.remaining())
            run.update(batches.take(run.state.step), phase.lr(number), 0)
            if run.is_due(settings.log_every):
                run.log(phase.lr(number))

        yield step


def theirs(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch], device: torch.device, precision: str
) -> Step:
    """The loop that one writes around a model of transformers."""
    model.train()
    served = 0

    def step() -> Tensor:
        nonlocal served
        input_ids, targets = (x.to(device, non_blocking=True) for x in batches[served % len(batches)])
        served += 1
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = masked_loss(model, input_ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        return loss.detach()

    return step


def masked_loss(model: nn.Module, input_ids: Tensor, targets: Tensor) -> Tensor:
    logits = model(input_ids=input_ids, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE)


def plain(folder: Path, **contest: Any) -> Step:
    """SDPA, no dropout, fused AdamW: the settings a competent person picks."""
    model = load(folder, contest["device"], dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    return theirs(model, optimizer, **contest)


def earlier(folder: Path, **contest: Any) -> Step:
    """GPT-2's default dropout of 0.1 and AdamW parameter by parameter."""
    model = load(folder, contest["device"], dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, foreach=False, fused=False)
    return theirs(model, optimizer, **contest)


def load(folder: Path, device: torch.device, dropout: float) -> nn.Module:
    pdrop: Any = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), dropout)
    model: nn.Module = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="sdpa", **pdrop)
    return model.to(device)


@torch.no_grad()
def check_same_loss(model: GPT, folder: Path, batch: Batch, device: torch.device) -> float:
    """The loss of the first batch, from our weights and from the exported ones."""
    scored = (batch.targets != IGNORE).sum().item()
    own = loss_sum(model.to(device), batch.supervised().to(device)).item() / scored
    other = masked_loss(load(folder, device, dropout=0.0), *(x.to(device) for x in batch)).item()
    assert abs(own - other) < 1e-4, f"not the same computation: first loss {own} here, {other} in transformers"
    return own


def measure(size: str, batch_size: int, rounds: int, seconds: float, world: World) -> dict[str, Any]:
    task, device = Sort(seq_length=64, vocab_size=100), world.device
    model = GPT(GPTConfig(task.num_tokens, task.block_size, *parse_size(size)))
    source = TaskSource(task, seed=0)
    batches = [source.batch("train", n * batch_size, (n + 1) * batch_size) for n in range(READY_BATCHES)]
    if device.type == "cuda":
        batches = [Batch(*(x.pin_memory() for x in batch)) for batch in batches]
    precision = "bf16" if device.type == "cuda" else "fp32"
    contest = {"batches": batches, "device": device, "precision": precision}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hf.save(model, folder)
        first_loss = check_same_loss(model, folder, batches[0], device)
        steps = {
            "ours": stack.enter_context(ours(model, source, batch_size, world, precision)),
            "plain": plain(folder, **contest),
            "earlier": earlier(folder, **contest),
        }
        steps_per_round = max(1, round(seconds / max(time_of(step, 3, device) for step in steps.values())))
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                times[name].append(time_of(step, steps_per_round, device))
    medians = {name: statistics.median(of_rounds) for name, of_rounds in times.items()}
    return {
        "size": size,
        "batch_size": batch_size,
        "precision": precision,
        "first_loss": first_loss,
        "rounds": rounds,
        "steps_per_round": steps_per_round,
        "seconds": medians,
        "seconds_of_rounds": times,
        "ratios": {
            name: {
                "median": medians[name] / medians["ours"],
                "of_rounds": [other / own for other, own in zip(times[name], times["ours"], strict=True)],
                "bar": bar,
            }
            for name, bar in zip(("plain", "earlier"), BARS.get(size, (None, None)), strict=True)
        },
        "generation_share": generation_seconds(task, batch_size) / medians["ours"],
        "generation_bar": GENERATION_BAR,
    }


def time_of(step: Step, times: int, device: torch.device) -> float:
    """Seconds a step, over some steps in a row."""
    wait_for(device)
    started = time.perf_counter()
    for _ in range(times):
        step()
    wait_for(device)
    return (time.perf_counter() - started) / times


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def generation_seconds(task: Sort, batch_size: int, blocks: int = 100) -> float:
    """What the batch of a step costs when the step's own thread makes it."""
    source, batches = TaskSource(task, seed=1), blocks * task.examples_per_block // batch_size
    started = time.perf_counter()
    for n in range(batches):
        source.batch("train", n * batch_size, (n + 1) * batch_size).supervised()
    return (time.perf_counter() - started) / batches


COLUMNS = {
    "size": 9,
    "batch": 5,
    "ours ms": 8,
    "plain ms": 8,
    "earlier ms": 10,
    "plain/ours": 10,
    "of rounds": 11,
    "bar": 5,
    "earlier/ours": 12,
    "of rounds ": 11,
    "bar ": 5,
    "data": 6,
}


def row(result: dict[str, Any]) -> list[str]:
    cells = [result["size"], str(result["batch_size"])]
    cells += [f"{1e3 * seconds:.2f}" for seconds in result["seconds"].values()]
    for ratio in result["ratios"].values():
        spread = f"{min(ratio['of_rounds']):.2f}-{max(ratio['of_rounds']):.2f}"
        cells += [f"{ratio['median']:.2f}x", spread, f"{ratio['bar']:.2f}x" if ratio["bar"] else "-"]
    return [*cells, f"{result['generation_share']:.2%}"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--sizes", default=",".join(BARS), metavar="A,B", help="models (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, help="default: 64, on a CPU 8 for 12_12_768")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn, about (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or the number of a GPU")
    options = parser.parse_args(argv)

    torch.set_num_threads(1)
    with join(options.device) as world:  # TF32 on a GPU, no denormal numbers on a CPU, for all three
        machine, widths = report.machine("numpy", "torch", "transformers"), list(COLUMNS.values())
        on_gpu = world.device.type == "cuda"
        print(report.sentence(machine))
        print(f"sort, seq_length 64, vocab_size 100; {'bf16' if on_gpu else 'fp32'} on {world.device}")
        print("ours with its data; plain: transformers' GPT-2, SDPA, no dropout, fused AdamW, batches lie ready;")
        print("earlier: as plain, but dropout 0.1, AdamW parameter by parameter")
        print(f"medians of {options.rounds} turns each, data: share of our step (bar: under {GENERATION_BAR:.0%})\n")
        print(report.line(list(COLUMNS), widths))
        results = []
        for size in options.sizes.split(","):
            usual = 64 if on_gpu else SMALLER_BATCHES.get(size, 64)
            results.append(measure(size, options.batch_size or usual, options.rounds, options.seconds, world))
            print(report.line(row(results[-1]), widths), flush=True)
    if options.json:
        report.write(options.json, {"machine": machine, "device": str(world.device)}, results)


if __name__ == "__main__":
    main()
