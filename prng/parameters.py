"""Which multipliers and increments a run trains and tests on.

A generator x <- (a x + c) mod m has its full period m if and only if c is coprime to m, every prime factor of m divides
a - 1, and 4 does if it divides m (Hull and Dobell, 1962, "Random number generators", theorem 1).
"""

import glob
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.config import home
from core.errors import UserError
from core.files import partial_of
from prng.generators import modulus_name

KEYS = ("train_a", "train_c", "test_a", "test_c")
DENSE = 16  # times as many candidates as are wanted or banned: up to there all are listed, beyond draws seldom meet
TRIAL_LIMIT = 2**22  # largest divisor that is tried


@dataclass(frozen=True)
class Parameters:
    """Values for one modulus, each tuple in random order, no value in two of them."""

    m: int
    train_a: tuple[int, ...]
    train_c: tuple[int, ...]
    test_a: tuple[int, ...]
    test_c: tuple[int, ...]


@dataclass(frozen=True)
class Excluded:
    """Values that were used elsewhere, whatever the modulus there."""

    a: frozenset[int] = frozenset()
    c: frozenset[int] = frozenset()


def choose(
    moduli: Sequence[int], train: tuple[int, int], test: tuple[int, int], seed: int, excluded: Excluded
) -> list[Parameters]:
    """Draws `train` = (n_a, n_c) and `test` = (n_test_a, n_test_c) values for each modulus, uniformly, under the seed.

    No a (and no c) is trained on under one modulus and tested under another. Raises UserError if a modulus has too few.
    """
    streams = [np.random.default_rng([seed, number]) for number in range(len(moduli))]
    a = _split("a", moduli, streams, train[0], test[0], excluded.a)
    c = _split("c", moduli, streams, train[1], test[1], excluded.c)
    return [Parameters(m, a[i][0], c[i][0], a[i][1], c[i][1]) for i, m in enumerate(moduli)]


