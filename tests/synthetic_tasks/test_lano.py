"""Lano against all derivations written out one by one, and against a recogniser that goes from the top down."""

import json
from collections import Counter, defaultdict
from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from corruption import agreement
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from core.batch import IGNORE
from core.split import draw_block
from synthetic_tasks._example_task import preset
from synthetic_tasks._grammar import LONGEST
from synthetic_tasks.lano import NAMES, LanoTask

AMBIGUOUS = {
    "start": "S",
    "rules": {"S": ["A A B", "B A", "C"], "A": ["C C", "1 C", "2"], "B": ["C 1", "2 1 3", "A"], "C": ["1 2", "1", "3"]},
}
RELEASED = {  # AMBIGUOUS has unit rules; here two levels in the released layout
    "depth": 2,
    "sizes": [1, 2, 3],
    "idx": [[9], [7, 8], [1, 2, 3]],
    "all": [
        [{"children": [[0, 1], [1, 0, 1]]}],
        [{"children": [[0, 1], [2, 2]]}, {"children": [[0, 0, 1], [1, 2]]}],
        [{}, {}, {}],
    ],
}


@pytest.fixture
def of(tmp_path):
    """Makes the task of a grammar, given as a file's content."""

    def make(content, **changes) -> LanoTask:
        path = tmp_path / "grammar.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return LanoTask(config_path=str(path), **changes)

    return make


def derivations(rules: dict[str, list[str]], symbol: str):
    """Every derivation of a symbol: its string, and its probability."""
    if symbol.isdigit():
        return [((int(symbol),), Fraction(1))]
    found = []
    for rule in rules[symbol]:
        for parts in product(*(derivations(rules, part) for part in rule.split())):
            chance = Fraction(1, len(rules[symbol]))
            for _, p in parts:
                chance *= p
            found.append((sum((string for string, _ in parts), ()), chance))
    return found


def recognises(rules: dict[str, list[list[str]]], tokens: list[int]) -> bool:
    """Whether the grammar makes the string: from the start down, the sets of positions where each symbol may end."""

    @cache
    def ends(symbol: str, position: int) -> frozenset[int]:
        if symbol.isdigit():
            fits = position < len(tokens) and tokens[position] == int(symbol)
            return frozenset({position + 1} if fits else ())
        found: set[int] = set()
        for rule in rules[symbol]:
            at = {position}
            for part in rule:
                at = {end for start in at for end in ends(part, start)}
            found |= at
        return frozenset(found)

    return len(tokens) in ends(next(iter(rules)), 0)


def reads_as_valid(task: LanoTask, row: list[int]) -> bool:
    whole = row[task.bos : len(row) - task.eos]
    framed = [0] * task.bos + whole + [task.eos_token] * task.eos
    return row[1:] == framed[1:] and (not task.bos or row[0] == 0) and recognises(task.grammar.rules, whole)


@st.composite
def grammars(draw: st.DrawFn) -> dict:
    """Up to four symbols, each with rules of tokens and of later symbols; those never reached are left out."""
    names = ["S", "A", "B", "C"][: draw(st.integers(1, 4))]
    rules = {}
    for number, name in enumerate(names):
        parts = st.sampled_from([*names[number + 1 :], "1", "2", "3"])
        rule = st.lists(parts, min_size=1, max_size=3).map(" ".join)
        rules[name] = draw(st.lists(rule, min_size=1, max_size=3))
    reached, waiting = {"S"}, ["S"]
    while waiting:
        new = {part for rule in rules[waiting.pop()] for part in rule.split() if part in rules} - reached
        reached |= new
        waiting += new
    return {"start": "S", "rules": {name: rules[name] for name in names if name in reached}}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(grammar=grammars())
def test_counts_and_law_are_those_of_all_derivations_written_out(tmp_path_factory, grammar):
    path = tmp_path_factory.mktemp("grammar") / "g.json"
    path.write_text(json.dumps(grammar))
    task = LanoTask(config_path=str(path))
    found = derivations(grammar["rules"], "S")
    assume(len(found) < 3000)
    ways, chances, after = Counter(), defaultdict(Fraction), defaultdict(Counter)
    for string, chance in found:
        ways[string] += 1
        chances[string] += chance
        for t in range(len(string) + 1):
            after[string[:t]][string[t] if t < len(string) else task.eos_token] += chance
    assert task.grammar.block_size == max(map(len, ways))
    for string in sorted(ways)[:20]:
        assert task.derivations(string) == ways[string]
        law = task.law(string)
        for t in range(len(string) + 1):
            total = sum(after[string[:t]].values())
            expected = [float(after[string[:t]][token] / total) for token in range(task.num_tokens)]
            np.testing.assert_allclose(law[t], expected, atol=1e-12)
        changed = (*string[:-1], string[-1] % 3 + 1)
        assert task.derivations(changed) == ways[changed]
        assert (task.law(changed).sum(axis=1) > 0).tolist() == [changed[:t] in after for t in range(len(changed) + 1)]
    for string in product((1, 2, 3), repeat=2):
        assert task.derivations(string) == ways[string]


