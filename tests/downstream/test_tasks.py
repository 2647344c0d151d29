"""Formats, laws and splits of the algorithmic tasks."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.batch import IGNORE
from core.split import SHARES, draw_block
from core.task import task_names
from downstream.algorithmic_tasks.config import PACKAGE, parse

FAMILIES = task_names(PACKAGE)


def row(text: str, task) -> list[int]:
    ids = {task.token_name(token): token for token in range(task.num_tokens)}
    return [ids[word] for word in text.split()]


def found(name: str, tokens: list[int]):
    """The batch of one that holds this row, drawn by the task."""
    batch = parse(name).sample(np.random.default_rng(0), 200_000)
    (places,) = (batch.input_ids.numpy() == tokens).all(axis=1).nonzero()
    assert len(places), "never drawn"
    return batch.rows(slice(places[0], places[0] + 1))


@pytest.mark.parametrize(
    ("name", "tokens", "documented"),  # as the earlier system writes them, with the positions that it scores
    [
        ("forwardaddition_1", [2, 10, 6, 11, 28, 30, 12], [4, 5]),
        ("additionstream_1", [2, 10, 6, 11, 28, 30, 12], [4, 5]),
        ("additionstream_1", [9, 10, 8, 11, 27, 21, 30], [4, 5]),
        ("multiplication_1", [2, 10, 6, 11, 21, 22, 30, 12, 12], [4, 5, 6]),
        ("condattendstream_1", [128, 9, 129, 9, 0], [2]),
    ],
)
def test_rows_and_their_scored_positions_are_the_documented_ones(name, tokens, documented):
    batch = found(name, tokens)
    targets = parse(name).documented(batch).targets[0].tolist()
    assert [p for p, target in enumerate(targets) if target != IGNORE] == documented
    assert all(targets[p] == tokens[p + 1] for p in documented)


def test_the_answer_is_scored_from_its_first_digit_to_the_stop():
    batch = found("multiplication_1", [2, 10, 6, 11, 21, 22, 30, 12, 12])
    assert batch.targets[0].tolist() == [IGNORE, IGNORE, IGNORE, 21, 22, 30, IGNORE, IGNORE, IGNORE]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("forwardaddition_5", "9 7 7 9 5 + 6 1 5 9 1 = 1' 5' 9' 3' 8' 6' #"),
        ("multiplication_5", "9 7 7 9 5 + 6 1 5 9 1 = 6' 0' 2' 3' 2' 9' 1' 8' 4' 5' # _ _ _ _ _ _".replace("+", "*")),
        (
            "additionstream_10",
            "4 6 6 8 6 7 0 2 7 5 + 6 3 1 2 9 2 5 6 5 5 = 0' 0' 8' 0' 6' 0' 6' 8' 2' 1' 1' #",
        ),
        ("condattendstream_4", "k3 v9 k2 v60 k1 v22 k0 v69 ?0 v69 _"),
        ("sorting_4", "7 3 99 3 = 3 3 7 99 #"),
    ],
)
def test_worked_examples_pass_the_check_and_no_altered_answer_does(name, text):
    task = parse(name)
    tokens = row(text, task)
    task.check(tokens)
    start = text.split().index("=" if "=" in text else "?0") + 1
    for position, other in product(range(start, len(tokens)), range(task.num_tokens)):
        if other != tokens[position]:
            with pytest.raises(ValueError, match=r"."):
                task.check([*tokens[:position], other, *tokens[position + 1 :]])


@pytest.mark.parametrize("name", ["forwardaddition_2_4", "additionstream_2_4", "multiplication_2_4"])
def test_operands_have_every_length_equally_often_and_are_uniform_within(name):
    task, size = parse(name), 30_000
    lengths, leading = Counter(), Counter()
    for tokens in task.sample(np.random.default_rng(1), size).input_ids.tolist():
        left = tokens[: tokens.index(10)]
        right = tokens[len(left) + 1 : tokens.index(11)]
        lengths[len(left), len(right)] += 1
        leading[(left[-1] if task.reversed else left[0]) if len(left) == 3 else None] += 1
    assert set(lengths) == set(product((2, 3, 4), repeat=2))
    assert all(abs(n - size / 9) < 4.5 * (size / 9) ** 0.5 for n in lengths.values())
    of_three = size - leading.pop(None)
    assert set(leading) == set(range(1, 10))
    assert all(abs(n - of_three / 9) < 4.5 * (of_three / 9) ** 0.5 for n in leading.values())


@pytest.mark.parametrize(
    ("name", "pairs"), [("condattendstream_6", range(1, 7)), ("condattendstream_3_6", range(3, 7))]
)
def test_haystacks_have_every_number_of_pairs_and_ask_for_every_place_equally_often(name, pairs):
    task, size = parse(name), 30_000
    places = Counter()
    for tokens in task.sample(np.random.default_rng(1), size).input_ids.tolist():
        n = next(p for p in range(0, 14, 2) if tokens[p] >= 128 + 6) // 2
        places[n, tokens[: 2 * n : 2].index(tokens[2 * n] - 6)] += 1
    assert set(places) == {(n, place) for n in pairs for place in range(n)}
    for (n, _), count in places.items():
        expected = size / len(pairs) / n
        assert abs(count - expected) < 4.5 * expected**0.5


def test_the_copy_floor_is_near_the_mean_of_one_over_n():
    task = parse("condattendstream_30")
    floor = task.floors(task.sample(np.random.default_rng(0), 20_000))["copy_floor"]
    harmonic = sum(1 / n for n in range(1, 31)) / 30  # 13.3 %
    repeats = sum((n - 1) / n / 127 for n in range(1, 31)) / 30  # another value of the context may happen to be right
    assert floor == pytest.approx(harmonic + repeats, abs=0.006)


# Splits


def questions(batch) -> set[tuple[int, ...]]:
    """What is read before the answer."""
    first = (batch.targets != IGNORE).int().argmax(dim=1).tolist()
    return {tuple(tokens[: p + 1]) for tokens, p in zip(batch.input_ids.tolist(), first, strict=True)}


@pytest.mark.parametrize(("family", "size"), list(zip(FAMILIES, (81, 127, 81, 81, 100), strict=True)))
def test_the_smallest_size_is_divided_without_a_rest(family, size):
    task = parse(f"{family}_1")
    splits = {split: set().union(*(questions(draw_block(task, 0, split, n)) for n in range(3))) for split in SHARES}
    assert sum(map(len, splits.values())) == len(set.union(*splits.values())) == size
    assert all(len(split) >= 4 for split in splits.values()), splits


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)).map(sorted), seeds=st.tuples(*[st.integers(0, 50)] * 2))
def test_no_question_of_the_test_occurs_in_training_whatever_the_seeds(family, sizes, seeds):
    task = parse(f"{family}_{sizes[0]}_{sizes[1]}")
    asked = questions(draw_block(task, seeds[0], "test", 0)) | questions(draw_block(task, seeds[0], "validation", 0))
    for block in range(4):
        assert not asked & questions(draw_block(task, seeds[1], "train", block))


@pytest.mark.parametrize("family", FAMILIES)
def test_seeds_have_training_streams_of_their_own(family):
    one, other = (questions(draw_block(parse(f"{family}_8_8"), seed, "train", 0)) for seed in (0, 1))
    assert not one & other


# Names


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("condattendstream_30", (1, 30)),
        ("condattendstream_10_30", (10, 30)),
        ("forwardaddition_5", (5, 5)),
        ("additionstream_2_10", (2, 10)),
        ("multiplication_5", (5, 5)),
        ("sorting_3_7", (3, 7)),
    ],
)
def test_a_name_says_family_and_sizes(name, sizes):
    task = parse(name)
    assert (task.name, task.min_len, task.max_len) == (name.partition("_")[0], *sizes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("additionstream_", "is no task; it takes FAMILY_N or FAMILY_MIN_MAX"),
        ("additionstream", "Did you mean additionstream_5?"),
        ("addition_5", "Did you mean additionstream_5?"),
        ("additionstream_0", "is no task"),
        ("additionstream_-3", "is no task"),
        ("additionstream_2_", "is no task"),
        ("additionstream_1_2_3", "is no task"),
        ("additionstream_5_2", "min_len is 5, above max_len 2"),
        ("additionstream_257", "257 is not allowed"),
        ("condattendstream_65", "max_len: 65 is not allowed; it takes integer in [1, 64]"),
        ("_arithmetic_5", "is no task"),
        ("", "is no task"),
        ("../tasks/sorting_5", "is no task"),
    ],
)
def test_a_name_that_is_none_is_refused_in_words(name, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse(name)
    assert words in str(error.value)
