"""A training step of ours, of a bare loop over our model, and of plain loops around transformers' GPT-2.

python -m benchmarks.train_step [--json FILE] [--sizes 12_12_768,2_4_16] [--rounds 7] [--batch_size 64]

"bare" is what one writes by hand around our model: nothing is logged, checked, or ready to be resumed. "plain" is the
same around GPT2LMHeadModel, "earlier" that loop as it was once set. All start from the same weights, and the first loss
is checked to be the same. Each has a process of its own, as in real use: within one, memory that our loop keeps would
be lent to the others. They take turns, in rounds of some seconds, so that whatever else the machine does falls on each
alike. Data is made within our step, while the others are given batches that lie ready. On a CPU with bf16 arithmetic
our loop takes a fifth turn, with `precision: bf16`. All hold their memory all the time: where that is too little, name
one or two of them with `--against`.
"""

import argparse
import io
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stderr, suppress
from functools import partial
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from benchmarks import arguments, report
from core import hf, optim
from core.batch import IGNORE, Batch
from core.distributed import World, join
from core.model import GPT, GPTConfig, loss_sum, parse_size
from core.plan import Compilation
from core.prefetch import Prefetcher
from core.source import TaskSource
from core.tracking import Tracker
from core.trainer import Phase, Run, Settings
from procedural_data.sort import Sort

TASK = Sort(seq_length=64, vocab_size=100)
BARE_BAR = 1 / 1.05  # least ratio of a bare loop's time to ours
BARS = {  # likewise
    "12_12_768": {"plain": 1.05, "earlier": 1.4},
    "4_4_256": {"plain": 1.2, "earlier": 2.0},
    "2_4_16": {"plain": 1.1, "earlier": 3.0},
}
GENERATION_BAR = 0.02  # most of our step's time that making its data may take
SMALLER_BATCHES = {"12_12_768": 8}  # on a CPU, where 64 examples take half a minute, and 8 GB of each contestant
READY_BATCHES = 16
GENERATED_BLOCKS = 100
WARM_UP_STEPS = 3
LONG_STEP = 5.0  # seconds, beside which what a first step takes longer is nothing
LR, WEIGHT_DECAY, MAX_GRAD_NORM = 5e-4, 0.1, 1.0

Step = Callable[[], None]


class Contest(NamedTuple):
    """What all contestants are given."""

    folder: Path  # of the initial weights, in the layout of transformers
    size: str
    batch_size: int
    device: str
    precision: Literal["fp32", "bf16"]
    compile: Compilation = False  # of our loop

    @property
    def source(self) -> TaskSource:
        return TaskSource(TASK, seed=0)


def run_of(
    contest: Contest, stack: ExitStack, world: World, seed: int = 0, precision: Literal["fp32", "bf16"] | None = None
) -> Run:
    """A run without end, but for its batches. It measures and saves nothing."""
    plan = [Phase("sort", TaskSource(TASK, seed), 10**9, contest.batch_size, lambda step: LR)]
    chosen = precision or contest.precision
    settings = Settings(
        weight_decay=WEIGHT_DECAY, max_grad_norm=MAX_GRAD_NORM, precision=chosen, compile=contest.compile
    )
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    run = Run(hf.load(contest.folder), plan, lambda model, step: [], settings, folder, world)
    with redirect_stderr(io.StringIO()):  # the progress bar works, unseen
        run.tracker = stack.enter_context(Tracker(folder, 0, run.total, is_main=True))
    return run


@contextmanager
def ours(contest: Contest, precision: Literal["fp32", "bf16"] | None = None) -> Iterator[Step]:
    """What `core.trainer.train` does for each update: data, update, now and then a line of metrics."""
    with ExitStack() as stack:
        run = run_of(contest, stack, stack.enter_context(join(contest.device)), precision=precision)
        prefetcher = Prefetcher(run.make_pinned, start=0, stop=run.total, workers=run.settings.workers)
        run.batches = stack.enter_context(prefetcher)

        def step() -> None:
            phase, number = next(run.remaining())
            run.update(run.next_batches(), phase.lr(number), 0)
            run.draw_consequences(phase.lr(number), 0)

        yield step


