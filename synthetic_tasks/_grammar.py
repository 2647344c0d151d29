"""Context-free grammars as files: reading them, refusing those that make no finite language, tables for compiled code.

A file says where a derivation starts and what each symbol may turn into; whole numbers are tokens:

    {"start": "S", "rules": {"S": ["A B", "B A B"], "A": ["1 2", "3 3"], "B": ["1 1 2", "2 3"]}}

Grammars in the released layout of "Physics of Language Models: Part 1" are read as well: `depth`, `sizes` and `idx`
per level, and `all[level][j].children`, rules as lists of positions in the next level.
"""

import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MOST_TOKENS = 4096  # tokens are 1 .. this
LONGEST = 2**12  # tokens in a string

Rules = dict[str, list[list[str]]]


class Tables(NamedTuple):
    """A grammar for compiled code. Non-terminal s is written -1 - s, a token as itself; the start is s = 0."""

    first_rule: np.ndarray  # int64 (S + 1,): the rules of s are first_rule[s] .. first_rule[s + 1] - 1
    first_part: np.ndarray  # int64 (R + 1,): the parts of rule r are parts[first_part[r]] .. before the next rule's
    parts: np.ndarray  # int64 (P,)
    longest: np.ndarray  # int64 (S,): tokens in the longest string of s


@dataclass(frozen=True)
class Grammar:
    """Every non-terminal with its rules, the start first and each before all that occur in its own rules."""

    rules: Rules

    @cached_property
    def num_terminals(self) -> int:
        """The largest token."""
        return max(int(part) for rules in self.rules.values() for rule in rules for part in rule if part.isdigit())

    @cached_property
    def longest(self) -> dict[str, int]:
        """Tokens in the longest string of each non-terminal."""
        found: dict[str, int] = {}
        for name, rules in reversed(self.rules.items()):
            found[name] = max(sum(found.get(part, 1) for part in rule) for rule in rules)
        return dict(reversed(found.items()))

    @property
    def block_size(self) -> int:
        """Tokens in the longest string."""
        return next(iter(self.longest.values()))

    @cached_property
    def shortest(self) -> int:
        """Tokens in the shortest string."""
        found: dict[str, int] = {}
        for name, rules in reversed(self.rules.items()):
            found[name] = min(sum(found.get(part, 1) for part in rule) for rule in rules)
        return found[next(iter(self.rules))]

    @cached_property
    def tables(self) -> Tables:
        number = {name: s for s, name in enumerate(self.rules)}
        flat = [rule for rules in self.rules.values() for rule in rules]
        parts = [int(part) if part.isdigit() else -1 - number[part] for rule in flat for part in rule]
        counts, lengths = map(len, self.rules.values()), map(len, flat)
        longest = np.array(list(self.longest.values()))
        return Tables(np.cumsum([0, *counts]), np.cumsum([0, *lengths]), np.array(parts), longest)

    @cached_property
    def nats_per_token(self) -> float:
        """Mean of -log P of a derivation over the mean length of a string."""
        nats: dict[str, float] = {}
        lengths: dict[str, float] = {}
        for name, rules in reversed(self.rules.items()):
            inside = sum(nats.get(part, 0.0) for rule in rules for part in rule)
            nats[name] = math.log(len(rules)) + inside / len(rules)
            lengths[name] = sum(lengths.get(part, 1.0) for rule in rules for part in rule) / len(rules)
        start = next(iter(self.rules))
        return nats[start] / lengths[start]


def read_grammar(path: Path) -> Grammar:
    """The grammar of a file. Raises ValueError naming the file and what is wrong with it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        raise ValueError(f"{path} is not JSON: {error}") from None
    try:
        return of_data(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def of_data(data: Any) -> Grammar:
    """The grammar of a file's content. Raises ValueError unless each symbol is of use and every derivation ends."""
    if not isinstance(data, Mapping):
        raise ValueError("a grammar is an object with `start` and `rules`, or with `sizes`, `idx` and `all`")
    start, rules = _of_levels(data) if "all" in data else _of_rules(data)
    if start not in rules:
        raise ValueError(f"the start {start!r} has no rules")
    for name, alternatives in rules.items():
        _check_rules(name, alternatives, rules)
    ordered = {name: rules[name] for name in _parents_first(start, rules)}
    unreached = [name for name in rules if name not in ordered]
    if unreached:
        raise ValueError(f"the symbol {unreached[0]!r} is never reached from {start!r}; leave out its rules")
    grammar = Grammar(ordered)
    if grammar.block_size > LONGEST:
        raise ValueError(f"its longest string has {grammar.block_size:,} tokens; at most {LONGEST:,} are possible")
    return grammar


