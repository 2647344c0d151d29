"""How fast tasks are made on one core, as training pays for it: split, hash and rejection included.

python -m benchmarks.generation [--json FILE] [--tasks sort,dyck] [--seconds 2]
"""

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import torch

from core.split import draw_block
from core.task import Task, task_class, task_names

PACKAGES = ("procedural_data",)
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
}


def measure(task: Task, seconds: float) -> dict:
    """Median over rounds of blocks of the train split."""
    draw_block(task, 0, "train", 0)  # compiles what needs compiling
    started = time.perf_counter()
    input_ids = draw_block(task, 0, "train", 1).input_ids
    blocks = max(1, round(SECONDS_PER_ROUND / (time.perf_counter() - started)))

    rounds: list[float] = []
    block, stop = 2, time.perf_counter() + seconds
    while time.perf_counter() < stop or len(rounds) < 3:
        started = time.perf_counter()
        for number in range(block, block + blocks):
            draw_block(task, 0, "train", number)
        rounds.append((time.perf_counter() - started) / blocks)
        block += blocks
    median = statistics.median(rounds)
    return {
        "task": task.name,
        "parameters": task.model_dump(),
        "examples_per_block": len(input_ids),
        "tokens_per_example": input_ids.shape[1],
        "ms_per_block": 1e3 * median,
        "examples_per_second": len(input_ids) / median,
        "tokens_per_second": input_ids.numel() / median,
        "bar": BARS.get(task.name),
        "rounds": len(rounds),
    }


def machine() -> dict:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("numpy", "numba", "torch")},
    }


HEADER = f"{'task':<14}{'block':>12}{'ms/block':>10}{'examples/s':>13}{'M tokens/s':>12}{'bar':>6}{'ratio':>8}"


def row(result: dict) -> str:
    block = f"{result['examples_per_block']} x {result['tokens_per_example']}"
    rate = result["tokens_per_second"]
    bar = f"{result['bar'] / 1e6:>6.0f}{rate / result['bar']:>7.1f}x" if result["bar"] else f"{'-':>6}{'-':>8}"
    columns = f"{result['ms_per_block']:>10.3f}{result['examples_per_second']:>13,.0f}{rate / 1e6:>12.1f}"
    return f"{result['task']:<14}{block:>12}{columns}{bar}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--tasks", type=lambda names: names.split(","), metavar="A,B", help="only these")
    parser.add_argument("--seconds", type=float, default=1.0, help="spent on each task (default: %(default)s)")
    options = parser.parse_args(argv)
    known = {name: package for package in PACKAGES for name in task_names(package)}
    if unknown := set(options.tasks or ()) - set(known):
        parser.error(f"no task {', '.join(sorted(unknown))}; there are {', '.join(known)}")

    torch.set_num_threads(1)
    print(", ".join(f"{key} {value}" for key, value in machine().items()) + "; one thread\n")
    print(HEADER)
    results = []
    for name in options.tasks or known:
        results.append(measure(task_class(known[name], name)(), options.seconds))
        print(row(results[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