@contextmanager
def bare(contest: Contest) -> Iterator[Step]:
    """The loop that one writes around our model."""
    with join(contest.device) as world:
        device, size = world.device, contest.batch_size
        model = hf.load(contest.folder).to(device)
        optimizer = optim.adamw(model, lr=LR, weight_decay=WEIGHT_DECAY)
        batches = [contest.source.batch("train", n * size, (n + 1) * size).supervised() for n in range(READY_BATCHES)]
        ready = cycle([batch.pinned(device) for batch in batches])

        def step() -> None:
            batch = next(ready).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=contest.precision == "bf16"):
                loss = loss_sum(model, batch) / len(batch.labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        yield step


@contextmanager
def theirs(contest: Contest, dropout: float, fused: bool) -> Iterator[Step]:
    """The loop that one writes around a model of transformers."""
    device = torch.device(contest.device)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("high")
    model = load(contest.folder, dropout).to(device)
    faster: Any = {"fused": True} if fused else {"foreach": False, "fused": False}
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, **faster)
    size = contest.batch_size
    batches = [contest.source.batch("train", n * size, (n + 1) * size) for n in range(READY_BATCHES)]
    if device.type == "cuda":
        batches = [Batch(*(x.pin_memory() for x in batch)) for batch in batches]
    model.train()
    served = 0

    def step() -> None:
        nonlocal served
        input_ids, targets = (x.to(device, non_blocking=True) for x in batches[served % len(batches)])
        served += 1
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=contest.precision == "bf16"):
            loss = masked_loss(model, input_ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()

    yield step


CONTESTANTS: dict[str, Callable[[Contest], AbstractContextManager[Step]]] = {
    "ours": ours,
    "bare": bare,
    "plain": partial(theirs, dropout=0.0, fused=True),  # the settings a competent person picks
    "earlier": partial(theirs, dropout=0.1, fused=False),  # GPT-2's default, and AdamW parameter by parameter
    "ours bf16": partial(ours, precision="bf16"),
}
RIVALS = ("bare", "plain", "earlier")


def masked_loss(model: nn.Module, input_ids: Tensor, targets: Tensor) -> Tensor:
    logits = model(input_ids=input_ids, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE)


def load(folder: Path, dropout: float) -> nn.Module:
    pdrop: Any = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), dropout)
    return GPT2LMHeadModel.from_pretrained(folder, attn_implementation="sdpa", **pdrop)


PEAK = -1  # in place of a number of steps: asks for the most memory used so far


def contend(make: Callable[[], AbstractContextManager[Step]], orders: Connection) -> None:
    """A contestant's process: takes a number of steps whenever it is told one, and answers with the seconds a step;
    told PEAK, with the most MiB that it has had."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    with make() as step:
        while times := orders.recv():
            if times == PEAK:
                orders.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
                continue
            started = time.perf_counter()
            for _ in range(times):
                step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            orders.send((time.perf_counter() - started) / times)


@contextmanager
def process_of(make: Callable[[], AbstractContextManager[Step]]) -> Iterator[Callable[[int], float]]:
    """Starts a contestant. The function it gives takes a number of steps and returns the seconds a step."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=contend, args=(make, there))
    process.start()
    there.close()  # so that the death of the process ends a recv

    def run(steps: int) -> float:
        here.send(steps)
        try:
            return here.recv()
        except EOFError:
            process.join()
            sys.exit(f"a process ended amid its step, with {process.exitcode}: was there too little memory?")

    try:
        yield run
    finally:
        with suppress(BrokenPipeError):
            here.send(0)
        process.join()


def warm_up(run: Callable[[int], float], compiles: bool = False) -> float:
    """Takes the first steps, which are slower than others. Returns the seconds a step."""
    first = run(1)
    if first > LONG_STEP and not compiles:
        return first
    run(WARM_UP_STEPS)
    return run(WARM_UP_STEPS)


@torch.no_grad()
def check_same_loss(model: GPT, contest: Contest) -> float:
    """The loss of the first batch, from our weights and from the exported ones."""
    batch = contest.source.batch("train", 0, contest.batch_size)
    scored = (batch.targets != IGNORE).sum().item()
    own = loss_sum(model, batch.supervised()).item() / scored
    other = masked_loss(load(contest.folder, dropout=0.0), *batch).item()
    assert abs(own - other) < 1e-4, f"not the same computation: first loss {own} here, {other} in transformers"
    return own