def _split(
    kind: str,
    moduli: Sequence[int],
    streams: Sequence[np.random.Generator],
    train: int,
    test: int,
    banned: frozenset[int],
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Values of a or of c to train on and to test on, for each modulus."""
    trained: set[int] = set()  # under any of the moduli so far
    tested: set[int] = set()
    parts = []
    for m, rng in zip(moduli, streams, strict=True):
        pool = _Pool(m, kind, rng)
        for_test = pool.take(test, banned | trained, f"n_test_{kind}")
        tested.update(for_test)
        for_train = pool.take(train, banned | tested, f"n_{kind}")
        trained.update(for_train)
        parts.append((tuple(for_train), tuple(for_test)))
    return parts


def multiplier_step(m: int) -> int:
    """The r for which exactly a = 1, 1 + r, 1 + 2 r, ... satisfy the theorem: all primes of m, and 4 if it divides m.

    Trial division up to the cube root is enough: what is left is a prime, the square of one, or two different ones.
    Raises ValueError if that would take too long, which no power of two and no m <= 2^63 does.
    """
    product, rest = 1, m
    divisor = 2
    while divisor**3 <= rest or divisor == 2:
        if rest % divisor == 0:
            product *= divisor
            while rest % divisor == 0:
                rest //= divisor
        divisor += 1 if divisor == 2 else 2
        if divisor > TRIAL_LIMIT and rest > 1:
            raise ValueError(f"modulus {m} is no power of two and too large to be factorised")
    root = math.isqrt(rest)
    product *= root if root * root == rest else rest
    return 2 * product if m % 4 == 0 else product


class _Pool:
    """Draws values that give `m` its full period, in uniformly random order. a = 1, which only counts, is left out."""

    def __init__(self, m: int, kind: str, rng: np.random.Generator):
        self.m, self.kind, self.rng = m, kind, rng
        self.step = multiplier_step(m) if kind == "a" else 1
        self.size = (m - 1) // self.step  # numbers q = 1 .. size stand for 1 + q step, or for c = q
        self.drawn: set[int] = set()

    def take(self, count: int, banned: set[int] | frozenset[int], key: str) -> list[int]:
        """`count` further values outside `banned`."""
        found: list[int] = []
        for value in self._candidates(count, len(banned) + len(self.drawn)):
            if len(found) == count:
                break
            if value not in banned and value not in self.drawn and (self.kind == "a" or math.gcd(value, self.m) == 1):
                found.append(value)
                self.drawn.add(value)
        if len(found) < count:
            left = f"{len(found)} of the {self.kind} that give modulus {modulus_name(self.m)} its full period are left"
            raise UserError(f"{key}: {count} asked for, but {left}; use fewer, or another modulus")
        return found

    def _candidates(self, count: int, taken: int) -> Iterator[int]:
        """All of them in random order, or random ones without end; at least a tenth of c is coprime to any modulus."""
        if self.size <= DENSE * (count + taken):
            yield from map(self._value, (self.rng.permutation(self.size) + 1).tolist())
            return
        while True:
            yield from map(self._value, (1 + q for q in uniform(self.rng, self.size, 2 * count + 64)))

    def _value(self, q: int) -> int:
        return 1 + q * self.step if self.kind == "a" else q


def uniform(rng: np.random.Generator, bound: int, size: int) -> list[int]:
    """Integers in [0, bound), exactly uniform at any size of `bound`."""
    if bound <= 2**63:
        return rng.integers(0, bound, size=size).tolist()
    bits = (bound - 1).bit_length()
    values: list[int] = []
    while len(values) < size:
        value = int.from_bytes(rng.bytes(bits // 8 + 1), "little") % 2**bits
        if value < bound:
            values.append(value)
    return values


# --- Files


def save(path: Path, chosen: Sequence[Parameters]) -> None:
    """Writes `train_a`, ... as (moduli, values) beside `moduli` (moduli,): int64, or decimal text above 2^63."""
    arrays = {key: storable([getattr(p, key) for p in chosen]) for key in KEYS}
    write_arrays(path, {"moduli": storable([p.m for p in chosen]), **arrays})


def load(path: Path) -> list[Parameters]:
    """What `save` wrote. Raises UserError if it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = [[tuple(map(int, row)) for row in arrays[key]] for key in KEYS]
            return [Parameters(int(m), *values) for m, *values in zip(arrays["moduli"], *columns, strict=True)]
    except Exception as error:  # a damaged archive may fail in any way
        raise UserError(f"{path} cannot be read: {_words(error)}") from error


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An .npz file, whole or not there at all."""
    partial = partial_of(path)
    with partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def storable(values: Sequence[int] | Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """Integers of any size as an array that needs no pickle: int64, or decimal text if one is 2^63 or more."""
    array = np.array(values, dtype=object)
    return array.astype(np.int64) if all(value < 2**63 for value in array.flat) else array.astype(str)


def read_excluded(paths: Sequence[str], own: Path | None = None) -> Excluded:
    """The union over files, globs expanded. Raises UserError with a line for each that cannot be honoured.

    `own` is the file of the run that asks: a glob that covers it means the others, before and after it is written.
    """
    problems: list[str] = []
    a: set[int] = set()
    c: set[int] = set()
    for pattern in (str(home(path)) for path in paths):
        is_glob = glob.has_magic(pattern) and not Path(pattern).exists()  # a folder may be called lr[1]
        files = sorted(glob.glob(pattern, recursive=True)) if is_glob else [pattern]
        if is_glob and own is not None:
            files = [path for path in files if Path(path).resolve() != own.resolve()]
        if not files:
            problems.append(f"exclude_ac_paths: no file matches {pattern}")
        for path in files:
            try:
                found_a, found_c = _read_values(path)
            except Exception as error:  # a damaged archive may fail in any way
                problems.append(f"exclude_ac_paths: {path} cannot be read: {_words(error)}")
                continue
            if not found_a and not found_c:
                problems.append(f"exclude_ac_paths: {path} holds no values of {', '.join(KEYS)}")
            a |= found_a
            c |= found_c
    if problems:
        raise UserError(*problems)
    return Excluded(frozenset(a), frozenset(c))


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0] if str(error) else type(error).__name__


def _read_values(path: str) -> tuple[set[int], set[int]]:
    """Values of a and of c in an .npz file. Whatever it raises, they are not to be had."""
    Path(path).open("rb").close()  # says so if there is nothing
    if not path.endswith(".npz") or not zipfile.is_zipfile(path):
        raise ValueError("only .npz files are read, with any of " + ", ".join(KEYS))
    with np.load(path, allow_pickle=False) as arrays:
        found = {key: set(map(int, _whole(key, np.asarray(arrays[key])).flat)) for key in KEYS if key in arrays}
    a, c = (set().union(*(values for key, values in found.items() if key.endswith(kind))) for kind in ("_a", "_c"))
    return a, c


def _whole(key: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iuU":
        raise ValueError(f"{key} holds {array.dtype}, not integers")
    return array
