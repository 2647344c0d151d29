import re
from collections import Counter
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from corruption import agreement
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from core.batch import IGNORE
from core.split import draw_block
from synthetic_tasks.mano import ManoTask

KNOWN = [  # rows of the generator that the paper released, and of one that has its format
    ({}, [9999, 20, 1, 5, 5004, 5003, 5018, 24, 5002]),
    ({}, [9999, 21, 2, 5011, 6, 5001, 5014, 25, 5001]),
    ({}, [9999, 40, 1, 5010, 1, 1, 7, 5006, 5017, 5018, 5007, 44, 5022]),
    ({"L": 13}, [9998, 40, 5, 6, 5002, 6, 5001, 5020, 1, 5013, 5015, 44, 5003]),
    ({"L": 2, "value_mod": 5, "bos_token_id": 77, "knowledge_augment": False}, [77, 10, 2, 5003, 5003, 14, 5000]),
]


@pytest.mark.parametrize(("config", "row"), KNOWN)
def test_known_rows_are_valid_and_with_any_other_answer_not(config, row):
    task = ManoTask(config)
    task.check(row)
    for value in range(task.value_mod):
        other = [*row[:-1], 5000 + value]
        assert task.validate_example({"input_ids": other}) == (other == row)


# Another reading of a row: as a string, from which expressions are taken out from the inside until a number is left.


def reads_as_valid(task: ManoTask, row: list[int]) -> bool:
    first = {task.bos_token_id} | ({task.bos_token_id - 1} if task.knowledge_augment else set())
    operators = {1: "a", 2: "s", 3: "m", 4: "d"} | ({5: "a", 6: "s", 7: "m", 8: "d"} if task.knowledge_augment else {})
    operators = {token: letter for token, letter in operators.items() if letter in task.ttype}
    values = range(5000, 5000 + task.value_mod)
    body = row[2:-2]
    if row[0] not in first or row[-1] not in values or any(t not in operators and t not in values for t in body):
        return False
    number = sum(token in operators for token in body)
    spread = (0, 1) if task.knowledge_augment else (0,)
    lengths = [task.L] if task.exact_length else range(1, task.L + 1)
    if number not in lengths or row[1] - 10 * number not in spread or row[-2] - 10 * number - 4 not in spread:
        return False
    text = " ".join(operators.get(t) or str(t - 5000) for t in body)
    while match := re.search(r"([asmd]) (\d+) (\d+)", text):
        letter, left, right = match[1], int(match[2]), int(match[3])
        if letter == "d":
            results = [x for x in range(task.value_mod) if x * right % task.value_mod == left % task.value_mod]
            if right == 0 or len(results) != 1:
                return False
            value = results[0]
        else:
            value = {"a": left + right, "s": left - right, "m": left * right}[letter] % task.value_mod
        text = text[: match.start()] + str(value) + text[match.end() :]
    return text == str(row[-1] - 5000)


@pytest.mark.parametrize(
    "config", [{}, {"L": 3, "value_mod": 5, "ttype": "asmd"}, {"knowledge_augment": False, "exact_length": True}]
)
def test_a_row_with_one_other_token_is_rejected_unless_it_says_something_true(config):
    task = ManoTask(config)
    assert agreement(task, lambda row: reads_as_valid(task, row)) > 0  # other spellings, factors of zero


@pytest.mark.parametrize("cut", range(1, 9))
def test_cut_and_lengthened_rows_are_rejected(cut):
    task = ManoTask()
    for row in task.take(0, 50):
        ids = row["input_ids"]
        assert not task.validate_example({"input_ids": ids[:-cut]})
        assert not task.validate_example({"input_ids": [*ids, *ids[-cut:]]})


def test_rows_of_nothing_but_operators_are_rejected_however_deep_they_would_nest():
    task = ManoTask(L=499)
    assert not task.validate_example({"input_ids": [9999, 4990, *[1] * 999, 4994, 5000]})
    assert task.validate_example({"input_ids": [9999, 4990, *[1] * 499, *[5001] * 500, 4994, 5000 + 500 % 23]})


# The law


@cache
def law(operators: int, p: int, ttype: str) -> dict[tuple[str, ...], Fraction]:
    """Every expression with its probability, among them those that divide by zero, whose value is None."""
    if operators == 0:
        return {(str(v),): Fraction(1, p) for v in range(p)}
    expressions: Counter[tuple[str, ...]] = Counter()
    for left in range(operators):
        for x, chance in law(left, p, ttype).items():
            for y, other in law(operators - 1 - left, p, ttype).items():
                for letter in ttype:
                    expressions[(letter, *x, *y)] += chance * other / operators / len(ttype)
    return expressions


def value_of(expression: tuple[str, ...], p: int) -> int | None:
    stack: list[int | None] = []
    for word in reversed(expression):
        if word.isdigit():
            stack.append(int(word))
            continue
        x, y = stack.pop(), stack.pop()
        if x is None or y is None or (word == "d" and y == 0):
            stack.append(None)
        else:
            results = {"a": lambda x=x, y=y: x + y, "s": lambda x=x, y=y: x - y, "m": lambda x=x, y=y: x * y}
            stack.append((x * pow(y, p - 2, p) if word == "d" else results[word]()) % p)
    return stack.pop()


@pytest.mark.parametrize(("p", "ttype"), [(3, "asmd"), (2, "md"), (4, "asm"), (3, "d")])
def test_answer_chances_are_those_of_all_expressions(p, ttype):
    chances = ManoTask(L=2, value_mod=p, ttype=ttype).answer_chances()
    for operators in range(3):
        values: Counter[int | None] = Counter()
        for expression, chance in law(operators, p, ttype).items():
            values[value_of(expression, p)] += chance
        defined = 1 - values[None]
        assert chances[operators] == pytest.approx([float(values[v] / defined) for v in range(p)], abs=1e-12)


