"""What padding costs rows of different lengths, and what of it packing spares.

python -m benchmarks.packing [--json FILE] [--tasks depo,brevo] [--batch_size 64] [--turns 3]

For each task with rows of different lengths, at its default parameters: the share of tokens that are padding when rows
are padded to the longest of a batch, and when they share contexts of twice the longest row (`pack_to`); tokens of the
one as a multiple of those of the other; and the time of an update of a 2_4_128, in turns. Both losses are checked to be
the same.
"""

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks import arguments, report
from core import optim
from core.batch import SupervisedBatch
from core.model import GPT, GPTConfig, loss_sum
from core.packing import packed
from core.source import TaskSource
from core.task import task_class, task_names

PACKAGE = "synthetic_tasks"


def ragged_tasks() -> list[str]:
    return [name for name in task_names(PACKAGE) if task_class(PACKAGE, name).ragged]


def seconds_of_update(model: GPT, batch: SupervisedBatch) -> float:
    optimizer = optim.adamw(model, lr=0.0, weight_decay=0.0)
    started = time.perf_counter()
    (loss_sum(model, batch) / batch.scored).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def measure(name: str, batch_size: int, turns: int) -> dict[str, Any]:
    task = task_class(PACKAGE, name)()
    batch = TaskSource(task, seed=0).batch("train", 0, batch_size)
    padded, together = batch.supervised(task.pad_token), packed(batch, 2 * task.block_size, task.pad_token)
    model = GPT(GPTConfig(task.num_tokens, task.block_size, 2, 4, 128, positions="rope"))
    losses = [(loss_sum(model, one) / one.scored).item() for one in (padded, together)]
    assert abs(losses[0] - losses[1]) < 1e-5, f"not the same computation: {losses}"
    times = [[seconds_of_update(model, batch) for batch in (padded, together)] for _ in range(turns)]
    return {
        "task": name,
        "padded": padded.padding / padded.input_ids.numel(),
        "packed": together.padding / together.input_ids.numel(),
        "tokens": padded.input_ids.numel() / together.input_ids.numel(),
        "time": statistics.median(a / b for a, b in times),
        "difference": abs(losses[0] - losses[1]),
    }


COLUMNS = {"task": 8, "padded": 8, "packed": 8, "tokens": 8, "time": 8, "difference": 10}


def main(argv: list[str] | None = None) -> None:
    known = ragged_tasks()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=arguments.new_file, metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--tasks", type=arguments.some_of(known), default=",".join(known), metavar="A,B", help="(default: %(default)s)"
    )
    parser.add_argument("--batch_size", type=arguments.count, default=64, help="rows (default: %(default)s)")
    parser.add_argument("--turns", type=arguments.count, default=3, help="updates of each (default: %(default)s)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    machine = report.machine("torch")
    print(report.sentence(machine))
    print("padding: share of tokens; tokens, time: padded / packed\n")
    print(report.line(list(COLUMNS), list(COLUMNS.values())))
    results = []
    for name in options.tasks:
        results.append(found := measure(name, options.batch_size, options.turns))
        cells = [name, f"{found['padded']:.1%}", f"{found['packed']:.1%}", f"{found['tokens']:.2f}x"]
        cells += [f"{found['time']:.2f}x", f"{found['difference']:.0e}"]
        print(report.line(cells, list(COLUMNS.values())), flush=True)
    if options.json:
        report.write(options.json, {"machine": machine}, results)


if __name__ == "__main__":
    main()
