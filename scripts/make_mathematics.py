"""Makes the DeepMind mathematics data set with its published generator, in an environment of its own.

python scripts/make_mathematics.py --out data/mathematics --train 900 --test 20 [--processes 2]

The generator (Saxton et al., 2019; PyPI mathematics_dataset 1.0.1, Apache-2.0) needs sympy 1.4 and NumPy 1.23, so the
first call makes a virtual environment for it. What it writes has the layout of the published archive. Every file is
made by a process of its own from (seed, folder, module), so that it does not matter who makes it, or when: a file that
is there is left alone, and a run that was cut off goes on with the next one.
"""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

PACKAGES = (
    "mathematics_dataset==1.0.1",
    "sympy==1.4",
    "numpy==1.23.5",  # the last with np.object
    "mpmath==1.3.0",
    "absl-py==2.1.0",
    "six==1.16.0",
)
SLOW = 0.1  # seconds a problem, from which on a module is named at the end
INSIDE = "--inside-environment"


# --- Outside: with whatever Python there is


def main() -> int:
    options = parse()
    if options.inside_environment:
        return inside(options)
    settings = {"seed": options.seed, "train": options.train, "test": options.test, "packages": PACKAGES}
    options.out.mkdir(parents=True, exist_ok=True)
    noted = options.out / "settings.json"
    if noted.exists() and json.loads(noted.read_text()) != json.loads(json.dumps(settings)):
        print(f"error: {options.out} was made with other settings, see {noted}; use another --out", file=sys.stderr)
        return 2
    noted.write_text(json.dumps(settings, indent=2) + "\n")
    python = environment(options.env)
    command = [str(python), str(Path(__file__).resolve()), *sys.argv[1:], INSIDE]
    return subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "0"}).returncode  # sympy orders by hashes


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that is to hold train-easy, ..., extrapolate")
    parser.add_argument(
        "--train", type=positive, default=900, metavar="N", help="of each module, in thirds easy, medium, hard"
    )
    parser.add_argument(
        "--test", type=positive, default=20, metavar="N", help="of each module, interpolated and extrapolated"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modules", default="", metavar="A,B", help="only those whose names begin so")
    parser.add_argument("--processes", type=positive, default=1)
    parser.add_argument("--env", type=Path, default=Path(".venv-mathematics"), help="the generator's environment")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def environment(folder: Path) -> Path:
    """The Python of the generator's environment, which is made if it is not whole."""
    python, whole = folder.absolute() / "bin" / "python", folder / "whole"
    if not whole.exists():
        print(f"making {folder} for the generator", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *PACKAGES], check=True)
        whole.touch()
    return python


# --- Inside: with the generator's packages


def inside(options: argparse.Namespace) -> int:
    todo = [job for job in jobs(options) if not job[0].exists()]
    print(f"{len(todo)} files to make in {options.out}", flush=True)
    failed, slow = [], []
    with multiprocessing.get_context("fork").Pool(options.processes, maxtasksperchild=1) as pool:
        for number, (name, problems, seconds, failure) in enumerate(pool.imap_unordered(make, todo), start=1):
            print(f"[{number}/{len(todo)}] {name}: {failure or f'{problems} problems, {seconds:.1f} s'}", flush=True)
            failed += [f"{name}: {failure}"] if failure else []
            slow += [f"{name}: {seconds / problems:.2f} s a problem"] if seconds > SLOW * problems else []
    print("\n".join(["", "slow modules:", *slow] if slow else []))
    print("\n".join(["failed modules:", *failed] if failed else [f"all is in {options.out}"]))
    return 1 if failed else 0


def jobs(options: argparse.Namespace) -> Iterator[tuple[Path, int, int]]:
    """File, number of problems and seed of every module."""
    wanted = tuple(options.modules.split(","))
    for folder, modules in all_modules().items():
        (options.out / folder).mkdir(exist_ok=True)
        number = max(1, options.train // 3) if folder.startswith("train") else options.test
        for name in modules:
            if name.startswith(wanted):
                digest = hashlib.blake2b(f"{options.seed}/{folder}/{name}".encode(), digest_size=4).digest()
                yield options.out / folder / f"{name}.txt", number, int.from_bytes(digest, "little")


def all_modules() -> dict[str, dict]:
    """By folder and name, the functions that make a problem each."""
    from absl import flags
    from mathematics_dataset import generate

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["generate"])
    generate.init_modules(train_split=True)
    return generate.filtered_modules


def order_entities() -> None:
    """The generator shuffles entities as a set yields them; by their number, not by where in memory they lie."""
    from mathematics_dataset.util.composition import Entity

    numbers = itertools.count()

    def numbered(kind: type, *arguments: object, **keywords: object) -> object:
        entity = object.__new__(kind)
        entity.number = next(numbers)
        return entity

    Entity.__new__ = numbered
    Entity.__hash__ = lambda entity: entity.number


def make(job: tuple[Path, int, int]) -> tuple[str, int, float, str]:
    """Writes a file, whole or not at all. Returns its name, problems, seconds, and why it failed, if it did."""
    import numpy as np
    from mathematics_dataset import generate

    path, number, seed = job
    order_entities()
    name, started = f"{path.parent.name}/{path.stem}", time.perf_counter()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the generator draws from it)
    module = all_modules()[path.parent.name][path.stem]
    try:
        problems = [generate.sample_from_module(module)[0] for _ in range(number)]
        text = "".join(f"{problem.question}\n{problem.answer}\n" for problem in problems)
    except Exception as error:  # of somebody else's code, in any module: it is said, and the others are made
        return name, 0, 0.0, f"{type(error).__name__}: {error}"
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return name, number, time.perf_counter() - started, ""


if __name__ == "__main__":
    sys.exit(main())
