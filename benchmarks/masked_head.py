"""What it saves to compute logits at scored positions only: a training step on Depo, whose vocabulary is 10,064.

python -m benchmarks.masked_head [--json FILE] [--sizes 2_4_128,4_4_256] [--rounds 7] [--batch_size 8]

The same model, optimiser and batches; one computes the logits of every position and masks the loss, the other those of
the answers. A process each, which take turns; peak memory is that of the process, with Python and PyTorch in it.
"""

import argparse
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks import arguments, report
from benchmarks.train_step import PEAK, Step, process_of, warm_up
from core.batch import IGNORE
from core.model import GPT, GPTConfig, loss_sum, parse_size
from core.source import TaskSource
from synthetic_tasks.depo import DepoTask

VOCABULARY = 10_064
BAR = 1.5
BATCHES = 8


@contextmanager
def contestant(size: str, batch_size: int, all_logits: bool) -> Iterator[Step]:
    task = DepoTask()
    layers, heads, width = parse_size(size)
    model = GPT(GPTConfig(VOCABULARY, task.block_size, layers, heads, width, positions="rope"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    source = TaskSource(task, seed=0)
    batches = [source.batch("train", n * batch_size, (n + 1) * batch_size) for n in range(BATCHES)]
    served = 0

    def step() -> None:
        nonlocal served
        batch = batches[served % BATCHES]
        served += 1
        if all_logits:
            logits = model(batch.input_ids).flatten(0, 1)
            loss = F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORE)
        else:
            scored = batch.supervised()
            loss = loss_sum(model, scored) / len(scored.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    yield step


def measure(size: str, batch_size: int, rounds: int, seconds: float) -> dict[str, Any]:
    names = {"scored": False, "all": True}
    with ExitStack() as stack:
        run = {
            name: stack.enter_context(process_of(partial(contestant, size, batch_size, everything)))
            for name, everything in names.items()
        }
        steps = max(1, round(seconds / max(warm_up(run[name]) for name in names)))
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                times[name].append(run[name](steps))
        peaks = {name: run[name](PEAK) for name in names}
    ratios = [other / own for own, other in zip(times["scored"], times["all"], strict=True)]
    medians = {name: statistics.median(of_rounds) for name, of_rounds in times.items()}
    return {"size": size, "batch_size": batch_size, "seconds": medians, "ratios": ratios, "peak_mib": peaks}


COLUMNS = {
    "size": 8,
    "batch": 5,
    "scored ms": 9,
    "all ms": 8,
    "all/scored": 10,
    "of rounds": 11,
    "bar": 5,
    "MiB": 6,
    "all MiB": 7,
}


def row(result: dict[str, Any]) -> list[str]:
    seconds, ratios, peaks = result["seconds"], result["ratios"], result["peak_mib"]
    return [
        result["size"],
        str(result["batch_size"]),
        f"{1e3 * seconds['scored']:.1f}",
        f"{1e3 * seconds['all']:.1f}",
        f"{statistics.median(ratios):.2f}x",
        f"{min(ratios):.2f}-{max(ratios):.2f}",
        f"{BAR:.1f}x",
        f"{peaks['scored']:.0f}",
        f"{peaks['all']:.0f}",
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=arguments.new_file, metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--sizes", type=arguments.sizes, default="2_4_128,4_4_256", metavar="A,B", help="models (default: %(default)s)"
    )
    parser.add_argument("--batch_size", type=arguments.count, default=8, help="rows (default: %(default)s)")
    parser.add_argument("--rounds", type=arguments.count, default=7, help="turns of each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn, about (default: %(default)s)")
    options = parser.parse_args(argv)

    machine, widths = report.machine("torch"), list(COLUMNS.values())
    print(report.sentence(machine))
    print(f"Depo (N 225, vocabulary {VOCABULARY:,}), fp32, one thread, a process each")
    print("scored: logits where something is predicted; all: everywhere. MiB: most memory of each process")
    print(f"medians of {options.rounds} turns\n")
    print(report.line(list(COLUMNS), widths))
    results = []
    for size in options.sizes:
        results.append(measure(size, options.batch_size, options.rounds, options.seconds))
        print(report.line(row(results[-1]), widths), flush=True)
    if options.json:
        report.write(options.json, {"machine": machine}, results)


if __name__ == "__main__":
    main()
