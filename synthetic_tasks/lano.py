"""Lano: strings of a context-free grammar whose derivations are deep and locally ambiguous."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numba import njit
from pydantic import Field, model_validator

from core.batch import IGNORE, Batch
from core.config import home
from core.task import Oracle
from synthetic_tasks import _parsing
from synthetic_tasks._example_task import ExampleTask
from synthetic_tasks._grammar import Grammar, read_grammar

GRAMMARS = Path(__file__).parent / "grammars"
NAMES = sorted(path.stem for path in GRAMMARS.glob("*.json"))


class LanoTask(ExampleTask):
    """The model reads a string of the grammar and predicts each token from those before, and where the string ends.

    A derivation begins with the start symbol; each symbol turns into one of its rules, uniformly, until only tokens are
    left. Whoever predicts them as well as possible has to parse: `law` gives the exact probabilities, `derivations`
    counts the ways to derive a string.

        LanoTask(config_name="cfg3f")
        input_ids   <bos> 3 2 2 1 1 2 ... 3 1 <eos>     127 to 426 tokens, 253 on average
        loss        every token after the first

    The grammars are those of "Physics of Language Models: Part 1" (Allen-Zhu and Li, 2023, arXiv 2305.13673) and 4.1
    (Allen-Zhu, 2025, arXiv 2512.17351), where strings have neither <bos> nor <eos>, so that the first token and the end
    are never learned: `bos` and `eos` turn them off.
    """

    examples_per_block: ClassVar[int] = 128
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {f"lano_{name}": {"config_name": name} for name in NAMES}

    config_name: str = Field("cfg3f", examples=NAMES, description=f"the grammar: {', '.join(NAMES)}")
    config_path: str | None = Field(None, description="a JSON file with a grammar of your own, in place of config_name")
    bos: bool = Field(True, description="rows begin with <bos>, so that the first token is predicted too")
    eos: bool = Field(True, description="rows end with <eos>, so that the end is predicted too")

    @model_validator(mode="after")
    def _has_a_grammar(self) -> Self:
        if self.config_path is None and self.config_name not in NAMES:
            raise ValueError(
                f"config_name {self.config_name!r} is no grammar that comes with Lano; there are {', '.join(NAMES)}, "
                "and config_path for a file of your own"
            )
        try:
            _ = self.grammar
        except ValueError as error:
            raise ValueError(f"config_path {error}") from None
        if self.grammar.shortest == 1 and not (self.bos or self.eos):
            raise ValueError("in a string of one token nothing is predicted without <bos> and <eos>; set bos or eos")
        return self

    @cached_property
    def grammar(self) -> Grammar:
        return read_grammar(
            GRAMMARS / f"{self.config_name}.json" if self.config_path is None else home(self.config_path)
        )

    @property
    def fingerprint(self) -> str:
        """Of the grammar itself and not of its name: a file may change, or be moved."""
        identity = [type(self).__module__, self.examples_per_block, self.grammar.rules, self.bos, self.eos]
        return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()

    @property
    def eos_token(self) -> int:
        return self.grammar.num_terminals + 1

    @property
    def pad_token(self) -> int:
        return self.eos_token + 1

    @property
    def num_tokens(self) -> int:
        return self.pad_token + 1

    @property
    def block_size(self) -> int:
        return self.grammar.block_size + self.bos + self.eos

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        tokens = np.empty((size, self.block_size), dtype=np.int64)
        lengths = np.empty(size, dtype=np.int64)
        tables = self.grammar.tables
        eos = self.eos_token if self.eos else -1
        _write(rng, self.bos, eos, tables.first_rule, tables.first_part, tables.parts, tokens, lengths)
        return self.batch(tokens, np.ones(tokens.shape, dtype=np.bool_), lengths)

    # --- Checking, by summing over all derivations

    def answer_mask(self, tokens: list[int]) -> list[bool]:
        string = np.array(self.string(tokens), dtype=np.int64)
        if self.derivations(string) == 0:
            law = self.law(string)
            stuck = next((t for t, token in enumerate(string) if law[t, token] == 0), len(string))
            what = "the string ends" if stuck == len(string) else f"token {string[stuck]} follows"
            raise ValueError(f"after {stuck} tokens of the string {what}, which no derivation allows")
        return [True] * len(tokens)

    def string(self, tokens: Sequence[int]) -> Sequence[int]:
        """A row without <bos> and <eos>. Raises ValueError unless they stand where they should, and tokens between."""
        first, last = int(self.bos), len(tokens) - self.eos
        if len(tokens) <= self.bos + self.eos:
            raise ValueError(f"the row of {len(tokens)} tokens holds no string")
        if (self.bos and tokens[0] != 0) or (self.eos and tokens[-1] != self.eos_token):
            raise ValueError(f"the row of {len(tokens)} tokens does not stand between <bos> and <eos>")
        string = tokens[first:last]
        if not 1 <= min(string) <= max(string) <= self.grammar.num_terminals:
            raise ValueError(f"the string holds a token that is not in 1 .. {self.grammar.num_terminals}")
        return string

    def derivations(self, string: Sequence[int] | np.ndarray) -> float:
        """In how many ways the grammar makes a string of tokens; 0 for none. Exact up to 2^53, inf beyond 1e308."""
        if not 1 <= len(string) <= self.grammar.block_size:
            return 0.0
        tables = self.grammar.tables
        sums = _parsing.inside(np.asarray(string, dtype=np.int64), *tables, np.ones(len(tables.longest)), 1.0)
        return float(sums[len(string)])

    def law(self, string: Sequence[int] | np.ndarray) -> np.ndarray:
        """Probability of each token after the first 0, 1, ... T tokens of a string: float64 (T + 1, num_tokens).

        The end has the column of <eos>, whether or not rows have one. A row of zeros: no string begins so.
        """
        tables = self.grammar.tables
        chances = 1 / np.diff(tables.first_rule)
        tokens, terminals = np.asarray(string, dtype=np.int64), self.grammar.num_terminals
        nats = self.grammar.nats_per_token
        found = _parsing.next_tokens(tokens, *tables, chances, np.exp(nats), terminals)
        while not np.isfinite(found).all():  # a string of very many derivations is far likelier than each of them
            nats *= 0.8
            found = _parsing.next_tokens(tokens, *tables, chances, np.exp(nats), terminals)
        law = np.zeros((len(found), self.num_tokens))
        law[:, 1 : terminals + 1] = found[:, 1:]
        law[:, self.eos_token] = found[:, 0]
        return law

    def laws(self, batch: Batch) -> np.ndarray:
        """What an ideal predictor expects at each scored position: float64 (N, num_tokens), row after row.

        Without <eos> a scored position is known not to be the last one, and the end has probability 0.
        """
        found = []
        for row, length in zip(batch.input_ids.tolist(), self._lengths(batch).tolist(), strict=True):
            law = self.law(self.string(row[:length]))
            if not self.eos:
                law = law[:-1]
                law[:, self.eos_token] = 0
                law /= law.sum(axis=1, keepdims=True)
            found.append(law if self.bos else law[1:])
        return np.concatenate(found)

    def oracle(self, batch: Batch) -> Oracle:
        scored = batch.targets != IGNORE
        laws = torch.from_numpy(self.laws(batch))
        log_prob, best_prob = torch.zeros(2, *scored.shape, dtype=torch.float64)
        log_prob[scored] = laws.gather(1, batch.targets[scored][:, None]).squeeze(1).log()
        best_prob[scored] = laws.max(dim=1).values
        return Oracle(log_prob, best_prob)

    def token_name(self, token: int) -> str:
        self.check_token(token)
        return {0: "<bos>", self.eos_token: "<eos>", self.pad_token: "<pad>"}.get(token, str(token))


@njit(cache=True, nogil=True)
def _write(rng, bos, eos, first_rule, first_part, parts, tokens, lengths) -> None:
    """Fills `tokens` (B, W) and `lengths` (B,). An `eos` of -1 is not written."""
    waiting = np.empty(tokens.shape[1] + 1, dtype=np.int64)  # symbols still to be turned, the next one last
    for row in range(len(tokens)):
        out = tokens[row]
        t = 0
        if bos:
            out[0] = 0
            t = 1
        waiting[0], count = -1, 1
        while count:
            count -= 1
            part = waiting[count]
            if part > 0:
                out[t] = part
                t += 1
                continue
            s = -1 - part
            rule = first_rule[s] + int(rng.random() * (first_rule[s + 1] - first_rule[s]))
            for i in range(first_part[rule + 1] - 1, first_part[rule] - 1, -1):
                waiting[count] = parts[i]
                count += 1
        if eos >= 0:
            out[t] = eos
            t += 1
        lengths[row] = t