def _of_rules(data: Mapping[str, Any]) -> tuple[str, Rules]:
    extra = sorted(set(data) - {"start", "rules"})
    if extra or not isinstance(data.get("start"), str) or not isinstance(data.get("rules"), Mapping):
        found = f"; {extra[0]!r} is none of its keys" if extra else ""
        raise ValueError(f"a grammar has `start`, a symbol, and `rules`, an object with the rules of each{found}")
    rules: Rules = {}
    for name, alternatives in data["rules"].items():
        if not isinstance(alternatives, list) or not all(isinstance(rule, str) for rule in alternatives):
            raise ValueError(f'the rules of {name!r} should be a list of texts such as "A 1 B"')
        rules[name] = [rule.split() for rule in alternatives]
    return data["start"], rules


def _of_levels(data: Mapping[str, Any]) -> tuple[str, Rules]:
    """A grammar in the released layout, whose symbols are then called by level and place, such as 2.0."""
    try:
        levels, tokens = data["all"], data["idx"][-1]
        nodes = [(level, j, node) for level, nodes in enumerate(levels[:-1]) for j, node in enumerate(nodes)]
        below = [len(nodes) for nodes in levels[1:]]
        rules = {
            f"{level}.{j}": [list(map(operator.index, rule)) for rule in node["children"]] for level, j, node in nodes
        }
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise ValueError("it is not in the released layout: `idx` per level, `all[level][j].children`") from None
    if len(levels) < 2 or len(levels[0]) != 1 or len(tokens) != below[-1]:
        raise ValueError("in the released layout the first level holds the start alone, the last one the tokens")
    named: Rules = {}
    for name, alternatives in rules.items():
        level = int(name.split(".")[0])
        for place in (place for rule in alternatives for place in rule):
            if not 0 <= place < below[level]:
                raise ValueError(f"the symbol {name!r} names place {place} of a level of {below[level]}")
        is_last = level == len(levels) - 2
        named[name] = [[str(tokens[p]) if is_last else f"{level + 1}.{p}" for p in rule] for rule in alternatives]
    return "0.0", named


def _check_rules(name: str, alternatives: list[list[str]], rules: Rules) -> None:
    if not name or name.isdigit() or len(name.split()) != 1:
        raise ValueError(f"the symbol {name!r} should be a word that is not a number")
    if not alternatives or not all(alternatives):
        raise ValueError(f"the symbol {name!r} has no rule, or one that is empty")
    for part in (part for rule in alternatives for part in rule):
        if part.lstrip("-").isdigit():
            if not (part.isdecimal() and 1 <= int(part) <= MOST_TOKENS):
                raise ValueError(f"the symbol {name!r} has the token {part}; tokens are 1 .. {MOST_TOKENS}")
        elif part not in rules:
            raise ValueError(f"the symbol {name!r} has {part!r} in a rule, which has no rules of its own")


def _parents_first(start: str, rules: Rules) -> list[str]:
    """The symbols reached from `start`, each before those in its rules. Raises ValueError if one contains itself."""
    done: dict[str, None] = {}
    path: list[str] = []
    waiting = [(start, False)]
    while waiting:
        name, is_finished = waiting.pop()
        if is_finished:
            done[path.pop()] = None
        elif name in path:
            loop = " -> ".join([*path[path.index(name) :], name])
            raise ValueError(f"the symbol {name!r} contains itself, {loop}: a derivation need not end")
        elif name not in done:
            path.append(name)
            inside = dict.fromkeys(part for rule in rules[name] for part in rule if not part.isdigit())
            waiting += [(name, True), *((part, False) for part in inside)]
    return list(reversed(done))
