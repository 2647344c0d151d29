"""Several seeds trained at once, against as many runs one after the other.

python -m benchmarks.seeds [--json FILE] [--sizes 2_4_16,4_4_256] [--seeds 10] [--compile reduce-overhead]

`sort`, as in benchmarks.train_step: one run alone, and several as `--seeds` trains them, each in a process of its own,
data included, in turns. One after the other, N runs take N times what one takes: the ratio is that to what an update of
all takes. At once pays where a step waits for launches, which is on a GPU.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from benchmarks import arguments, report
from benchmarks.train_step import TASK, Contest, Step, ours, precision_on, process_of, run_of, warm_up
from core import hf
from core.distributed import join
from core.model import GPT, GPTConfig, parse_size
from core.plan import Compilation
from core.replicas import Abreast


@contextmanager
def at_once(contest: Contest, seeds: int) -> Iterator[Step]:
    """What `core.replicas.train` does for each update of all."""
    with ExitStack() as stack:
        world = stack.enter_context(join(contest.device))
        abreast = stack.enter_context(Abreast([run_of(contest, stack, world, seed) for seed in range(seeds)]))

        def step() -> None:
            for run, batches, loss, norm in abreast.update():
                run.note(batches, sum(batch.input_ids.numel() for batch in batches), loss, norm)
                run.draw_consequences(abreast.lr, 0)

        yield step


def measure(
    size: str, seeds: int, batch_size: int, rounds: int, seconds: float, device: torch.device, compile: Compilation
) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hf.save(GPT(GPTConfig(TASK.num_tokens, TASK.block_size, *parse_size(size))), folder)
        contest = Contest(folder, size, batch_size, str(device), precision_on(device), compile)
        contestants = [partial(ours, contest), partial(at_once, contest, seeds)]
        runs = [stack.enter_context(process_of(make)) for make in contestants]
        steps = [max(1, round(seconds / warm_up(run, bool(compile)))) for run in runs]
        turns = [[run(number) for run, number in zip(runs, steps, strict=True)] for _ in range(rounds)]
    ratios = [seeds * one / together for one, together in turns]
    one, together = (statistics.median(times) for times in zip(*turns, strict=True))
    found = {"size": size, "seeds": seeds, "batch_size": batch_size, "compile": compile, "one": one}
    return {**found, "together": together, "ratio": statistics.median(ratios), "ratios": ratios}


COLUMNS = {"size": 9, "seeds": 5, "batch": 5, "one, ms": 8, "all, ms": 8, "one by one / at once": 20, "of turns": 11}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=arguments.new_file, metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--sizes", type=arguments.sizes, default="2_4_16,4_4_256", metavar="A,B", help="models (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=arguments.count, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--batch_size", type=arguments.count, default=64, help="of each (default: %(default)s)")
    parser.add_argument("--rounds", type=arguments.count, default=5, help="turns of each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn, about (default: %(default)s)")
    parser.add_argument("--compile", default=False, choices=["true", "reduce-overhead"], help="of both")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or the number of a GPU")
    options = parser.parse_args(argv)

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    device = report.device_of(parser, options)
    compilation = options.compile == "true" or options.compile
    machine, widths = report.machine("torch"), list(COLUMNS.values())
    print(report.sentence(machine))
    print(f"sort, seq_length 64, vocab_size 100; {precision_on(device)} on {device}")
    print(f"compile: {options.compile or 'false'}; medians of {options.rounds} turns\n")
    print(report.line(list(COLUMNS), widths))
    results = []
    for size in options.sizes:
        results.append(
            found := measure(
                size, options.seeds, options.batch_size, options.rounds, options.seconds, device, compilation
            )
        )
        cells = [size, str(options.seeds), str(options.batch_size)]
        cells += [f"{1e3 * found[name]:.2f}" for name in ("one", "together")]
        cells += [f"{found['ratio']:.2f}x", f"{min(found['ratios']):.2f}-{max(found['ratios']):.2f}"]
        print(report.line(cells, widths), flush=True)
    if options.json:
        report.write(options.json, {"machine": machine, "device": str(device)}, results)


if __name__ == "__main__":
    main()
