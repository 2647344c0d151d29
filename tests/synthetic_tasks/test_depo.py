import re
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from corruption import agreement
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from core.batch import IGNORE
from core.split import split_of
from synthetic_tasks.depo import DepoTask

TINY = {"N": 6, "K": 3, "M": 2, "mini_vocab": 5}
KNOWN = [0, 1, 6, 3, 8, 3, 8, 9, 8, 1, 6, 9, 10, 10, 8, 9001, 8, 9500, 1, 6, 9002, 10, 9500, 1, 6]


def test_a_known_row_is_valid_and_its_mask_marks_the_answers():
    task = DepoTask(TINY)
    assert task.answer_mask(KNOWN) == [t in (17, 18, 19, 22, 23, 24) for t in range(25)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: [*row[:-1], 7], "the answer to the question at position 20 is .*1, 7.*; it should be .*1, 6"),
        (lambda row: [1, *row[1:]], "does not begin with 0"),
        (lambda row: row[:15], "asks nothing"),
        (lambda row: row[:20], "asks 1 questions; it should ask 2"),
        (lambda row: [*row[:16], 9, *row[17:]], "the answer to the question at position 15"),
        (lambda row: [*row[:20], *row[15:20]], "which is no node or was asked for before"),
        (lambda row: [*row[:15], 9004, *row[16:]], r"token 9004 stands where a name is expected"),
        (lambda row: [*row[:1], *row[5:]], "the 4 edges do not make one cycle"),
        (lambda row: [*row[:5], *row[1:5], *row[5:]], "the 6 edges do not make one cycle"),
        (lambda row: [*row[:2], 5, *row[2:]], r"the name \[1, 5, 6\] has 3 tokens; it should have 1 .. 2"),
        (lambda row: row[:-1], r"the name \[1\] is cut short"),
        (lambda row: [*row, 6], "should be one name"),
        (lambda row: [*row[:17], *row[18:]], "holds no or several 9500"),
    ],
)
def test_check_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        DepoTask(TINY).check(change(KNOWN))


# Another reading of a row: as a string of letters, by regular expressions, trying all nodes for every step.


def reads_as_valid(task: DepoTask, row: list[int]) -> bool:
    V, ids = task.mini_vocab, {task.bos_token_id: "B", task.answer_token_id: "A", task.separator_token_id: "S"}
    ids |= {task.query_token_base + k: f"Q{k}:" for k in range(1, task.K + 1)}
    parts = [ids.get(t) or (f"s{t} " if 1 <= t <= V else f"e{t} " if V < t <= 2 * V else "?") for t in row]
    name = rf"(?:s\d+ ){{{task.min_tlen - 1},{task.max_tlen - 1}}}e\d+ "
    edge = ("S" if task.separator else "") + f"({name})({name})"
    question = rf"Q(\d+):({name})A({name})"
    text = "".join(parts)
    if not re.fullmatch(f"B(?:{edge})+(?:{question})+", text):
        return False
    graph, asked = text[: text.index("Q")], text[text.index("Q") :]
    edges, questions = re.findall(edge, graph), re.findall(question, asked)
    n = len(edges)
    nodes = {node for e in edges for node in e}
    if (
        not (task.N if task.qa else 3) <= n <= task.N
        or {a for a, _ in edges} != nodes
        or {b for _, b in edges} != nodes
        or len(nodes) != n
    ):
        return False

    def ahead(node: str, k: int) -> set[str]:
        reached = {node}
        for _ in range(k):
            reached = {b for a, b in edges if a in reached}
        return reached

    start = edges[0][0]
    whole = {node for k in range(n) for node in ahead(start, k)}
    hops = {1, 2, 4, 8, 16, 32, 24 if task.K == 32 else 1, task.K} if task.qa else set(range(1, task.K + 1))
    hops = {task.fixed_k} if task.fixed_k else hops
    return (
        whole == nodes
        and len(questions) == min(n, task.M) == len({q for _, q, _ in questions})
        and all(int(k) in hops and q in nodes and ahead(q, int(k)) == {a} for k, q, a in questions)
    )


