"""Mano: arithmetic modulo a number, from an expression in prefix notation to its value in one step."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numba import njit
from pydantic import Field, model_validator
from torch import Tensor, from_numpy

from core.batch import Batch
from synthetic_tasks._example_task import ExampleTask, Spans

FIRST_VALUE = 5000  # the token of value 0
LETTERS = "asmd"  # operator o, counted from 0, is written o + 1, or, as its alias, o + 5
SYMBOLS = "+-*/"
DEFINED = 6  # L / value_mod beyond which, with division, most expressions divide by zero somewhere


class ManoTask(ExampleTask):
    """The model reads an expression of l operators modulo `value_mod` and writes its value, without any steps between.

    l is uniform in 1 .. L. An expression of l operators is a uniform operator, a left part of uniform size in
    0 .. l - 1, and a right part with the rest; one of none is a uniform value. An expression that divides by zero is
    drawn anew as a whole. The length stands at the front as 10 l and before the answer as 10 l + 4. With
    `knowledge_augment`, each operator, both marks of length and the first token have two spellings, of which one is
    drawn with equal chances.

        ManoTask(L=2, value_mod=5, loss="answer")
        input_ids   <bos> 20 <*a> <v2> <+> <v4> <v1> 24 <v0>     2 * (4 + 1) = 0 modulo 5
        loss        every token after the first, or the value at the end alone

    "Physics of Language Models: Part 4.1" (Allen-Zhu, 2025, arXiv 2512.17351), with the token ids of its released
    generator. Values are not uniform (zero is likeliest): `answer_chances` gives their law, and what a guess is worth.
    """

    examples_per_block: ClassVar[int] = 2048  # rows are short
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"mano_{L}": {"L": L} for L in (10, 13, 16)}

    L: int = Field(10, ge=1, le=499, description="most operators in an expression")
    ttype: str = Field(
        "asm",
        min_length=1,
        examples=["asm", "asmd", "a", "md"],
        description="operators: a adds, s subtracts, m multiplies, d divides, which needs a prime value_mod",
    )
    value_mod: int = Field(23, ge=2, le=4000, description="values are 0 .. value_mod - 1, and so is arithmetic")
    knowledge_augment: bool = Field(True, description="two spellings for operators, marks of length and first token")
    exact_length: bool = Field(False, description="every expression has L operators, as in the paper's evaluation")
    loss: Literal["all", "answer"] = Field("all", description="predict all tokens, or the value at the end alone")
    bos_token_id: int = Field(9999, ge=0, le=2**20, description="first token; its other spelling is one less")

    @model_validator(mode="after")
    def _can_be_written_and_computed(self) -> Self:
        if unknown := set(self.ttype) - set(LETTERS):
            raise ValueError(f"ttype {self.ttype!r}: {min(unknown)!r} is no operator; there are a, s, m and d")
        if len(set(self.ttype)) < len(self.ttype):
            raise ValueError(f"ttype {self.ttype!r} names an operator twice")
        if "d" in self.ttype and not _is_prime(self.value_mod):
            raise ValueError(
                f"value_mod {self.value_mod} is not prime, and not every value has an inverse; with division (the d in "
                f"ttype) use a prime such as {next(p for p in range(self.value_mod, 5000) if _is_prime(p))}"
            )
        if "d" in self.ttype and DEFINED * self.value_mod < self.L:
            raise ValueError(
                f"L {self.L}: with division modulo {self.value_mod} nearly every long expression divides by zero "
                f"somewhere; use at most L {DEFINED * self.value_mod}, or a larger value_mod"
            )
        taken = range(1, 10 * self.L + 6), range(FIRST_VALUE, FIRST_VALUE + self.value_mod)
        for token in self._beginnings():
            if token < 0 or any(token in ids for ids in taken):
                raise ValueError(
                    f"bos_token_id {self.bos_token_id}: token {token} is needed for other things, which take "
                    f"1 .. {10 * self.L + 5} and {FIRST_VALUE} .. {FIRST_VALUE + self.value_mod - 1}"
                )
        return self

    def _beginnings(self) -> range:
        return range(self.bos_token_id - self.knowledge_augment, self.bos_token_id + 1)

    @property
    def pad_token(self) -> int:
        return max(self.bos_token_id, FIRST_VALUE + self.value_mod - 1) + 1

    @property
    def num_tokens(self) -> int:
        return self.pad_token + 1

    @property
    def block_size(self) -> int:
        return 2 * self.L + 5

    @property
    def shortest(self) -> int:
        """Fewest operators in an expression."""
        return self.L if self.exact_length else 1

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        tokens = np.empty((size, self.block_size), dtype=np.int64)
        lengths = np.empty(size, dtype=np.int64)
        operators = np.array([LETTERS.index(letter) for letter in self.ttype])
        _write(
            rng,
            self.shortest,
            self.L,
            operators,
            self._inverses,
            self.knowledge_augment,
            self.bos_token_id,
            tokens,
            lengths,
        )
        is_target = np.full(tokens.shape, self.loss == "all")
        is_target[np.arange(size), lengths - 1] = True
        return self.batch(tokens, is_target, lengths)

    @cached_property
    def _inverses(self) -> np.ndarray:
        """Multiplicative inverse of each value, int64 (value_mod,); 0 stands for none."""
        p = self.value_mod
        return np.array([0] + [pow(x, -1, p) if "d" in self.ttype else 0 for x in range(1, p)])

    def prompt(self, batch: Batch) -> np.ndarray:
        """The expression with the first spelling of everything, so that two spellings of it share a split."""
        ids = batch.input_ids.numpy()
        last = self._lengths(batch) - 1
        plain = np.where((ids >= 5) & (ids <= 8), ids - 4, ids)
        plain[:, 0] = 0
        plain[:, 1] -= plain[:, 1] % 10
        return np.where(np.arange(ids.shape[1]) < last[:, None] - 1, plain, 0)

    def spans(self, batch: Batch) -> Spans:
        """The value at the end of each row; its kind is l, the number of operators."""
        last = self._lengths(batch) - 1
        return Spans(np.arange(len(last)), last, last + 1, batch.input_ids[:, 1].numpy() // 10)

    def groups(self, batch: Batch) -> dict[str, Tensor]:
        """The rows of each length l."""
        operators = batch.input_ids[:, 1].numpy() // 10
        return {f"length_{n}": from_numpy(np.flatnonzero(operators == n)) for n in np.unique(operators)}

    # --- Checking, by recursive descent

    def answer_mask(self, tokens: list[int]) -> list[bool]:
        if len(tokens) < 7 or len(tokens) % 2 == 0:
            raise ValueError(f"the row has {len(tokens)} tokens; it should have 2 l + 5 for an l of at least 1")
        operators = (len(tokens) - 5) // 2
        first, mark, *expression, closing, answer = tokens
        if first not in self._beginnings():
            raise ValueError(f"position 0 holds {first}; it should hold {self.bos_token_id}")
        if not self.shortest <= operators <= self.L:
            raise ValueError(f"the expression has {operators} operators; it should have {self.shortest} .. {self.L}")
        for found, right in ((mark, 10 * operators), (closing, 10 * operators + 4)):
            if found - right not in range(self.knowledge_augment + 1):
                raise ValueError(f"a mark of length is {found}; for {operators} operators it should be {right}")
        written = sum(token < FIRST_VALUE for token in expression)
        if written != operators:  # more of them could be nested deeper than Python descends
            raise ValueError(f"the expression holds {written} operators; a row of {len(tokens)} tokens has {operators}")
        rest = iter(expression)
        value = self._value(rest)
        if next(rest, None) is not None:
            raise ValueError("the expression ends before the row does")
        if answer != FIRST_VALUE + value:
            raise ValueError(f"the answer is token {answer}; the expression has the value {value}")
        return [self.loss == "all"] * (len(tokens) - 1) + [True]

    def _value(self, tokens: Iterator[int]) -> int:
        token, p = next(tokens, -1), self.value_mod
        if FIRST_VALUE <= token < FIRST_VALUE + p:
            return token - FIRST_VALUE
        spelling, operator = divmod(token - 1, 4)
        if not 0 <= spelling <= self.knowledge_augment or LETTERS[operator] not in self.ttype:
            raise ValueError(f"{token} is neither an operator nor a value, or the expression is cut short")
        left = self._value(tokens)
        right = self._value(tokens)
        if operator == 3 and right == 0:
            raise ValueError("the expression divides by zero")
        return [left + right, left - right, left * right, left * pow(right, -1, p) if operator == 3 else 0][
            operator
        ] % p

    # --- What a guess is worth

    def answer_chances(self) -> np.ndarray:
        """Probability of each value by length: float64 (L + 1, value_mod), row l for l operators; each sums to one.

        Exact but for rounding: with D_l(v) the chance that an expression of l operators is defined and has value v,
        D_0 is uniform, and D_l sums over operators and sizes of the left part. Takes L^2 value_mod^2 steps.
        """
        operators = np.array([LETTERS.index(letter) for letter in self.ttype])
        chances = _defined_with_value(self.L, operators, self._inverses)
        return chances / chances.sum(axis=1, keepdims=True)

    def chance_accuracy(self) -> float:
        """Accuracy of the best guess that knows l and nothing else of the expression, over the lengths that occur."""
        return float(self.answer_chances()[self.shortest :].max(axis=1).mean())

    def token_name(self, token: int) -> str:
        self.check_token(token)
        if FIRST_VALUE <= token < FIRST_VALUE + self.value_mod:
            return f"<v{token - FIRST_VALUE}>"
        special = {self.bos_token_id: "<bos>", self.bos_token_id - 1: "<bosa>", self.pad_token: "<pad>"}
        operators = {o + 1 + 4 * alias: f"<{SYMBOLS[o]}{'a' * alias}>" for o in range(4) for alias in (0, 1)}
        return (operators | special).get(token, str(token))


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, int(number**0.5) + 1))


@njit(cache=True, nogil=True)
def _apply(operator: int, left: int, right: int, inverses: np.ndarray) -> int:
    """The value of an operation; -1 where it divides by zero."""
    p = len(inverses)
    if operator == 0:
        return (left + right) % p
    if operator == 1:
        return (left - right) % p
    if operator == 2:
        return left * right % p
    return -1 if right == 0 else left * inverses[right] % p


@njit(cache=True, nogil=True)
def _write(rng, shortest, longest, operators, inverses, augment, bos, tokens, lengths) -> None:
    """Fills `tokens` (B, 2L + 5) and `lengths` (B,)."""
    p = len(inverses)
    todo, values = np.empty(longest + 1, dtype=np.int64), np.empty(longest + 1, dtype=np.int64)
    for row in range(len(tokens)):
        out = tokens[row]
        size = shortest + int(rng.random() * (longest - shortest + 1))
        stop = 2 * size + 3  # of the expression, which begins at 2
        value = -1
        while value < 0:
            todo[0], waiting = size, 1  # sizes of the parts still to write, the next one last
            for t in range(2, stop):
                waiting -= 1
                part = todo[waiting]
                if part == 0:
                    out[t] = FIRST_VALUE + int(rng.random() * p)
                    continue
                out[t] = 1 + operators[int(rng.random() * len(operators))]
                left = int(rng.random() * part)
                todo[waiting], todo[waiting + 1] = part - 1 - left, left
                waiting += 2
            value = _evaluate(out[2:stop], inverses, values)
        if augment:
            for t in range(2, stop):
                if out[t] < 5:
                    out[t] += 4 * int(rng.random() * 2)
        coins = int(rng.random() * 8) if augment else 0
        out[0] = bos - (coins & 1)
        out[1] = 10 * size + (coins >> 1 & 1)
        out[stop] = 10 * size + 4 + (coins >> 2)
        out[stop + 1] = FIRST_VALUE + value
        lengths[row] = stop + 2


@njit(cache=True, nogil=True)
def _evaluate(expression: np.ndarray, inverses: np.ndarray, values: np.ndarray) -> int:
    """The value of a prefix expression without aliases, read from its end; -1 where it divides by zero."""
    known = 0
    for t in range(len(expression) - 1, -1, -1):
        if expression[t] >= FIRST_VALUE:
            values[known] = expression[t] - FIRST_VALUE
            known += 1
        else:
            known -= 1
            value = _apply(expression[t] - 1, values[known], values[known - 1], inverses)
            if value < 0:
                return -1
            values[known - 1] = value
    return values[0]


@njit(cache=True, nogil=True)
def _defined_with_value(longest: int, operators: np.ndarray, inverses: np.ndarray) -> np.ndarray:
    """D of `answer_chances`, float64 (longest + 1, p)."""
    p = len(inverses)
    chances = np.zeros((longest + 1, p))
    chances[0] = 1 / p
    for size in range(1, longest + 1):
        both = np.zeros((p, p))  # chance of the values of both parts, over the sizes of the left one
        for left in range(size):
            both += np.outer(chances[left], chances[size - 1 - left]) / size
        for x in range(p):
            for y in range(p):
                for operator in operators:
                    value = _apply(operator, x, y, inverses)
                    if value >= 0:
                        chances[size, value] += both[x, y] / len(operators)
    return chances
