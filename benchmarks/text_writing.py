"""How fast a token file is written, and in how much memory.

python -m benchmarks.text_writing [--tokens 100000000] [--json FILE]

Makes a token file of made text with GPT-2's tokenizer. PyTorch, which `initialize` does without, is not loaded here.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import arguments
from core import tokenizer
from core.documents import Document, Documents
from core.token_writer import write

WORDS = 200  # of a document
BAR = 300  # MiB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000_000, help="about so many")
    parser.add_argument("--json", type=arguments.new_file, help="write the figures here, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = writing(options.tokens, Path(folder))
    from benchmarks import report  # which loads PyTorch

    return report.conclude(report.machine("numpy", "tokenizers"), result, options.json)


class MadeText(Documents):
    """Documents of words drawn as Zipf would from a list of made ones."""

    def __init__(self, count: int):
        self.count = count
        letters, generator = np.array(list("etaoinshrdlu")), np.random.default_rng(0)
        self.words = np.array(["".join(generator.choice(letters, 2 + n % 8)) for n in range(20_000)])

    def identity(self) -> dict[str, Any]:
        return {"kind": "made", "count": self.count}

    def documents(self, start: int = 0) -> Iterator[Document]:
        for number in range(start, self.count):
            ranks = np.random.default_rng(number).zipf(1.3, WORDS) % len(self.words)
            yield Document(" ".join(self.words[ranks]), f"document {number}")


def writing(tokens: int, folder: Path) -> dict[str, Any]:
    chosen = tokenizer.load("gpt2")
    sample = [document.text for document in MadeText(20).documents()]
    per_document = float(np.mean([len(ids) + 1 for ids in chosen.encode(sample)]))
    started = time.perf_counter()
    meta = write(folder / "x.bin", MadeText(int(tokens / per_document)), chosen)
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()  # getrusage would count the process that started this one, too
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024
    return {
        "tokens": f"{meta['tokens']:,} in {meta['documents']:,} documents",
        "tokens per second": f"{meta['tokens'] / seconds:,.0f}",
        "peak memory, MiB": round(peak, 1),
        "PyTorch loaded": "torch" in sys.modules,
        "within the bar": peak < BAR,
    }


if __name__ == "__main__":
    sys.exit(main())
