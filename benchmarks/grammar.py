"""How long it takes to judge a string of Lano, and to give the exact law of the next token after each of its tokens.

python -m benchmarks.grammar [--json FILE] [--grammars cfg3f,cfg3j] [--tokens 250] [--rounds 20]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import arguments, report
from synthetic_tasks.lano import NAMES, LanoTask

BARS = {"derivations": 10.0, "law": 100.0}  # milliseconds, for a string of 250 tokens of cfg3f
COLUMNS = {"grammar": 8, "tokens": 6, "derivations ms": 14, "bar": 5, "law ms": 8, "bar ": 5}


def milliseconds(call: Callable[[], Any], rounds: int) -> float:
    call()  # compiles, or reads what was compiled
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def measure(grammar: str, tokens: int, rounds: int) -> dict[str, Any]:
    task = LanoTask(config_name=grammar)
    strings = [task.string(row["input_ids"]) for row in task.take(0, 200)]
    string = min(strings, key=lambda s: abs(len(s) - tokens))
    times = {name: milliseconds(partial(getattr(task, name), string), rounds) for name in BARS}
    return {"grammar": grammar, "tokens": len(string), "milliseconds": times}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=arguments.new_file, metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--grammars",
        type=arguments.some_of(NAMES),
        default="cfg3f,cfg3j,cfg3k",
        metavar="A,B",
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--tokens", type=arguments.count, default=250, help="length of the strings, about (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=arguments.count, default=20, help="of which the median is taken (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    machine, widths = report.machine("numpy", "numba"), list(COLUMNS.values())
    print(report.sentence(machine) + "\n")
    print(report.line(list(COLUMNS), widths))
    results = [measure(name, options.tokens, options.rounds) for name in options.grammars]
    for result in results:
        times = result["milliseconds"]
        cells = [cell for name, bar in BARS.items() for cell in (f"{times[name]:.2f}", f"{bar:.0f}")]
        print(report.line([result["grammar"], str(result["tokens"]), *cells], widths))
    if options.json:
        report.write(options.json, {"machine": machine}, results)


if __name__ == "__main__":
    main()
