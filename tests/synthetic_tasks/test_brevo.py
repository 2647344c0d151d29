import re
from collections import Counter
from fractions import Fraction
from itertools import combinations, permutations

import numpy as np
import pytest
from corruption import agreement
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from core.batch import IGNORE
from core.split import draw_block
from synthetic_tasks.brevo import BrevoTask

DOCUMENTED = BrevoTask(N=6, documented_ids=True)
KNOWN = [9999, 1, 4, 4, 5, 9997, 5, 9998, 1, 4, 5, 9998]


def test_a_known_row_is_valid_and_its_mask_begins_at_the_answer():
    assert DOCUMENTED.answer_mask(KNOWN) == [False] * 7 + [True] * 5
    assert BrevoTask(N=6).validate_example({"input_ids": [9996 if t == 7 else x for t, x in enumerate(KNOWN)]})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([9999, 1, 4, 4, 5, 9997, 5, 9998, 4, 1, 5, 9998], "lists .4,. before its parent .1,."),
        ([9999, 1, 4, 4, 5, 9997, 5, 9998, 1, 4, 5, 5, 9998], "once"),
        ([9999, 1, 4, 4, 5, 9997, 5, 9998, 1, 5, 9998], "once"),
        ([9999, 1, 4, 4, 5, 9997, 5, 9998, 2, 1, 4, 5, 9998], "once"),
        ([9999, 1, 4, 4, 5, 9997, 5, 9998, 1, 4, 5], "does not stand between 9999 and 9998"),
        ([9999, 1, 4, 4, 5, 9997, 4, 9998, 1, 4, 9998], "asks for .4,., which has children"),
        ([9999, 1, 4, 4, 5, 9997, 6, 9998, 6, 9998], "one node that occurs in an edge"),
        ([9999, 1, 4, 4, 5, 5, 1, 9997, 5, 9998, 1, 4, 5, 9998], "make a cycle"),
        ([9999, 1, 4, 4, 5, 4, 5, 9997, 5, 9998, 1, 4, 5, 9998], "all different"),
        ([9999, 1, 4, 2, 5, 9997, 5, 9998, 2, 5, 9998], "no graph of this task"),
        ([9999, 1, 7, 7, 5, 9997, 5, 9998, 1, 7, 5, 9998], "token 7 stands where a node is expected"),
        ([9999, 1, 4, 4, 5, 5, 9998, 1, 4, 5, 9998], "should hold one 9997"),
    ],
)
def test_check_says_what_is_wrong(row, message):
    with pytest.raises(ValueError, match=message):
        DOCUMENTED.check(row)


def test_every_topological_order_is_accepted_and_no_other_one():
    graph = [9999, 1, 2, 1, 3, 2, 4, 3, 4, 4, 6, 9997, 6, 9998]  # 2 and 3 hang on 1, and 4 on both
    accepted = {
        order
        for order in permutations((1, 2, 3, 4, 6))
        if DOCUMENTED.validate_example({"input_ids": [*graph, *order, 9998]})
    }
    assert accepted == {(1, 2, 3, 4, 6), (1, 3, 2, 4, 6)}


# Another reading of a row: names as letters, graphs as matrices.


