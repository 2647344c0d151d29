"""Mathematics problems: the files they are read from, the stream and the rows they come in, and how they are scored."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.batch import IGNORE
from core.distributed import World
from core.errors import UserError
from core.generate import continuations
from core.model import GPT, GPTConfig
from downstream.semantic.exam import ProblemExam, choose
from downstream.semantic.problem_file import BOS, CHARACTERS, END, PAD, SEP, UNK, Group, Problems, encode, prepare
from downstream.semantic.problem_rows import ProblemRows, Stream, written


@pytest.fixture(scope="module")
def problems(archive, tmp_path_factory) -> Problems:
    return opened(archive, tmp_path_factory.mktemp("prepared"))


def opened(root: Path, prepared: Path) -> Problems:
    return prepare({folder.name: folder for folder in sorted(root.iterdir()) if folder.is_dir()}, prepared)


def only(question: str, answer: str, folder: Path) -> Problems:
    (folder / "data" / "train-easy").mkdir(parents=True)
    (folder / "data" / "train-easy" / "one.txt").write_text(f"{question}\n{answer}\n")
    return opened(folder / "data", folder / "prepared")


# Characters and files


def test_the_vocabulary_is_the_documented_one():
    assert len(CHARACTERS) == 95
    assert encode("azAZ09!~ ") == [0, 25, 26, 51, 52, 61, 62, 93, 94]
    assert (PAD, UNK, BOS, SEP, END) == (95, 96, 97, 98, 99)


@pytest.mark.parametrize(
    ("question", "answer", "ids", "targets"),
    [
        ("1+1?", "2", [97, 53, 72, 53, 82, 98, 54], {5: 54}),
        ("2é", "-1", [97, 54, 96, 98, 74, 53], {3: 74, 4: 53}),
    ],
)
def test_a_problem_is_written_as_documented_and_by_default_with_an_end(tmp_path, question, answer, ids, targets):
    problems = only(question, answer, tmp_path)
    rows = np.array([0])
    documented, _ = written(problems, rows, rows, len(ids), end_token=False)
    assert documented.input_ids.tolist() == [ids]
    assert {i: t for i, t in enumerate(documented.targets[0].tolist()) if t != IGNORE} == targets
    ended, _ = written(problems, rows, rows, len(ids) + 2, end_token=True)
    assert ended.input_ids.tolist() == [[*ids, END, PAD]]
    found = {i: t for i, t in enumerate(ended.targets[0].tolist()) if t != IGNORE}
    assert found == {**targets, len(ids) - 1: END}


def test_every_problem_of_every_file_is_there_as_it_stood(archive, problems):
    for group in problems.groups:
        lines = (archive / group.regime / f"{group.module}.txt").read_text().splitlines()
        there = [problems.text(p) for p in range(group.first, group.first + group.size)]
        assert there == list(zip(lines[::2], lines[1::2], strict=True))


def test_windows_line_ends_its_byte_order_mark_and_a_missing_last_line_end_change_nothing(tmp_path):
    for name, text in {
        "unix": "1+1?\n2\n3?\n4\n",
        "windows": "\ufeff1+1?\r\n2\r\n3?\r\n4\r\n",
        "cut": "1+1?\n2\n3?\n4",
    }.items():
        (tmp_path / name / "train-easy").mkdir(parents=True)
        (tmp_path / name / "train-easy" / "a.txt").write_bytes(text.encode())
        problems = opened(tmp_path / name, tmp_path / "prepared")
        assert [problems.text(0), problems.text(1)] == [("1+1?", "2"), ("3?", "4")]


def test_a_training_problem_that_is_a_test_question_is_left_out_and_counted(tmp_path):
    files = {"train-easy": "1?\n1\n2?\n2\n3?\n3\n2?\n2\n", "interpolate": "2?\n2\n", "extrapolate": "3?\n3\n4?\n4\n"}
    for folder, text in files.items():
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "a.txt").write_text(text)
    problems = opened(tmp_path / "data", tmp_path / "prepared")
    (train,) = problems.of("train-easy")
    assert [problems.text(p)[0] for p in range(train.first, train.first + train.size)] == ["1?"]
    assert problems.removed == 3


@given(st.lists(st.text(st.sampled_from("ab? "), min_size=1, max_size=6), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_no_training_question_is_a_test_question(tmp_path_factory, questions):
    root = tmp_path_factory.mktemp("leak")
    half = len(questions) // 2
    for folder, some in {
        "train-easy": [*questions[:half], "train"],
        "interpolate": [*questions[half:], "test"],
    }.items():
        (root / "data" / folder).mkdir(parents=True)
        (root / "data" / folder / "a.txt").write_text("".join(f"{question}\n1\n" for question in some))
    problems = opened(root / "data", root / "prepared")
    (train,), (test,) = problems.of("train-easy"), problems.of("interpolate")
    asked = {problems.text(p)[0] for p in range(test.first, test.first + test.size)}
    trained = [problems.text(p)[0] for p in range(train.first, train.first + train.size)]
    assert not asked & set(trained)
    assert trained == [question for question in [*questions[:half], "train"] if question not in asked]
    assert problems.removed == half + 1 - len(trained)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no lines"),
        (b"1+1?\n", "1 lines, so that a question has no answer"),
        (b"1+1?\n2\n\n3\n", "line 3 is empty"),
        (b"1+1?\n\xff\n", "is no text file"),
    ],
)
def test_a_file_that_holds_no_problems_is_refused_by_name(tmp_path, content, words):
    (tmp_path / "data" / "train-easy").mkdir(parents=True)
    (tmp_path / "data" / "train-easy" / "bad.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.txt: .*" + words):
        opened(tmp_path / "data", tmp_path / "prepared")


# The stream


def groups_of(problems: Problems, numbers: np.ndarray) -> list[Group]:
    return [next(g for g in problems.groups if g.first <= p < g.first + g.size) for p in numbers]


def test_difficulties_and_modules_are_equally_likely_and_nothing_comes_twice_in_a_pass(problems):
    numbers = Stream(problems, seed=3).numbers(np.arange(6 * 60))  # 3 difficulties x 2 modules, 60 rounds
    groups = groups_of(problems, numbers)
    assert set(Counter((g.regime, g.module) for g in groups).values()) == {60}
    drawn = defaultdict(list)
    for group, number in zip(groups, numbers.tolist(), strict=True):
        drawn[group].append(number - group.first)
    for group, those in drawn.items():
        for start in range(0, 60 - group.size + 1, group.size):  # each pass holds each problem once
            assert sorted(those[start : start + group.size]) == list(range(group.size)), group


def test_a_problem_is_a_function_of_seed_and_place(problems):
    stream, places = Stream(problems, seed=0), np.arange(500)
    whole = stream.numbers(places)
    order = np.random.default_rng(0).permutation(500)
    assert np.array_equal(stream.numbers(order), whole[order])
    assert not np.array_equal(Stream(problems, seed=1).numbers(places), whole)


def test_orders_of_rounds_vary(problems):
    groups = groups_of(problems, Stream(problems, seed=0).numbers(np.arange(3 * 200)))
    orders = Counter(tuple(g.regime for g in groups[i : i + 3]) for i in range(0, 600, 3))
    assert len(orders) == 6
    assert min(orders.values()) > 15  # 33 expected


# Rows


def texts_of(row: list[int]) -> list[str]:
    """The problems of a row, read back the slow way."""
    assert row[0] == BOS
    names = [*CHARACTERS, "", "�", "|", "=", "."]
    return "".join(names[token] for token in row).split("|")[1:]


@pytest.mark.parametrize("end_token", [True, False])
def test_rows_hold_the_stream_in_order_and_are_full(problems, end_token):
    source = ProblemRows(problems, 0, 64, end_token)
    batch = source.batch("train", 0, 50)
    rows = batch.input_ids.tolist()
    found = [text for row in rows for text in texts_of(row)]
    stream = source.stream.numbers(np.arange(len(found)))
    expected = ["=".join(problems.text(p)) + "." * end_token for p in stream]
    assert found == expected
    following = "|" + expected[len(texts_of(rows[0]))]
    assert len(following) > rows[0].count(PAD), "the next problem would have had room"


def test_only_answers_and_their_ends_are_scored(problems):
    batch = ProblemRows(problems, 0, 64, True).batch("train", 0, 20)
    for row, targets in zip(batch.input_ids.tolist(), batch.targets.tolist(), strict=True):
        is_answer = False
        for place, token in enumerate(row[:-1]):
            is_answer = (is_answer or token == SEP) and token != END
            assert targets[place] == (row[place + 1] if is_answer else IGNORE)
        assert targets[-1] == IGNORE


def test_rows_do_not_depend_on_what_was_asked_before(problems):
    whole = ProblemRows(problems, 0, 64, True).batch("train", 0, 40).input_ids
    late = ProblemRows(problems, 0, 64, True).batch("train", 33, 40).input_ids
    assert torch.equal(late, whole[33:])


def test_rows_go_on_beyond_what_is_laid_out_at_a_time(problems, monkeypatch):
    whole = ProblemRows(problems, 0, 64, True).batch("train", 0, 60).input_ids
    monkeypatch.setattr("downstream.semantic.problem_rows.CHUNK", 7)
    assert torch.equal(ProblemRows(problems, 0, 64, True).batch("train", 0, 60).input_ids, whole)


def test_an_isolated_problem_is_predicted_as_if_it_stood_alone(problems):
    model = GPT(GPTConfig(num_tokens=100, n_positions=64, n_layer=2, n_head=2, n_embd=16), seed=1).eval()
    source = ProblemRows(problems, 0, 64, True, isolated=True)
    batch = source.batch("train", 0, 4)
    logits = model(batch.input_ids, batch.positions, batch.rows)
    bounds = source.bounds(0, 4)
    numbers = source.stream.numbers(np.arange(bounds[-1]))
    alone = []
    for number in numbers:
        one, _ = written(problems, np.array([number]), np.array([0]), 64, True)
        one = one.supervised()
        alone.append(model(one.input_ids, one.positions))
    torch.testing.assert_close(logits, torch.cat(alone), atol=1e-5, rtol=0)


# Scores


def test_test_and_validation_questions_are_distinct_and_do_not_overlap(problems):
    for group in problems.of("interpolate", "extrapolate"):
        validation, test = choose(problems, group, 3, 100)
        asked = [problems.text(p)[0] for p in [*validation, *test]]
        assert len(set(asked)) == len(asked)
        assert 1 <= len(validation) <= 3


def test_whole_answers_are_counted_as_greedy_generation_counts_them(problems):
    """A model that is right now and then, so that both ways have something to find."""
    model = GPT(GPTConfig(num_tokens=100, n_positions=64, n_layer=1, n_head=2, n_embd=32), seed=0)
    group = problems.of("train-easy")[0]
    numbers = np.arange(group.first, group.first + group.size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch = written(problems, numbers, np.arange(len(numbers)), 40, True)[0].supervised()
    for _ in range(60):
        optimizer.zero_grad()
        model(batch.input_ids, batch.positions, None, batch.labels).backward()
        optimizer.step()
    test = Group("interpolate", group.module, group.first, group.size)
    exam = ProblemExam(problems, [(test, numbers)], True, 7, World())
    ((_, metrics),) = exam(model, {"split": "test"})
    prompts = [[BOS, *encode(problems.text(p)[0]), SEP] for p in numbers]
    answers = [[*encode(problems.text(p)[1]), END] for p in numbers]
    decoded = continuations(model, prompts, stop=END, most=6)
    right = sum(a == b for a, b in zip(decoded, answers, strict=True))
    assert 0 < right < len(numbers)
    assert metrics["exact_match"] == pytest.approx(right / len(numbers))
    assert metrics["problems"] == len(numbers)


def test_every_character_of_an_answer_counts(tmp_path):
    """The earlier system never looked at the last one."""
    problems = only("a", "123", tmp_path)

    class Parrot(torch.nn.Module):
        """Predicts a given string, whatever it is asked."""

        def __init__(self, says: str):
            super().__init__()
            self.number = 1  # of models side by side
            self.says = torch.tensor([*encode(says), END])

        def hidden(self, input_ids, positions, rows=None, first=0):
            return torch.nn.functional.one_hot(self.says[positions - positions[0]], 100).float()

        def head(self, x):
            return x

    exam = ProblemExam(problems, [(Group("interpolate", "one", 0, 1), np.array([0]))], True, 4, World())
    scores = {says: exam(Parrot(says), {})[0][1]["exact_match"] for says in ("123", "124", "023", "133")}
    assert scores == {"123": 1.0, "124": 0.0, "023": 0.0, "133": 0.0}


def test_regimes_and_modules_bear_their_own_names(problems):
    groups = problems.of("interpolate", "extrapolate")
    chosen = [(group, choose(problems, group, 2, 2)[1]) for group in groups]
    model = GPT(GPTConfig(num_tokens=100, n_positions=64, n_layer=1, n_head=2, n_embd=16))
    rows = ProblemExam(problems, chosen, True, 4, World(), by_module=True)(model, {"split": "test"})
    names = [(where["regime"], where.get("module")) for where, _ in rows]
    assert names == [
        ("interpolate", None),
        ("extrapolate", None),
        ("interpolate", "add_0"),
        ("interpolate", "add_1"),
        ("extrapolate", "add_big"),
    ]
    whole = next(metrics for where, metrics in rows if where == {"split": "test", "regime": "interpolate"})
    parts = [metrics for where, metrics in rows if where.get("module") in ("add_0", "add_1")]
    assert whole["exact_match"] == pytest.approx(np.mean([part["exact_match"] for part in parts]))
