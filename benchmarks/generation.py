"""How fast tasks and PRNG sequences are made on one core, as training pays for it: split, hash and rejection included.
Pads are not counted.

python -m benchmarks.generation [--json FILE] [--tasks sort,xslrr] [--seconds 2]
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import arguments, report
from core.batch import Batch, SupervisedBatch
from core.split import draw_block
from core.task import task_class, task_names
from downstream.semantic.problem_file import DIFFICULTIES, PAD, prepare
from downstream.semantic.problem_rows import ProblemRows
from prng.generators import Generator
from prng.parameters import Excluded, choose
from prng.source import Format, Grid, Mixture
from synthetic_tasks._example_task import preset
from synthetic_tasks.capo import CapoTask

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
EXAMPLE_BARS = {  # examples per second on one core, with the parameters that the name stands for
    "depo1_225": 40e3,
    "depo2_75": 40e3,
    "brevo1_70": 50e3,
    "mano_10": 600e3,
    "lano_cfg3f": 25e3,
    "bios_50k_text": 90e3,
}
SYNTHETIC = (
    "depo1_225",
    "depo2_75",
    "brevo1_70",
    "brevo2_30",
    "mano_10",
    "lano_cfg3f",
    "bios_50k",
)  # presets, in place of their tasks


@dataclass(frozen=True)
class Candidate:
    """What is measured: block `number` of the train split, again and again with other numbers."""

    name: str
    parameters: dict[str, Any]
    draw: Callable[[int], Batch | SupervisedBatch]
    pad_token: int | None = None


def of_task(package: str, name: str) -> Candidate:
    task = task_class(package, name)()
    return Candidate(name, task.model_dump(), lambda number: draw_block(task, 0, "train", number))


def of_preset(name: str) -> Candidate:
    task = preset(name)
    return Candidate(name, task.model_dump(), lambda number: draw_block(task, 0, "train", number), task.pad_token)


def of_texts() -> Candidate:
    """Capo's texts as strings, beside the tokens."""
    task = preset("bios_50k")
    assert isinstance(task, CapoTask)

    def draw(number: int) -> Batch:
        batch = draw_block(task, 0, "train", number)
        task.texts(batch)
        return batch

    return Candidate("bios_50k_text", task.model_dump(), draw, task.pad_token)


def of_xslrr() -> Candidate:
    """The documented run's data: blocks of 256 of the 1024 x 1024 grid of XSLRR m = 2^18, 513 numbers each."""
    (p,) = choose([2**18], (1024, 1024), (128, 64), 1, Excluded())
    grid = Grid(Generator("XSLRR", 2**18, 3), p.train_a, p.train_c, seed=1, use="train")
    source = Mixture([[grid]], lambda update: np.ones(1), 512, Format(513, 512), seed=1, phase=0)
    parameters = {"m": 2**18, "control_bits": 3, "seq_len": 513, "n_a": 1024, "n_c": 1024}
    return Candidate("xslrr", parameters, lambda number: source.batch("train", 256 * number, 256 * (number + 1)))


def of_problems() -> Candidate:
    """Rows of mathematics problems as long as the published ones are: questions of 67 characters, answers of 6."""
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        folders = {difficulty: Path(name) / difficulty for difficulty in DIFFICULTIES}
        for folder in folders.values():
            folder.mkdir()
            for module in range(56):
                lengths = draw.integers([20, 1], [115, 12], size=(300, 2))
                lines = ["x" * length for length in lengths.flatten().tolist()]
                (folder / f"module{module}.txt").write_text("\n".join(lines))
        rows = ProblemRows(prepare(folders, Path(name) / "prepared"), seed=0, seq_length=512, end_token=True)
        rows.batch("train", 0, 1)  # the files stay mapped when their names are gone
    parameters = {"seq_length": 512, "modules": 56, "end_token": True}
    return Candidate(
        "mathematics", parameters, lambda number: rows.batch("train", 256 * number, 256 * (number + 1)), PAD
    )


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
    examples, width = input_ids.shape
    pads = int((input_ids == candidate.pad_token).sum()) if candidate.pad_token is not None else 0
    tokens = width - pads / examples
    rates = {"examples": examples / median, "tokens": examples * tokens / median}
    bars = {"examples": EXAMPLE_BARS.get(candidate.name), "tokens": BARS.get(candidate.name)}
    return {
        "task": candidate.name,
        "parameters": candidate.parameters,
        "setup_ms": 1e3 * statistics.median(setups),
        "examples_per_block": examples,
        "tokens_per_example": round(tokens, 1),
        "ms_per_block": 1e3 * median,
        "examples_per_second": rates["examples"],
        "tokens_per_second": rates["tokens"],
        "bars": bars,
        "ratio": next((rates[unit] / bar for unit, bar in bars.items() if bar), None),
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
    "bar": 7,
    "ratio": 6,
}


def row(result: dict[str, Any]) -> list[str]:
    examples, tokens = result["bars"]["examples"], result["bars"]["tokens"]
    bar = f"{examples / 1e3:.0f} k/s" if examples else f"{tokens / 1e6:.0f} M" if tokens else "-"
    return [
        result["task"],
        f"{result['setup_ms']:.1f}",
        f"{result['examples_per_block']} x {result['tokens_per_example']:.0f}",
        f"{result['ms_per_block']:.3f}",
        f"{result['examples_per_second']:,.0f}",
        f"{result['tokens_per_second'] / 1e6:.1f}",
        bar,
        f"{result['ratio']:.1f}x" if result["ratio"] else "-",
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=arguments.new_file, metavar="FILE", help="also write the figures there")
    parser.add_argument("--tasks", type=lambda names: names.split(","), metavar="A,B", help="only these")
    parser.add_argument("--seconds", type=float, default=1.0, help="spent on each task (default: %(default)s)")
    options = parser.parse_args(argv)
    known: dict[str, Callable[[], Candidate]] = {
        name: partial(of_task, package, name) for package in PACKAGES for name in task_names(package)
    }
    known |= {name: partial(of_preset, name) for name in SYNTHETIC}
    known |= {"bios_50k_text": of_texts, "xslrr": of_xslrr, "mathematics": of_problems}
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
