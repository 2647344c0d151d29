"""Linear congruential generators, plain, truncated and permuted: exact for every modulus, on whole arrays.

The permutations are those of O'Neill, 2014, "PCG: A family of simple fast space-efficient statistically good
algorithms for random number generation", with the free choice of control and output bits of arXiv 2510.26792.

The same expressions run on NumPy and torch arrays of int32 and int64, whose products wrap around as a power-of-two
modulus wants it, and on NumPy arrays of Python integers, which are exact at any size.

B sequences, N numbers each, m modulus, L = ceil(log2 m) bits of a state, k bits kept, v value of the control bits (the
highest bits of a state).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Array = Any  # numpy.ndarray of int32, int64 or object (Python integers), or torch.Tensor of int32 or int64

TRUNCATED = ("LCG", "TLCG")  # no permutation, hence no control bits
KINDS = (*TRUNCATED, "RS", "RR", "XSHRR", "XSHRS", "XSLRR")
COMPOSITES = {"XSPCGS": "XSLRR+XSHRR+XSHRS"}


def parse_kinds(text: str) -> list[str]:
    """The types that `XSLRR` or `lcg+tlcg` names, in any case. Raises ValueError with those that exist."""
    kinds = [kind for word in text.upper().split("+") for kind in COMPOSITES.get(word, word).split("+")]
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"{kind or text!r} is no generator; there are {', '.join(KINDS)}, joined by + for several")
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"{text!r} names a generator twice")
    return kinds


@dataclass(frozen=True)
class Generator:
    """x <- (a x + c) mod m, then a number is read from the new x. Raises ValueError outside the type's real domain.

    `bits_to_keep` None means all bits of LCG and half of them for the other types. The reading of x is `output`.
    """

    kind: str
    m: int
    control_bits: int = 0
    bits_to_keep: int | None = None

    def __post_init__(self) -> None:
        if self.m < 2:
            raise ValueError(f"modulus {self.m} has no sequence; use at least 2")
        fixed = {"LCG": self.state_bits, "XSLRR": self.state_bits // 2}.get(self.kind)
        if self.bits_to_keep is None:
            object.__setattr__(self, "bits_to_keep", max(1, self.state_bits // 2) if fixed is None else fixed)
        elif fixed is not None and self.bits_to_keep != fixed:
            raise ValueError(f"{self.name}: {self.kind} keeps {fixed} bits of a state of {self.state_bits}")
        for holds, rule in self._domain():
            if not holds:
                raise ValueError(f"{self.name}: {self.kind} with L = {self.state_bits} bits of a state needs {rule}")

    def _domain(self) -> list[tuple[bool, str]]:
        """What must hold for every window to lie inside the state, in words that say it. Only those of XSHRR and XSHRS
        may run over its top, where they read zeros, as in arXiv 2510.26792's code."""
        L, cb, k = self.state_bits, self.control_bits, self.k
        rules = [(0 < k <= L, "1 <= bits_to_keep <= L"), (0 <= cb <= L, "0 <= control_bits <= L")]
        widest = 2 ** max(0, min(cb, L))  # number of values of the control bits
        if self.kind in TRUNCATED:
            return [*rules, (cb == 0, "control_bits = 0")]
        return (
            rules
            + {
                "RS": [(L - k - cb - (widest - 1) >= 0, "bits_to_keep + control_bits + 2**control_bits - 1 <= L")],
                "RR": [
                    (k >= widest, "bits_to_keep >= 2**control_bits"),
                    (cb + k <= L, "control_bits + bits_to_keep <= L"),
                ],
                "XSHRR": [(cb + k < L, "control_bits + bits_to_keep < L"), (k >= cb, "bits_to_keep >= control_bits")],
                "XSHRS": [(k - cb - widest + 1 > 0, "bits_to_keep >= control_bits + 2**control_bits")],
                "XSLRR": [],
            }[self.kind]
        )

    @property
    def state_bits(self) -> int:
        """L."""
        return (self.m - 1).bit_length()

    @property
    def k(self) -> int:
        assert self.bits_to_keep is not None
        return self.bits_to_keep

    @property
    def name(self) -> str:
        """Such as `XSLRR m=2^18 cb=3 k=9`."""
        control = "" if self.kind in TRUNCATED else f" cb={self.control_bits}"
        kept = "" if self.kind == "LCG" else f" k={self.bits_to_keep}"
        return f"{self.kind} m={modulus_name(self.m)}{control}{kept}"

    @property
    def largest(self) -> int:
        """No output is larger; the last of LCG and TLCG is reached, 2^k - 1 of the others need not be."""
        return (self.m - 1) >> (self.state_bits - self.k) if self.kind in TRUNCATED else 2**self.k - 1

    @property
    def dtype(self) -> str:
        """The narrowest type in which every step is exact."""
        if _is_power_of_two(self.m):
            return "int32" if self.m <= 2**31 else "int64" if self.m <= 2**63 else "object"
        return "int32" if self.m * (self.m - 1) < 2**31 else "int64" if self.m <= 2**63 else "object"

    def sequences(self, x0: Array, a: Array, c: Array, length: int) -> Array:
        """Numbers 1 .. `length` after start values `x0` (B,) under multipliers and increments (B,); returns (B, N).

        All three of `dtype`, or tensors of it. x0 itself is never read: the step comes first.
        """
        return self.output(states(self.m, x0, a, c, length))

    def output(self, x: Array) -> Array:
        """What each state (any shape) shows of itself."""
        L, cb, k = self.state_bits, self.control_bits, self.k
        mask = 2**k - 1
        if self.kind == "LCG":
            return x
        if self.kind == "TLCG":
            return x >> (L - k)
        v = x >> (L - cb)
        if self.kind == "RS":  # the window starts under the control bits and moves down as v grows
            return (x >> ((L - k - cb) - v)) & mask
        if self.kind == "RR":
            return _rotate_right((x >> (L - cb - k)) & mask, v, k, 2**cb)
        if self.kind == "XSHRR":
            return _rotate_right(((x ^ (x >> ((k + cb) // 2))) >> (k - cb)) & mask, v, k, 2**cb)
        if self.kind == "XSHRS":
            shift = k - cb - 2**cb + 1
            return ((x ^ (x >> shift)) >> (v + shift)) & mask
        return _rotate_right((x ^ (x >> k)) & mask, v, k, 2**cb)  # XSLRR


def states(m: int, x0: Array, a: Array, c: Array, length: int) -> Array:
    """x_1 .. x_N of every sequence, (B, N), by doubling: the n-step map takes x_1 .. x_n to x_(n+1) .. x_2n at once.

    After n steps x becomes A x + C; after 2 n steps A (A x + C) + C.
    """
    table = _empty(x0, length)
    table[:, 0] = _affine(x0, a, c, m)
    known = 1
    while known < length:
        more = min(known, length - known)
        table[:, known : known + more] = _affine(table[:, :more], a[:, None], c[:, None], m)
        a, c = _affine(a, a, 0, m), _affine(c, a, c, m)
        known += more
    return table


def digits(values: Array, base: int, count: int) -> Array:
    """Each number (B, N) as `count` digits to `base`, the least significant first: int64 (B, N * count)."""
    if count == 1:
        return values.astype(np.int64) if isinstance(values, np.ndarray) else values.long()
    rows = _empty(values[:, 0], values.shape[1] * count, wide=True)
    for place in range(count):
        rows[:, place::count] = values % base
        values = values // base
    return rows


def modulus_name(m: int) -> str:
    return f"2^{m.bit_length() - 1}" if _is_power_of_two(m) else str(m)


def _is_power_of_two(m: int) -> bool:
    return m & (m - 1) == 0


def _empty(like: Array, width: int, wide: bool = False) -> Array:
    if isinstance(like, np.ndarray):
        return np.empty((len(like), width), dtype=np.int64 if wide else like.dtype)
    return torch.empty((len(like), width), dtype=torch.int64 if wide else like.dtype, device=like.device)


def _rotate_right(u: Array, r: Array, k: int, r_values: int) -> Array:
    """Words of k bits; `r` is below `r_values` and counts modulo k. Bits pushed out on the left are masked away."""
    r = r % k if r_values > k else r
    return ((u >> r) | (u << (k - r))) & (2**k - 1)


def _affine(x: Array, a: Array, c: Array, m: int) -> Array:
    """(a x + c) mod m for values in [0, m). Wraparound is exact where m is a power of two."""
    if x.dtype == object:
        return (a * x + c) % m
    if _is_power_of_two(m):
        return (a * x + c) & (m - 1)
    if m * (m - 1) < 2**63:
        return (a * x + c) % m
    return _add(_multiply(a, x, m), c, m)


def _add(x: Array, y: Array, m: int) -> Array:
    """(x + y) mod m without leaving int64: x - (m - y) lies in [-m, m)."""
    difference = x - (m - y)
    return difference + (difference < 0) * m


def _multiply(a: Array, x: Array, m: int) -> Array:
    """a x mod m where the product does not fit: a sum of doublings of x, one for each bit of a."""
    total = (a * 0) + (x * 0)
    for _ in range(m.bit_length()):
        total = _add(total, x * (a & 1), m)
        a, x = a >> 1, _add(x, x, m)
    return total
