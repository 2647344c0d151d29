"""Sums over all derivations of a string at once, from short spans to long ones: counts, and the law of the next token.

All of it in this one file: numba keeps compiled functions on disk and does not notice when one that they call changes
in another file.
"""

import numpy as np
from numba import njit

# A span is a symbol, the position where its string begins, and the length of that string. What belongs to spans lies in
# one flat array: symbol s from place[s] on, a row of 1 + width[s] values, for lengths 0 .. width[s], per position.


@njit(cache=True, nogil=True)
def layout(longest: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """`width` (S,) and `place` (S + 1,), int64, for a string of `length` tokens."""
    width = np.minimum(longest, length)
    place = np.zeros(len(longest) + 1, dtype=np.int64)
    for s in range(len(longest)):
        place[s + 1] = place[s] + (length + 1) * (width[s] + 1)
    return width, place


@njit(cache=True, nogil=True)
def inside(tokens, first_rule, first_part, parts, longest, weights, token_weight) -> np.ndarray:
    """For each span the sum over derivations of the product of `weights` (S,), one per symbol turned, and of
    `token_weight` per token; flat, float64. The start is summed at position 0 only."""
    T, S = len(tokens), len(longest)
    width, place = layout(longest, T)
    sums = np.zeros(place[S])
    now, then = np.zeros(T + 1), np.zeros(T + 1)  # by the length that the parts so far have
    for s in range(S - 1, -1, -1):  # what a symbol turns into comes after it
        for i in range(1 if s == 0 else T):
            row = sums[place[s] + i * (width[s] + 1) :]
            for rule in range(first_rule[s], first_rule[s + 1]):
                low, high = 0, 0
                now[0] = weights[s]
                for part in parts[first_part[rule] : first_part[rule + 1]]:
                    reach = 1 if part > 0 else width[-1 - part]
                    top = min(high + reach, width[s], T - i)
                    then[low : top + 1] = 0.0
                    for length in range(low, min(high, top) + 1):
                        if now[length] == 0.0:
                            continue
                        j = i + length
                        if part > 0:
                            if j < T and tokens[j] == part:
                                then[length + 1] += now[length] * token_weight
                        else:
                            y = -1 - part
                            begin = place[y] + j * (width[y] + 1)
                            for more in range(1, min(reach, top - length) + 1):
                                rest = sums[begin + more]
                                then[length + more] += now[length] * rest if rest > 0.0 else 0.0  # not inf * 0
                    low, high = low + 1, top
                    now, then = then, now
                for length in range(low, high + 1):
                    row[length] += now[length]
    return sums


@njit(cache=True, nogil=True)
def next_tokens(tokens, first_rule, first_part, parts, longest, weights, token_weight, terminals) -> np.ndarray:
    """The law of what follows the first t tokens: float64 (T + 1, terminals + 1), the end in column 0.

    Rows sum to one, or hold zeros where no string begins so. `weights` (S,) are the chances of each symbol's rules;
    `token_weight` keeps the sums in the range of floats and cancels.

    With F_X[t] the chance that the first t tokens are those given and a derivation has its symbol X next, F is passed
    on from a symbol to the parts of its rules (as in Jelinek and Lafferty, 1991, "Computation of the probability of
    initial substring generation by stochastic context-free grammars", here without recursion).
    """
    T, S = len(tokens), len(longest)
    width, place = layout(longest, T)
    sums = inside(tokens, first_rule, first_part, parts, longest, weights, token_weight)
    ahead = np.zeros((S, T + 1))
    law = np.zeros((T + 1, terminals + 1))
    ahead[0, 0] = 1.0
    law[: width[0] + 1, 0] = sums[: width[0] + 1]
    now, then = np.zeros(T + 1), np.zeros(T + 1)
    for s in range(S):
        for rule in range(first_rule[s], first_rule[s + 1]):
            now[:] = ahead[s] * weights[s]
            for part in parts[first_part[rule] : first_part[rule + 1]]:
                then[:] = 0.0
                for t in range(T + 1):
                    if now[t] == 0.0:
                        continue
                    if part > 0:
                        law[t, part] += now[t]
                        if t < T and tokens[t] == part:
                            then[t + 1] += now[t] * token_weight
                    else:
                        y = -1 - part
                        ahead[y, t] += now[t]
                        begin = place[y] + t * (width[y] + 1)
                        for more in range(1, min(width[y], T - t) + 1):
                            then[t + more] += now[t] * sums[begin + more]
                now, then = then, now
    for t in range(T + 1):
        total = law[t].sum()
        if total > 0.0:
            law[t] /= total
    return law