CONFIGS = [
    {"N": 6, "K": 3, "M": 3, "mini_vocab": 4},
    {"N": 5, "K": 4, "M": 9, "mini_vocab": 3, "min_tlen": 2, "max_tlen": 3, "separator": True, "qa": True},
    {"N": 8, "K": 8, "M": 2, "mini_vocab": 8, "max_tlen": 1, "fixed_k": 5},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_row_with_one_other_token_is_rejected_unless_it_says_something_true(config):
    task = DepoTask(config)
    still_valid = agreement(task, lambda row: reads_as_valid(task, row))
    assert still_valid == 0 or config["K"] < 8  # a cycle that is not asked about everywhere may have other steps


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(3, 20), st.integers(1, 20), st.integers(1, 8), st.integers(1, 4), st.integers(1, 3),
    st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_every_sample_says_something_true(N, K, M, shortest, more, qa, separator, fixed):
    K = min(K, N)
    task = DepoTask(
        N=N, K=K, M=M, mini_vocab=4, min_tlen=shortest, max_tlen=shortest + more, qa=qa, separator=separator,
        fixed_k=K if fixed else None,
    )  # fmt: skip
    for row in task.take(0, 20):
        assert reads_as_valid(task, row["input_ids"])
        assert row["loss_mask"][1:] == [int(m) for m in task.answer_mask(row["input_ids"])][1:]


def test_names_that_are_nearly_all_taken_are_found():
    task = DepoTask(N=12, K=2, mini_vocab=3, min_tlen=1, max_tlen=2, qa=True)  # 3 + 9 names for 12 nodes
    for row in task.take(0, 50):
        assert reads_as_valid(task, row["input_ids"])


@pytest.mark.parametrize(("k", "is_asked"), [(1, True), (2, True), (3, False), (4, True), (5, False), (6, True)])
def test_the_evaluation_asks_for_its_own_hops_only(k, is_asked):
    evaluation, training = DepoTask(N=7, K=6, M=1, qa=True), DepoTask(N=7, K=6, M=1)
    whole = [
        row["input_ids"]
        for row in training.replace(fixed_k=k).take(0, 200)
        if len(training._names(edges_of(row))) == 14
    ]
    assert whole
    for ids in whole:
        assert training.validate_example({"input_ids": ids})
        assert evaluation.validate_example({"input_ids": ids}) == is_asked


def edges_of(row: dict) -> list[int]:
    ids = row["input_ids"]
    return ids[1 : next(t for t, token in enumerate(ids) if token > 9000)]


# The law


def test_short_names_follow_one_another_no_oftener_than_chance():
    task = DepoTask(N=20, K=1, M=1, mini_vocab=4, max_tlen=3, qa=True)  # the 4 shortest are likely to be drawn first
    surplus = []
    for row in task.take(0, 5000):
        names = task._names(edges_of(row))
        short = sum(len(name) == 1 for name in names[::2])
        pairs = sum(len(a) == len(b) == 1 for a, b in zip(names[::2], names[1::2], strict=True))
        surplus.append(pairs - short * (short - 1) / 19)
    assert abs(np.mean(surplus)) < 4 * np.std(surplus) / len(surplus) ** 0.5


def test_sizes_hops_and_name_lengths_have_their_shares():
    task = DepoTask(N=30, K=5, M=2)
    batch = task.sample(np.random.default_rng(0), 40_000)
    ids = batch.input_ids.numpy()
    names = ((ids > 50) & (ids <= 100)) & (task.prompt(batch) > 0)
    sizes = names.sum(axis=1) // 2
    expected = 1 / (np.arange(3, 31) + 30**0.5)
    assert np.bincount(sizes, minlength=31)[3:] / len(ids) == pytest.approx(expected / expected.sum(), abs=0.004)
    hops = task.spans(batch).kind
    assert len(hops) == 80_000
    assert np.bincount(hops)[1:] / len(hops) == pytest.approx(0.2, abs=0.006)
    firsts = ids[:, 1]
    assert (firsts > 50).mean() == pytest.approx(0.5, abs=0.02)  # lengths 1 and 2; few of 50 short names are refused


def test_cycles_orders_of_edges_and_questions_are_uniform():
    task = DepoTask(N=3, K=1, M=1, mini_vocab=3, max_tlen=1, qa=True)  # the nodes are 4, 5, 6
    rows = Counter(map(tuple, task.sample(np.random.default_rng(0), 36_000).input_ids.tolist()))
    cycles = [dict(zip(order, order[1:] + order[:1], strict=True)) for order in [(4, 5, 6), (4, 6, 5)]]
    expected = {
        (0, *(x for node in order for x in (node, cycle[node])), 9001, asked, 9500, cycle[asked])
        for cycle in cycles
        for order in permutations((4, 5, 6))
        for asked in (4, 5, 6)
    }
    assert set(rows) == expected
    assert len(expected) == 36
    assert max(abs(count - 1000) for count in rows.values()) < 4.5 * 1000**0.5


@pytest.mark.parametrize(
    ("K", "hops"), [(1, [1]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16]), (32, [1, 2, 4, 8, 16, 24, 32])]
)
def test_hops_of_the_evaluation_are_powers_of_two_without_repetition(K, hops):
    assert DepoTask(K=K, qa=True).hops == hops
    assert set(DepoTask(K=K, qa=True).spans(DepoTask(K=K, qa=True).sample(np.random.default_rng(0), 40)).kind) == set(
        hops
    )
    assert DepoTask(K=K).hops == list(range(1, K + 1))
    assert DepoTask(K=K, qa=True, fixed_k=K).hops == [K]