def measure(
    size: str,
    batch_size: int,
    rounds: int,
    seconds: float,
    device: torch.device,
    names: Sequence[str] = tuple(CONTESTANTS),
    compile: Compilation = False,
) -> dict[str, Any]:
    model = GPT(GPTConfig(TASK.num_tokens, TASK.block_size, *parse_size(size)))
    precision = precision_on(device)
    if precision == "bf16" or not has_bf16(device):
        names = [name for name in names if name != "ours bf16"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hf.save(model, folder)
        contest = Contest(folder, size, batch_size, str(device), precision, compile)
        first_loss = check_same_loss(model, contest)
        run = {name: stack.enter_context(process_of(partial(CONTESTANTS[name], contest))) for name in names}
        steps = max(1, round(seconds / max(warm_up(run[name], bool(compile)) for name in names)))
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                times[name].append(run[name](steps))
    bars = {"bare": BARE_BAR, **BARS.get(size, {})}
    medians = {name: statistics.median(of_rounds) for name, of_rounds in times.items()}
    return {
        "size": size,
        "batch_size": batch_size,
        "precision": precision,
        "first_loss": first_loss,
        "rounds": rounds,
        "steps_per_round": steps,
        "seconds": medians,
        "seconds_of_rounds": times,
        "ratios": {
            name: {
                "median": medians[name] / medians["ours"],
                "of_rounds": [other / own for other, own in zip(times[name], times["ours"], strict=True)],
                "bar": bars.get(name),
            }
            for name in RIVALS
            if name in names
        },
        "generation_share": generation_seconds(TASK, batch_size) / medians["ours"],
        "generation_bar": GENERATION_BAR,
    }


def precision_on(device: torch.device) -> Literal["fp32", "bf16"]:
    return "bf16" if device.type == "cuda" else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether a CPU multiplies matrices of bf16 itself; others emulate, which is slower than fp32."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return device.type == "cpu" and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def generation_seconds(task: Sort, batch_size: int) -> float:
    """What the batch of a step costs when the step's own thread makes it."""
    source, batches = TaskSource(task, seed=1), GENERATED_BLOCKS * task.examples_per_block // batch_size
    started = time.perf_counter()
    for n in range(batches):
        source.batch("train", n * batch_size, (n + 1) * batch_size).supervised()
    return (time.perf_counter() - started) / batches


COLUMNS = {
    "size": 9,
    "batch": 5,
    "ours ms": 8,
    "bare ms": 8,
    "plain ms": 8,
    "earlier ms": 10,
    "ours bf16": 9,
    "bare/ours": 9,
    " of rounds": 11,
    " bar": 5,
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
    cells += [f"{1e3 * result['seconds'][name]:.2f}" if name in result["seconds"] else "-" for name in CONTESTANTS]
    for name in RIVALS:
        ratio = result["ratios"].get(name)
        if ratio is None:
            cells += ["-"] * 3
            continue
        spread = f"{min(ratio['of_rounds']):.2f}-{max(ratio['of_rounds']):.2f}"
        cells += [f"{ratio['median']:.2f}x", spread, f"{ratio['bar']:.2f}x" if ratio["bar"] else "-"]
    return [*cells, f"{result['generation_share']:.2%}"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=arguments.new_file, metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--sizes", type=arguments.sizes, default=",".join(BARS), metavar="A,B", help="models (default: %(default)s)"
    )
    parser.add_argument("--batch_size", type=arguments.count, help="default: 64, on a CPU 8 for 12_12_768")
    parser.add_argument("--rounds", type=arguments.count, default=7, help="turns of each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn, about (default: %(default)s)")
    others = [name for name in CONTESTANTS if name != "ours"]
    parser.add_argument(
        "--against", nargs="+", default=others, choices=others, metavar="NAME", help=f"of {', '.join(others)}"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or the number of a GPU")
    parser.add_argument("--compile", default=False, choices=["true", "reduce-overhead"], help="of our loop")
    options = parser.parse_args(argv)

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    device = report.device_of(parser, options)
    machine, widths = report.machine("numpy", "torch", "transformers"), list(COLUMNS.values())
    print(report.sentence(machine))
    print(f"sort, seq_length 64, vocab_size 100; {precision_on(device)} on {device}, a process each")
    print("ours with its data; bare: a loop by hand around our model, batches lie ready;")
    print("plain: as bare, but transformers' GPT-2 (SDPA, no dropout, fused AdamW);")
    print("earlier: as plain, but dropout 0.1, AdamW parameter by parameter")
    print(f"medians of {options.rounds} turns each, data: share of our step (bar: under {GENERATION_BAR:.0%})\n")
    print(report.line(list(COLUMNS), widths))
    results = []
    for size in options.sizes:
        compilation = options.compile == "true" or options.compile
        batch_size = options.batch_size or (SMALLER_BATCHES.get(size, 64) if device.type == "cpu" else 64)
        names = ["ours", *(name for name in CONTESTANTS if name in options.against)]
        results.append(measure(size, batch_size, options.rounds, options.seconds, device, names, compilation))
        print(report.line(row(results[-1]), widths), flush=True)
    if options.json:
        report.write(options.json, {"machine": machine, "device": str(device)}, results)


if __name__ == "__main__":
    main()