def reads_as_valid(task: BrevoTask, row: list[int]) -> bool:
    mark = {task.bos_token_id: "B", task.query_token_id: "Q"}
    limit = 4 if task.multi else 0
    parts = [
        mark.get(
            t,
            f"s{t} "
            if t in range(1, limit + 1)
            else f"e{t} "
            if t in range(1, (8 if task.multi else task.N) + 1)
            else "",
        )
        for t in row
    ]
    ends = {task.answer: "A", task.eos_token_id: "E"}
    parts = [part or ends.get(t, "?") for part, t in zip(parts, row, strict=True)]
    if task.answer == task.eos_token_id and "E" in parts:
        parts[parts.index("E")] = "A"
    name = r"(?:s\d+ ){1,3}e\d+ " if task.multi else r"e\d+ "
    layout = re.fullmatch(f"B((?:{name}{name})+)Q({name})A((?:{name})+)E", "".join(parts))
    if not layout:
        return False
    names = re.findall(name, layout[1])
    nodes = sorted(set(names))
    number = {node: i for i, node in enumerate(nodes)}
    edges = [(number[a], number[b]) for a, b in zip(names[::2], names[1::2], strict=True)]
    m = len(nodes)
    matrix = np.zeros((m, m), dtype=int)
    for a, b in edges:
        matrix[a, b] += 1
    reach = np.linalg.matrix_power(np.eye(m, dtype=int) + (matrix > 0), m) > 0  # in at most m steps
    if matrix.max() > 1 or matrix.sum(axis=0).max() > task.max_in or matrix.sum(axis=1).max() > task.max_in:
        return False
    if matrix.trace() or (reach & reach.T).sum() > m or layout[2] not in number:
        return False
    query = number[layout[2]]
    answer = [number.get(node, -1) for node in re.findall(name, layout[3])]
    roots = (matrix.sum(axis=0) == 0).sum()
    sizes = [task.N] if task.qa else range(3, task.N + 1)
    fits = any(n >= m and roots + n - m <= (n - 1) // 4 + 1 for n in sizes)  # n - m roots have no edge
    in_order = all(not reach[b, a] for a, b in combinations(answer, 2)) if -1 not in answer else False
    return fits and matrix[query].sum() == 0 and sorted(answer) == np.flatnonzero(reach[:, query]).tolist() and in_order


CONFIGS = [
    {"N": 8, "max_in": 2},
    {"N": 5, "multi": True},
    {"N": 9, "qa": True, "documented_ids": True},
    {"N": 4, "max_in": 1, "documented_ids": True, "multi": True},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_row_with_one_other_token_is_rejected_unless_it_says_something_true(config):
    task = BrevoTask(config)
    assert agreement(task, lambda row: reads_as_valid(task, row)) > 0 or config["N"] == 4


@pytest.mark.parametrize("config", CONFIGS)
def test_shuffled_answers_are_accepted_exactly_where_they_are_in_order(config):
    task, rng = BrevoTask(config), np.random.default_rng(0)
    verdicts = Counter()
    for row in task.take(0, 400):
        ids, start = row["input_ids"], row["loss_mask"].index(1) + 1
        names = re.findall(r"(?:[1-4],)*[5-8]," if task.multi else r"\d+,", "".join(f"{t}," for t in ids[start:-1]))
        shuffled = "".join(rng.permutation(names))
        other = [*ids[:start], *map(int, shuffled.split(",")[:-1]), ids[-1]]
        verdict = task.validate_example({"input_ids": other})
        assert verdict == reads_as_valid(task, other)
        verdicts[verdict] += 1
    assert verdicts[False] > 50


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(3, 40), st.booleans(), st.booleans(), st.integers(1, 6), st.booleans())
def test_every_sample_says_something_true(N, multi, qa, max_in, documented):
    task = BrevoTask(N=N, multi=multi, qa=qa, max_in=max_in, documented_ids=documented)
    for row in task.take(0, 20):
        assert reads_as_valid(task, row["input_ids"])
        assert row["loss_mask"][1:] == [int(m) for m in task.answer_mask(row["input_ids"])][1:]


# The law


def graphs(n: int, max_in: int) -> dict[tuple, Fraction]:
    """Every graph on 0 .. n - 1 that the description in the task's docstring makes, with its probability."""
    laws: Counter[tuple] = Counter()
    most = (n - 1) // 4 + 1
    for roots in range(1, most + 1):
        partial = {(): Fraction(1, most)}
        for node in range(roots, n):
            grown: Counter[tuple] = Counter()
            for edges, chance in partial.items():
                children = Counter(a for a, _ in edges)
                free = [earlier for earlier in range(node) if children[earlier] < max_in]
                for number in range(1, min(len(free), max_in) + 1):
                    choices = list(combinations(free, number))
                    for parents in choices:
                        more = tuple((p, node) for p in parents)
                        grown[(*edges, *more)] += chance / min(len(free), max_in) / len(choices)
            partial = grown
        laws.update(partial)
    return laws


def shape(edges: tuple, n: int) -> tuple:
    """The same for two graphs exactly if one becomes the other by renaming nodes."""
    renamings = permutations(range(n))
    return min(tuple(sorted((names[a], names[b]) for a, b in edges)) for names in renamings)


@pytest.mark.parametrize("max_in", [1, 2, 4])
def test_graphs_are_drawn_by_their_law(max_in):
    task = BrevoTask(N=5, max_in=max_in, qa=True)
    expected: Counter[tuple] = Counter()
    for edges, chance in graphs(5, max_in).items():
        expected[shape(edges, 5)] += chance
    assert sum(expected.values()) == 1
    rows = Counter()
    for row in task.sample(np.random.default_rng(0), 20_000).input_ids.tolist():
        ids = row[1 : row.index(task.query_token_id)]
        rows[tuple(sorted((a - 1, b - 1) for a, b in zip(ids[::2], ids[1::2], strict=True)))] += 1
    found: Counter[tuple] = Counter()
    for edges, count in rows.items():
        found[shape(edges, 5)] += count
    assert set(found) <= set(expected)
    for graph, chance in expected.items():
        mean = float(chance) * 20_000
        assert abs(found[graph] - mean) < 4.5 * mean**0.5 + 3


def test_nodes_orders_of_edges_and_answers_have_their_shares():
    task = BrevoTask(N=4, qa=True, max_in=2)
    rows = task.sample(np.random.default_rng(0), 40_000).input_ids.tolist()
    asked = Counter(row[row.index(9997) + 1] for row in rows)
    assert max(abs(asked[node] - 10_000) for node in range(1, 5)) < 450
    orders: Counter[tuple] = Counter()
    first: Counter[int] = Counter()
    for row in rows:
        ids, answer = row[1 : row.index(9997)], row[row.index(9996) + 1 : row.index(9998)]
        edges = list(zip(ids[::2], ids[1::2], strict=True))
        if len(edges) == 4 and len(answer) == 4 and not {(answer[1], answer[2]), (answer[0], answer[3])} & set(edges):
            orders[answer[1] < answer[2]] += 1  # a diamond: both orders of its sides are as likely
            first[edges.index((answer[0], answer[1]))] += 1
    assert sum(orders.values()) > 2000
    assert abs(orders[True] - orders[False]) < 4.5 * sum(orders.values()) ** 0.5
    assert max(abs(first[e] - sum(first.values()) / 4) for e in range(4)) < 4.5 * (sum(first.values()) / 4) ** 0.5


def answers(edges: tuple, node: int) -> dict[tuple, float]:
    """Every answer with its probability: from the node asked for backwards, each time one of those that are ready."""
    children = {a: {b for x, b in edges if x == a} for a, _ in edges}
    parents = {node: {a for a, b in edges if b == node} for _, node in edges}
    needed, waiting = {node}, [node]
    while waiting:
        new = parents.get(waiting.pop(), set()) - needed
        needed |= new
        waiting += new

    laws = {(node,): 1.0}
    for _ in range(len(needed) - 1):
        longer: Counter[tuple] = Counter()
        for answer, chance in laws.items():
            ready = [n for n in needed - set(answer) if children[n] & needed <= set(answer)]
            for n in ready:
                longer[(n, *answer)] += chance / len(ready)
        laws = longer
    return laws


def test_answers_are_drawn_by_their_law():
    """Where a node far from the one asked for stands in the answer is compared with its expectation."""
    task = BrevoTask(N=7, qa=True, max_in=2)
    score, variance = 0.0, 0.0
    for row in task.sample(np.random.default_rng(0), 4000).input_ids.tolist():
        ids = row[1 : row.index(9997)]
        edges = tuple(zip(ids[::2], ids[1::2], strict=True))
        answer = tuple(row[row.index(9996) + 1 : row.index(9998)])
        law = answers(edges, answer[-1])
        distance = {n: len(longest_path(edges, n, answer[-1])) for n in answer}
        places = {a: sum(i * distance[n] for i, n in enumerate(a)) for a in law}
        mean = sum(chance * places[a] for a, chance in law.items())
        score += places[answer] - mean
        variance += sum(chance * (places[a] - mean) ** 2 for a, chance in law.items())
    assert variance > 500
    assert abs(score) < 4 * variance**0.5


def longest_path(edges: tuple, start: int, stop: int) -> list[int]:
    if start == stop:
        return [stop]
    paths = [longest_path(edges, b, stop) for a, b in edges if a == start]
    reached = [path for path in paths if path]
    return [start, *max(reached, key=len)] if reached else []


def test_sizes_have_their_shares():
    ids = BrevoTask(N=12, max_in=1).sample(np.random.default_rng(0), 40_000).input_ids.numpy()
    edges = ((ids == 9997).argmax(axis=1) - 1) // 2  # n nodes, of which n - roots have one parent
    chances = 1 / (np.arange(3, 13) + 12**0.5)
    expected = np.zeros(13)
    for n, chance in zip(range(3, 13), chances / chances.sum(), strict=True):
        most = (n - 1) // 4 + 1
        for roots in range(1, most + 1):
            expected[n - roots] += chance / most
    assert np.bincount(edges, minlength=13) / len(ids) == pytest.approx(expected, abs=0.008)


def test_one_question_belongs_to_one_split_whatever_the_order_of_its_answer():
    task = BrevoTask(N=4, max_in=2)
    prompts = {}
    for split in ("train", "validation", "test"):
        rows = [row for block in range(8) for row in draw_block(task, 0, split, block).input_ids.tolist()]
        prompts[split] = {tuple(row[: row.index(9997)]) for row in rows}
    assert sum(map(len, prompts.values())) == len(set().union(*prompts.values()))


def test_spans_are_the_answers():
    task = BrevoTask(N=10)
    batch = task.sample(np.random.default_rng(0), 50)
    for row, start, stop, kind in zip(*task.spans(batch), strict=True):
        ids, targets = batch.input_ids[row].tolist(), batch.targets[row].tolist()
        assert (ids[start], ids[stop - 1], kind) == (9996, 9998, 0)
        assert targets[start - 1 : stop - 1] == ids[start:stop]
        assert set(targets[: start - 1] + targets[stop - 1 :]) == {IGNORE}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"N": 2}, "N"),
        ({"max_in": 0}, "max_in"),
        ({"N": 400, "multi": True}, "make only 336"),
        ({"answer_token_id": 9998}, "answer_token_id 9998 is eos_token_id as well; set documented_ids"),
        (
            {"answer_token_id": 9997, "documented_ids": True},
            "query_token_id takes the ids 9997 and answer_token_id takes",
        ),
        ({"eos_token_id": 70}, "nodes takes the ids 1 .. 70 and eos_token_id takes 70"),
        ({"bos_token_id": 9997}, "no id may mean two things"),
    ],
)
def test_impossible_parameters_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        BrevoTask(wrong)
