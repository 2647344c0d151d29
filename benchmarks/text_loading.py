"""What windows from a large token file cost beside a training step.

python -m benchmarks.text_loading [--gigabytes 1] [--batch_size 8] [--json FILE]

Fills a file with random ids and times batches of windows of 512 tokens, drawn at random places, against an update of
the default model of the curriculum (8_16_512, GPT-2's vocabulary) on as many: first when the file lies on the disk
alone, as one that is larger than memory does, then the same windows again.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import arguments, report
from core.distributed import World
from core.model import GPT, GPTConfig
from core.token_files import TokenFile
from core.tracking import Tracker
from core.trainer import Phase, Run, Settings
from core.windows import Windows

LENGTH, BAR = 512, 0.02
CHUNK = 2**24  # tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the file")
    parser.add_argument("--batch_size", type=arguments.count, default=8, help="windows")
    parser.add_argument("--json", type=arguments.new_file, help="write the figures here, too")
    options = parser.parse_args()
    if tokens(options.gigabytes) < CHUNK:
        parser.error(f"--gigabytes: at least {CHUNK * 2 / 2**30:g}")
    with tempfile.TemporaryDirectory() as folder:
        result = loading(options.gigabytes, options.batch_size, Path(folder))
    return report.conclude(report.machine("torch", "numpy"), result, options.json)


def tokens(gigabytes: float) -> int:
    return int(gigabytes * 2**30 / 2)


def loading(gigabytes: float, size: int, folder: Path) -> dict[str, Any]:
    path = folder / "x.bin"
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(tokens(gigabytes) // CHUNK):
            generator.integers(50257, size=CHUNK, dtype=np.uint16).tofile(file)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # out of the system's cache
    source = Windows([TokenFile(path, verify=False, say=lambda text: None)], LENGTH, seed=0)

    def loads() -> Callable[[], None]:
        numbers = iter(range(10**9))

        def load() -> None:
            n = next(numbers)
            source.batch("train", n * size, (n + 1) * size).supervised()

        return load

    (from_disk, slowest), (from_memory, _) = (timed(loads(), 200) for _ in range(2))
    step, _ = timed(step_of(source, size), 3)
    return {
        "file": f"{path.stat().st_size / 2**30:.2f} GiB, {len(source):,} windows of {LENGTH}",
        "batch from disk, ms": round(from_disk * 1000, 3),
        "slowest of 200, ms": round(slowest * 1000, 3),
        "batch from memory, ms": round(from_memory * 1000, 3),
        "step of 8_16_512, ms": round(step * 1000, 1),
        "share of step, from disk": f"{from_disk / step:.4%}",
        "within the bar": from_disk / step < BAR,
    }


def step_of(source: Windows, size: int) -> Callable[[], Any]:
    """An update of the default model on a batch that lies ready."""
    plan = [Phase("text", source, 10**9, size, lambda step: 1e-4)]
    model = GPT(GPTConfig(50257, LENGTH, 8, 16, 512, positions="rope"))
    run = Run(model, plan, lambda model, step: [], Settings(), Path(), World())
    run.tracker = Tracker(Path(), 0, run.total, is_main=False)
    batches = run.make_update(0)
    return lambda: run.update(batches, 1e-4, 0)


def timed(action: Callable[[], Any], times: int) -> tuple[float, float]:
    """Median of the seconds that it takes, and the most."""
    action()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return median(seconds), max(seconds)


if __name__ == "__main__":
    sys.exit(main())