# For the evaluation


def test_spans_are_the_answers_without_the_mark_before_them():
    for config in CONFIGS:
        task = DepoTask(config)
        batch = task.sample(np.random.default_rng(0), 100)
        spans = task.spans(batch)
        found = Counter()
        for row, start, stop, k in zip(*spans, strict=True):
            ids, targets = batch.input_ids[row].tolist(), batch.targets[row].tolist()
            assert ids[start - 1] == targets[start - 2] == task.answer_token_id
            assert targets[start - 1 : stop - 1] == ids[start:stop]
            assert stop == len(ids) or ids[stop] == task.pad_token or ids[stop] in task._queries
            asked = max(t for t in range(start) if ids[t] in task._queries)
            assert ids[asked] == task.query_token_base + k
            found[row] += stop - start + 1
        assert [found[row] for row in range(100)] == (batch.targets != IGNORE).sum(dim=1).tolist()


def test_every_hop_is_asked_about_the_same_cycles_and_nodes():
    task = DepoTask(N=9, K=9, M=3, qa=True)
    batches = task.at_hops([1, 2, 4, 9], seed=3, split="test", block=1)
    prompts = {k: task.prompt(batch) for k, batch in batches.items()}
    answers = {}
    for k, batch in batches.items():
        width = min(prompts[k].shape[1], prompts[1].shape[1])
        assert np.array_equal(prompts[k][:, :width], prompts[1][:, :width])
        assert set(task.spans(batch).kind) == {k}
        assert (split_of(prompts[k]) == 2).all()
        rows = batch.input_ids.tolist()
        for row in rows:
            task.replace(fixed_k=k).check(row)
        answers[k] = [[name(row, start) for start in starts(task, row)] for row in rows]
    asked = {k: [[node for node, _ in pairs] for pairs in rows] for k, rows in answers.items()}
    assert asked[1] == asked[2] == asked[4] == asked[9]
    assert all(node == answer for pairs in answers[9] for node, answer in pairs)  # once around


def starts(task: DepoTask, row: list[int]) -> list[int]:
    return [t for t, token in enumerate(row) if token in task._queries]


def name(row: list[int], start: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The node asked for and the answer of the question that begins at `start`."""
    mark = row.index(9500, start)
    stop = next((t for t in range(mark + 1, len(row)) if row[t] > 9000), len(row))
    return tuple(row[start + 1 : mark]), tuple(row[mark + 1 : stop])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"N": 8, "K": 16}, "K 16 steps go around a cycle of N 8 nodes; K must be at most N"),
        ({"fixed_k": 9}, r"fixed_k 9 is beyond K 8; use a k in 1 .. 8"),
        ({"min_tlen": 3, "max_tlen": 2}, "min_tlen 3 is above max_tlen 2"),
        ({"N": 5, "K": 2, "mini_vocab": 4, "max_tlen": 1}, "make only 4; use more symbols"),
        ({"K": 0}, "K"),
        ({"query_token_base": 9495}, "query_token_base takes the ids 9496 .. 9503 and answer_token_id takes 9500"),
        ({"query_token_base": 90}, "names takes the ids 1 .. 100 and query_token_base takes 91 .. 98"),
        ({"bos_token_id": 9001}, "query_token_base takes the ids 9001 .. 9008 and bos_token_id takes 9001"),
        ({"bos_token_id": 9700}, "no id may mean two things"),
        ({"max_tlen": 40}, "max_tlen 40"),
        ({"N": 2}, "N"),
    ],
)
def test_impossible_parameters_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        DepoTask(wrong)
