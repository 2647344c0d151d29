"""Text: what windows from a large token file cost beside a training step, and how token files are written.

python -m benchmarks.text loading [--gigabytes 1] [--batch_size 8] [--json FILE]
python -m benchmarks.text writing [--tokens 100000000] [--json FILE]

`loading` fills a file with random ids and times windows of 512 tokens, drawn at random places, against an update of the
default model of the curriculum (8_16_512, GPT-2's vocabulary) on as many. `writing` makes a token file of made text
with GPT-2's tokenizer in a process of its own, and reports its rate and its peak memory.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import report
from core import tokenizer
from core.documents import Document, Documents
from core.token_files import TokenFile
from core.token_writer import write

LENGTH, BAR = 512, 0.02
CHUNK = 2**24  # tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["loading", "writing"])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the file")
    parser.add_argument("--batch_size", type=int, default=8, help="windows")
    parser.add_argument("--tokens", type=int, default=100_000_000, help="of the file that is written")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        is_loading = options.what == "loading"
        result = loading(options, Path(folder)) if is_loading else writing(options.tokens, Path(folder))
    facts = report.machine("torch", "numpy", "tokenizers")
    print(report.sentence(facts))
    for name, value in result.items():
        print(f"{name:<30}{value}")
    if options.json:
        report.write(options.json, facts, [result])
    return 0 if result["within the bar"] else 1


def loading(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from core.windows import Windows

    path = folder / "x.bin"
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(int(options.gigabytes * 2**30 / 2 / CHUNK)):
            generator.integers(50257, size=CHUNK, dtype=np.uint16).tofile(file)
    source = Windows([TokenFile(path, verify=False, say=lambda text: None)], LENGTH, seed=0)
    size = options.batch_size
    numbers = iter(range(10**9))

    def load() -> None:
        n = next(numbers)
        source.batch("train", n * size, (n + 1) * size).supervised()

    batch, step = timed(load, 200), timed(step_of(source, size), 3)
    return {
        "file": f"{path.stat().st_size / 2**30:.2f} GiB, {len(source):,} windows of {LENGTH}",
        "batch of windows, ms": round(batch * 1000, 3),
        "step of 8_16_512, ms": round(step * 1000, 1),
        "share of the step": f"{batch / step:.4%}",
        "within the bar": batch / step < BAR,
    }


def step_of(source: Any, size: int) -> Any:
    """An update of the default model on a batch that lies ready."""
    from core.distributed import World
    from core.model import GPT, GPTConfig
    from core.tracking import Tracker
    from core.trainer import Phase, Run, Settings

    plan = [Phase("text", source, 10**9, size, lambda step: 1e-4)]
    model = GPT(GPTConfig(50257, LENGTH, 8, 16, 512, positions="rope"))
    run = Run(model, plan, lambda model, step: [], Settings(), Path(), World())
    run.tracker = Tracker(Path(), 0, run.total, is_main=False)
    batches = run.make_update(0)
    return lambda: run.update(batches, 1e-4, 0)


def timed(action: Any, times: int) -> float:
    """Median of the seconds that it takes."""
    action()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


class MadeText(Documents):
    """Documents of 200 words, drawn as Zipf would, from a list of made words."""

    def identity(self) -> dict[str, Any]:
        return {"kind": "made"}

    def documents(self, start: int = 0) -> Iterator[Document]:
        generator = np.random.default_rng(0)
        letters = np.array(list("etaoinshrdlu"))
        words = np.array(["".join(generator.choice(letters, 2 + n % 8)) for n in range(20_000)])
        number = start
        while True:
            ranks = np.random.default_rng(number).zipf(1.3, 200) % len(words)
            yield Document(" ".join(words[ranks]), f"document {number}")
            number += 1


class Enough(MadeText):
    """As many of them as have about so many tokens."""

    def __init__(self, tokens: int, per_document: float):
        self.count = int(tokens / per_document)

    def documents(self, start: int = 0) -> Iterator[Document]:
        for number, document in enumerate(super().documents(start), start=start):
            if number >= self.count:
                return
            yield document


def writing(tokens: int, folder: Path) -> dict[str, Any]:
    """In a process of its own, whose memory is all that is measured: it knows nothing of PyTorch."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(write_and_measure, (tokens, folder))


def write_and_measure(tokens: int, folder: Path) -> dict[str, Any]:
    chosen = tokenizer.load("gpt2")
    sample = [next(MadeText().documents(n)).text for n in range(20)]
    per_document = float(np.mean([len(ids) + 1 for ids in chosen.encode(sample)]))
    started = time.perf_counter()
    meta = write(folder / "x.bin", Enough(tokens, per_document), chosen, say=lambda text: None)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "tokens": f"{meta['tokens']:,} in {meta['documents']:,} documents",
        "tokens per second": f"{meta['tokens'] / seconds:,.0f}",
        "peak memory, MiB": round(peak, 1),
        "PyTorch loaded": "torch" in sys.modules,
        "within the bar": peak < 300,
    }


if __name__ == "__main__":
    sys.exit(main())