def chi_squared(found: np.ndarray, expected: np.ndarray) -> float:
    """In units of its standard deviation from its expectation, where all expected counts are large."""
    degrees = len(found) - 1
    return float((((found - expected) ** 2 / expected).sum() - degrees) / (2 * degrees) ** 0.5)


def test_expressions_are_drawn_by_their_law():
    task = ManoTask(L=2, value_mod=3, ttype="smd", knowledge_augment=False)
    rows = task.sample(np.random.default_rng(0), 400_000).input_ids.tolist()
    letters = {2: "s", 3: "m", 4: "d"}
    found = Counter(tuple(letters.get(t) or str(t - 5000) for t in row[2 : 5 + 2 * (row[1] // 20)]) for row in rows)
    expected = {}
    for operators in (1, 2):
        chances = {e: c for e, c in law(operators, 3, "smd").items() if value_of(e, 3) is not None}
        whole = sum(chances.values())
        expected |= {e: float(c / whole / 2) * len(rows) for e, c in chances.items()}
    assert set(found) <= set(expected)
    assert abs(chi_squared(np.array([found[e] for e in expected]), np.array(list(expected.values())))) < 4


def test_lengths_spellings_and_answers_have_their_shares():
    task = ManoTask()
    batch = task.sample(np.random.default_rng(0), 100_000)
    spans = task.spans(batch)
    operators = spans.kind
    assert abs(chi_squared(np.bincount(operators)[1:], np.full(10, 10_000))) < 4
    ids = batch.input_ids.numpy()
    for share in (ids[:, 0] == 9998, ids[:, 1] % 10 == 1, ids[spans.row, spans.start - 1] % 10 == 5):
        assert share.mean() == pytest.approx(0.5, abs=0.01)
    symbols = np.bincount(ids[(ids < 9) & (ids > 0)], minlength=8)[[1, 2, 3, 5, 6, 7]]
    assert abs(chi_squared(symbols, np.full(6, symbols.sum() / 6))) < 4
    values = ids[spans.row, spans.start] - 5000
    for length in (1, 5, 10):
        found = np.bincount(values[operators == length], minlength=23)
        assert abs(chi_squared(found, task.answer_chances()[length] * found.sum())) < 4
    guess = np.array([np.argmax(row) for row in task.answer_chances()])
    assert (values == guess[operators]).mean() == pytest.approx(task.chance_accuracy(), abs=0.003)
    assert task.chance_accuracy() > 1 / 23 * 1.4  # not uniform


def test_exact_length_and_loss_do_what_they_say():
    rows = ManoTask(L=4, exact_length=True, loss="answer").take(0, 100)
    assert {len(row["input_ids"]) for row in rows} == {13}
    assert {tuple(row["loss_mask"]) for row in rows} == {(0,) * 12 + (1,)}
    rows = ManoTask(L=4).take(0, 100)
    assert {len(row["input_ids"]) for row in rows} == {7, 9, 11, 13}
    assert all(set(row["loss_mask"][1:]) == {1} for row in rows)


def test_spans_are_the_answers_and_groups_the_lengths():
    task = ManoTask(L=5)
    batch = task.sample(np.random.default_rng(0), 200)
    row, start, stop, kind = task.spans(batch)
    groups = task.groups(batch)
    assert sum(len(rows) for rows in groups.values()) == 200
    for r, s, e, k in zip(row, start, stop, kind, strict=True):
        ids = batch.input_ids[r].tolist()
        assert (e, s + 1) == (s + 1, 2 * k + 5)
        assert e == task.block_size or ids[e] == task.pad_token
        assert batch.targets[r, s - 1] == ids[s] != IGNORE
        assert r in groups[f"length_{k}"]


def test_two_spellings_of_an_expression_belong_to_the_same_split():
    task = ManoTask(L=1, value_mod=5)
    expressions = {
        split: {
            (row[2] % 4, row[3], row[4]) for b in range(3) for row in draw_block(task, 0, split, b).input_ids.tolist()
        }
        for split in ("train", "validation", "test")
    }
    assert sum(map(len, expressions.values())) == len(set().union(*expressions.values())) == 75


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 30),
    st.sampled_from(["a", "s", "m", "d", "asm", "asmd"]),
    st.sampled_from([2, 3, 5, 7, 23, 97, 3989]),
    st.booleans(),
)
def test_every_sample_says_something_true(operators, ttype, p, augment):
    if "d" in ttype and operators > 6 * p:
        return
    task = ManoTask(L=operators, ttype=ttype, value_mod=p, knowledge_augment=augment)
    for row in task.take(0, 20):
        assert reads_as_valid(task, row["input_ids"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"L": 0}, "L"),
        ({"value_mod": 22, "ttype": "asmd"}, r"value_mod 22 is not prime.* with division .*use a prime such as 23"),
        ({"ttype": "asx"}, "ttype 'asx': 'x' is no operator; there are a, s, m and d"),
        ({"ttype": ""}, "ttype"),
        ({"ttype": "aa"}, "ttype 'aa' names an operator twice"),
        ({"L": 13, "value_mod": 2, "ttype": "d"}, "use at most L 12, or a larger value_mod"),
        ({"bos_token_id": 5000}, "bos_token_id 5000: token 5000 is needed for other things"),
        ({"bos_token_id": 5023}, "bos_token_id 5023: token 5022 is needed"),
        ({"bos_token_id": 0}, "bos_token_id 0: token -1"),
        ({"loss": "none"}, "loss"),
    ],
)
def test_impossible_parameters_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        ManoTask(wrong)