def test_strings_come_as_often_as_their_derivations_are_likely(of):
    task = of(AMBIGUOUS)
    chances = defaultdict(float)
    for string, chance in derivations(AMBIGUOUS["rules"], "S"):
        chances[string] += float(chance)
    rows = task.examples(task.sample(np.random.default_rng(0), 40_000))
    counts = Counter(tuple(task.string(row["input_ids"])) for row in rows)
    assert set(counts) <= set(chances)
    likely = [s for s in chances if chances[s] > 2e-3]
    expected = np.array([chances[s] * len(rows) for s in likely])
    z = (np.array([counts[s] for s in likely]) - expected) / np.sqrt(expected)
    assert abs(z).max() < 4.5
    assert 0.7 < np.mean(z**2) < 1.4


@pytest.mark.parametrize("variant", [{}, {"bos": False}, {"eos": False}, {"bos": False, "eos": False}])
def test_corrupted_strings_are_judged_as_the_recogniser_judges_them(of, variant):
    longer = {"rules": {**AMBIGUOUS["rules"], "B": ["C 1", "2 1 3", "A 2"], "S": ["A A B", "B A", "C B"]}}
    task = of({**AMBIGUOUS, **longer} if len(variant) == 2 else AMBIGUOUS, **variant)
    still_valid = agreement(task, lambda row: reads_as_valid(task, row), count=2500 if variant else 10_000)
    assert still_valid > 50


def test_corrupted_strings_of_the_paper_are_judged_as_the_recogniser_judges_them():
    task = LanoTask(config_name="cfg3f")
    agreement(task, lambda row: reads_as_valid(task, row), count=200)


@pytest.mark.parametrize("name", NAMES)
def test_strings_of_the_papers_grammars_are_recognised(name):
    task = preset(f"lano_{name}")
    assert task == LanoTask(config_name=name)
    for row in task.take(1, 3):
        assert recognises(task.grammar.rules, task.string(row["input_ids"]))
    levels = {symbol.split(".")[0] for symbol in task.grammar.rules}
    assert len(task.grammar.rules) == 1 + 3 * (len(levels) - 1)
    assert {len(rule) for rules in task.grammar.rules.values() for rule in rules} <= {2, 3}


def test_lengths_are_the_papers():
    lengths = np.array([len(row["input_ids"]) for row in LanoTask().take(0, 2000)]) - 2
    assert 100 < lengths.min() < lengths.max() < 500
    assert abs(lengths.mean() - 253) < 3 * lengths.std() / 2000**0.5 + 2


def test_the_oracle_is_the_law_at_each_target_and_its_loss_that_of_the_samples():
    task = LanoTask()
    batch = draw_block(task, 0, "test", 0)
    oracle = task.oracle(batch)
    row = task.string([token for token in batch.input_ids[0].tolist() if token != task.pad_token])
    law = task.law(row)
    for t, token in enumerate([*row, task.eos_token]):
        assert oracle.log_prob[0, t].exp().item() == pytest.approx(law[t, token], rel=1e-9)
        assert oracle.best_prob[0, t].item() == law[t].max()
    # on average a token costs as much as the law says it should
    laws = task.laws(batch)
    entropy = -np.where(laws > 0, laws * np.log(np.where(laws > 0, laws, 1)), 0).sum(axis=1)
    scored = batch.targets != IGNORE
    difference = torch.from_numpy(entropy) + oracle.log_prob[scored]
    assert abs(difference.mean()) < 4 * difference.std() / len(difference) ** 0.5


def test_without_an_end_the_law_is_that_of_strings_that_go_on(of):
    task, ending = of(AMBIGUOUS, eos=False), of(AMBIGUOUS)
    batch = task.sample(np.random.default_rng(0), 50)
    laws = task.laws(batch)
    assert len(laws) == (batch.targets != IGNORE).sum()
    np.testing.assert_allclose(laws.sum(axis=1), 1)
    row = [t for t in batch.input_ids[0].tolist()[1:] if t != task.pad_token]
    law = ending.law(row)[: len(row), : ending.eos_token]
    np.testing.assert_allclose(laws[: len(row), : ending.eos_token], law / law.sum(axis=1, keepdims=True))


def test_the_longest_strings_neither_overflow_nor_vanish():
    task = LanoTask(config_name="cfg3j")
    longest = max(task.take(0, 300), key=lambda row: len(row["input_ids"]))
    string = task.string(longest["input_ids"])
    assert len(string) > 700
    assert np.isfinite(task.law(string)).all()
    np.testing.assert_allclose(task.law(string).sum(axis=1), 1)


