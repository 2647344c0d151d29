"""How fast tasks and PRNG sequences are made on one core, as training pays for it: split, hash and rejection included.

python -m benchmarks.generation [--json FILE] [--tasks sort,xslrr] [--seconds 2]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import report
from core.batch import Batch
from core.split import draw_block
from core.task import task_class, task_names
from prng.generators import Generator
from prng.parameters import Excluded, choose
from prng.source import Format, Grid, Mixture

PACKAGES = ("procedural_data", "downstream.algorithmic_tasks.tasks")
SECONDS_PER_ROUND = 0.02  # many blocks of the fast tasks, so that a second draw here and there is part of the price
BARS = {  # tokens per second on one core, at the documented sizes
    "sort": 100e6,
    "reverse": 100e6,
    "identity": 100e6,
    "set": 20e6,
    "union": 20e6,
    "delete": 20e6,
    "stack": 10e6,
    "dyck": 10e6,
    "dyck_shuffle": 10e6,
    "forwardaddition": 10e6,
    "additionstream": 10e6,
    "multiplication": 10e6,
    "condattendstream": 10e6,
    "sorting": 10e6,
    "xslrr": 40e6,
}


@dataclass(frozen=True)
class Candidate:
    """What is measured: block `number` of the train split, again and again with other numbers."""

    name: str
    parameters: dict[str, Any]
    draw: Callable[[int], Batch]


def of_task(package: str, name: str) -> Candidate:
    task = task_class(package, name)()
    return Candidate(name, task.model_dump(), lambda number: draw_block(task, 0, "train", number))


def of_xslrr() -> Candidate:
    """The documented run's data: blocks of 256 of the 1024 x 1024 grid of XSLRR m = 2^18, 513 numbers each."""
    (p,) = choose([2**18], (1024, 1024), (128, 64), 1, Excluded())
    grid = Grid(Generator("XSLRR", 2**18, 3), p.train_a, p.train_c, seed=1, use="train")
    source = Mixture([[grid]], lambda update: np.ones(1), 512, Format(513, 512), seed=1, phase=0)
    parameters = {"m": 2**18, "control_bits": 3, "seq_len": 513, "n_a": 1024, "n_c": 1024}
    return Candidate("xslrr", parameters, lambda number: source.batch("train", 256 * number, 256 * (number + 1)))


def measure(make: Callable[[], Candidate], seconds: float) -> dict[str, Any]:
    """Median over rounds of blocks of the train split, and over as many of the set-up."""
    make().draw(0)  # compiles what needs compiling
    setups = [_timed(make) for _ in range(5)]
    candidate = make()
    draw = candidate.draw
    started = time.perf_counter()
    input_ids = draw(1).input_ids
    blocks = max(1, round(SECONDS_PER_ROUND / (time.perf_counter() - started)))

    rounds: list[float] = []
    block, stop = 2, time.perf_counter() + seconds
    while time.perf_counter() < stop or len(rounds) < 3:
        started = time.perf_counter()
        for number in range(block, block + blocks):
            draw(number)
        rounds.append((time.perf_counter() - started) / blocks)
        block += blocks
    median = statistics.median(rounds)
    return {
        "task": candidate.name,
        "parameters": candidate.parameters,
        "setup_ms": 1e3 * statistics.median(setups),
        "examples_per_block": len(input_ids),
        "tokens_per_example": input_ids.shape[1],
        "ms_per_block": 1e3 * median,
        "examples_per_second": len(input_ids) / median,
        "tokens_per_second": input_ids.numel() / median,
        "bar": BARS.get(candidate.name),
        "rounds": len(rounds),
    }


def _timed(make: Callable[[], Any]) -> float:
    started = time.perf_counter()
    make()
    return time.perf_counter() - started


COLUMNS = {
    "task": 16,
    "set-up ms": 9,
    "block": 10,
    "ms/block": 8,
    "examples/s": 11,
    "M tokens/s": 10,
    "bar": 4,
    "ratio": 6,
}


def row(result: dict[str, Any]) -> list[str]:
    rate, bar = result["tokens_per_second"] / 1e6, result["bar"]
    return [
        result["task"],
        f"{result['setup_ms']:.1f}",
        f"{result['examples_per_block']} x {result['tokens_per_example']}",
        f"{result['ms_per_block']:.3f}",
        f"{result['examples_per_second']:,.0f}",
        f"{rate:.1f}",
        f"{bar / 1e6:.0f}" if bar else "-",
        f"{rate * 1e6 / bar:.1f}x" if bar else "-",
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--tasks", type=lambda names: names.split(","), metavar="A,B", help="only these")
    parser.add_argument("--seconds", type=float, default=1.0, help="spent on each task (default: %(default)s)")
    options = parser.parse_args(argv)
    known: dict[str, Callable[[], Candidate]] = {
        name: partial(of_task, package, name) for package in PACKAGES for name in task_names(package)
    }
    known["xslrr"] = of_xslrr
    if unknown := set(options.tasks or ()) - set(known):
        parser.error(f"no task {', '.join(sorted(unknown))}; there are {', '.join(known)}")

    torch.set_num_threads(1)
    machine, widths = report.machine("numpy", "numba", "torch"), list(COLUMNS.values())
    print(report.sentence(machine) + "\n")
    print(report.line(list(COLUMNS), widths))
    results = []
    for name in options.tasks or known:
        results.append(measure(known[name], options.seconds))
        print(report.line(row(results[-1]), widths), flush=True)
    if options.json:
        report.write(options.json, {"machine": machine}, results)


if __name__ == "__main__":
    main()
