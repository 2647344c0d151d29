"""What the two tasks on graphs share: how large a graph is, and names of several tokens for its nodes."""

from collections.abc import Mapping
from itertools import combinations
from math import log2

import numpy as np

# V symbols; a name is any of them, 1 .. V, and, as its last token, one of V + 1 .. 2V: no name begins another.

LONGEST_CODE = 62  # bits; names are compared as integers


def size_chances(largest: int) -> np.ndarray:
    """Cumulative chances of 3, 4, ..., `largest` nodes, P(n) proportional to 1 / (n + sqrt(largest)); float64."""
    chances = 1 / (np.arange(3, largest + 1) + largest**0.5)
    cumulative = np.cumsum(chances / chances.sum())
    cumulative[-1] = 1
    return cumulative


def check_names(nodes: int, symbols: int, shortest: int, longest: int) -> None:
    """Raises ValueError unless there are enough names for every node of the largest graph."""
    if longest * log2(symbols + 1) > LONGEST_CODE:
        raise ValueError(
            f"max_tlen {longest}: names so long, of {symbols} symbols, exceed {LONGEST_CODE} bits; use shorter ones"
        )
    pool = sum(symbols**length for length in range(shortest, longest + 1))
    if pool < nodes:
        raise ValueError(
            f"N {nodes} nodes need as many names, but {symbols} symbols in names of {shortest} .. {longest} tokens "
            f"make only {pool}; use more symbols, longer names or a smaller N"
        )


def check_ids(ranges: Mapping[str, range], **single: int) -> None:
    """Raises ValueError, naming both, where two things share a token id."""
    all_ranges = {**ranges, **{name: range(token, token + 1) for name, token in single.items()}}
    for (one, ids), (other, others) in combinations(all_ranges.items(), 2):
        low, high = max(ids[0], others[0]), min(ids[-1], others[-1])
        if low <= high:
            raise ValueError(
                f"{one} takes the ids {_words(ids)} and {other} takes {_words(others)}; no id may mean two things"
            )


def _words(ids: range) -> str:
    return str(ids[0]) if len(ids) == 1 else f"{ids[0]} .. {ids[-1]}"


def split_names(tokens: list[int], symbols: int, shortest: int, longest: int) -> list[tuple[int, ...]]:
    """The names that follow one another in `tokens`. Raises ValueError if it is not made of whole names."""
    names: list[tuple[int, ...]] = []
    begun: list[int] = []
    for token in tokens:
        if not 1 <= token <= 2 * symbols:
            raise ValueError(f"token {token} stands where a name is expected, whose tokens are 1 .. {2 * symbols}")
        begun.append(token)
        if token > symbols:
            if not shortest <= len(begun) <= longest:
                raise ValueError(f"the name {begun} has {len(begun)} tokens; it should have {shortest} .. {longest}")
            names.append(tuple(begun))
            begun = []
    if begun:
        raise ValueError(f"the name {begun} is cut short: its last token should be above {symbols}")
    return names