def test_strings_of_more_derivations_than_floats_can_count_are_judged_all_the_same(of):
    task = of(with_rules(S=["A " * 1500, "A " * 1499 + "2"], A=["1", "B"], B=["1"]))
    string = np.ones(1500, dtype=np.int64)
    assert task.derivations(string) == np.inf
    law = task.law(string)
    np.testing.assert_allclose(law[[0, 1498]], [[0, 1, 0, 0, 0]] * 2)
    np.testing.assert_allclose(law[[1499, 1500]], [[0, 0.5, 0.5, 0, 0], [0, 0, 0, 1, 0]])
    string[1400] = 2
    assert task.derivations(string) == 0
    assert not task.validate_example({"input_ids": [0, *string, task.eos_token]})


def test_strings_of_one_token_are_refused_where_nothing_of_them_is_predicted(of):
    grammar = with_rules(S=["A", "1 A"], A=["2", "3 3"])
    with pytest.raises(ValidationError, match="set bos or eos"):
        of(grammar, bos=False, eos=False)
    of(with_rules(S=["1 A", "A A"], A=["2", "3 3"]), bos=False, eos=False)
    for variant in ({"bos": False}, {"eos": False}):
        batch = of(grammar, **variant).sample(np.random.default_rng(0), 20)
        assert (batch.targets != IGNORE).any(dim=1).all()


def test_the_released_layout_is_the_same_grammar(of):
    rules = {"0.0": [["1.0", "1.1"], ["1.1", "1.0", "1.1"]], "1.0": [["1", "2"], ["3", "3"]]}
    assert dict(of(RELEASED).grammar.rules) == {**rules, "1.1": [["1", "1", "2"], ["2", "3"]]}


def test_another_grammar_in_the_same_file_is_another_task(of):
    one = of(AMBIGUOUS)
    other = of(RELEASED)
    assert one.model_dump() == other.model_dump()
    assert one.fingerprint != other.fingerprint


def test_the_same_grammar_in_another_file_is_the_same_task(of, tmp_path):
    one = of(AMBIGUOUS)
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps(AMBIGUOUS))
    assert LanoTask(config_path=str(copy)).take(0, 3) == one.take(0, 3)
    assert LanoTask(config_path=str(copy), bos=False).fingerprint != one.fingerprint


def with_rules(**rules) -> dict:
    return {"start": "S", "rules": rules}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"start": "S", "rules": {"S": ["1"], "S": ["2"]}}', "'S' stands twice"),
        ([1], "is an object"),
        ({"start": "S"}, "has `start`"),
        ({**with_rules(S=["1"]), "depth": 2}, "'depth' is none of its keys"),
        ({"start": "T", "rules": {"S": ["1"]}}, "'T' has no rules"),
        (with_rules(S="1"), "'S' should be a list"),
        (with_rules(S=[[1]]), "'S' should be a list"),
        (with_rules(S=[]), "'S' has no rule"),
        (with_rules(S=["1", " "]), "'S' has no rule, or one that is empty"),
        (with_rules(S=["A 1"]), "'A' in a rule"),
        (with_rules(S=["0"]), "token 0; tokens are 1"),
        (with_rules(S=["1 -1"]), "token -1; tokens are 1"),
        (with_rules(S=["4097"]), "token 4097; tokens are 1 .. 4096"),
        (with_rules(S=["1"], A=["2"]), "'A' is never reached from 'S'"),
        (with_rules(S=["A 1"], A=["B", "2"], B=["1 A"]), "A -> B -> A"),
        (with_rules(S=["S 1", "1"]), "S -> S"),
        (with_rules(**{"S": ["7 A"], "A": ["1"], "3": ["1"]}), "'3' should be a word"),
        (with_rules(S=["A " * 100], A=["1 " * 100]), f"10,000 tokens; at most {LONGEST:,}"),
        (with_rules(**{f"{'S' * n}": [f"{'S' * (n + 1)} " * 3] for n in range(1, 90)}, **{"S" * 90: ["1"]}), "at most"),
        ({**RELEASED, "idx": []}, "released layout"),
        ({**RELEASED, "all": RELEASED["all"][:1]}, "released layout"),
        ({**RELEASED, "all": RELEASED["all"][:2]}, "the last one the tokens"),
        ({**RELEASED, "idx": [[9], [7, 8], [1, 2, 0]]}, "token 0"),
        ({**RELEASED, "all": [[{"children": [[0, 2]]}], *RELEASED["all"][1:]]}, "place 2 of a level of 2"),
        ({**RELEASED, "all": [[{"children": [[0]]}], *RELEASED["all"][1:]]}, "'1.1' is never reached"),
    ],
)
def test_grammars_that_make_no_finite_language_are_refused(of, content, message):
    with pytest.raises(ValidationError) as error:
        of(content)
    (problem,) = error.value.errors()
    assert message in problem["msg"]
    assert "grammar.json" in problem["msg"]
    assert "\n" not in problem["msg"]


def test_a_missing_file_and_an_unknown_name_are_named():
    with pytest.raises(ValidationError, match=r"no_such\.json: No such file"):
        LanoTask(config_path="no_such.json")
    with pytest.raises(ValidationError, match="'cfg3z' is no grammar that comes with Lano; there are cfg3b"):
        LanoTask(config_name="cfg3z")
