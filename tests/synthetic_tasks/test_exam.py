"""Measurements of models whose answers are known: they recite given rows, or the exact law, or say nothing at all."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.batch import IGNORE, Rows
from core.model import LanguageModel
from core.source import TaskSource
from synthetic_tasks import _exam as exam
from synthetic_tasks import capo
from synthetic_tasks.brevo import BrevoTask
from synthetic_tasks.capo import CapoTask
from synthetic_tasks.depo import DepoTask
from synthetic_tasks.lano import LanoTask
from synthetic_tasks.mano import ManoTask

SHEET = exam.Sheet(seed=3, split="test", examples=40, batch_size=7)


class Recites(LanguageModel):
    """Gives the next token of the first known row that begins as its input does all of the probability, or nothing."""

    is_stochastic = False

    def __init__(self, rows: list[list[int]], num_tokens: int, n_positions: int):
        super().__init__()
        self.num_tokens, self.n_positions = num_tokens, n_positions
        self.head = nn.Linear(num_tokens, num_tokens, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(50 * torch.eye(num_tokens))
        self._next: dict[tuple, int] = {}
        for row in rows:
            for t in range(1, len(row)):
                self._next.setdefault(tuple(row[:t]), row[t])

    def hidden(
        self, input_ids: Tensor, positions: Tensor | None = None, rows: Rows | None = None, first: int = 0
    ) -> Tensor:
        T = input_ids.shape[1]
        rows = input_ids.tolist()
        found = [self._next.get(tuple(rows[p // T][: p % T + 1])) for p in positions.tolist()]
        x = torch.zeros(len(found), self.num_tokens)
        for i, token in enumerate(found):
            if token is not None:
                x[i, token] = 1
        return x

    def compile_blocks(self) -> None: ...


def rows_of(task, batch) -> list[list[int]]:
    return [row["input_ids"] for row in task.examples(batch)]


def recites(task, rows) -> Recites:
    return Recites(rows, task.num_tokens, task.block_size)


def some(task) -> list[list[int]]:
    return rows_of(task, SHEET.batch(task))


DEPO = DepoTask(N=6, K=3, M=2, mini_vocab=3, query_token_base=10, answer_token_id=20, separator_token_id=21)


def test_hops_are_asked_of_the_same_cycles_and_counted_whole_by_first_token_and_by_token():
    batches = DEPO.at_hops([1, 3], SHEET.seed, "test", 0)
    rows = {k: rows_of(DEPO, batch.rows(slice(40))) for k, batch in batches.items()}
    edges = {k: [row[: next(t for t, x in enumerate(row) if x in (11, 12, 13))] for row in rows[k]] for k in rows}
    assert edges[1] == edges[3]

    first, second = exam.hop_accuracy(DEPO, recites(DEPO, rows[1]), SHEET, [1, 3])
    assert first["hop"] == 1
    assert (first["accuracy"], first["first_token"], first["token"]) == (1, 1, 1)
    assert first["loss"] < 1e-6
    assert second["accuracy"] < 0.5, "answers to another number of steps"
    assert first["chance"] == 1 / 6
    assert first["questions"] == second["questions"] == sum(min(len(set(edge)), 2) for edge in map(tuple, edges[1]))


def test_an_answer_with_one_wrong_token_is_wrong_as_a_whole_and_ans_does_not_count():
    rows = rows_of(DEPO, DEPO.at_hops([2], SHEET.seed, "test", 0)[2].rows(slice(40)))
    tokens, firsts, answers, right_tokens, right_firsts, right_answers = 0, 0, 0, 0, 0, 0
    spoiled = []
    for number, row in enumerate(rows):
        row, starts = list(row), [t for t, x in enumerate(row) if x == 20]
        for start in starts:  # the name that follows <ans>, until a token that ends it
            stop = next(t for t in range(start + 1, len(row)) if row[t] > 3) + 1
            is_right = [True] * (stop - start - 1)
            if number % 2 and start == starts[-1]:
                is_right[-1] = False
            tokens, right_tokens = tokens + len(is_right), right_tokens + sum(is_right)
            firsts, right_firsts = firsts + 1, right_firsts + is_right[0]
            answers, right_answers = answers + 1, right_answers + all(is_right)
        if number % 2:
            row[-1] = 20  # its last token is said wrong
        spoiled.append(row)
    (found,) = exam.hop_accuracy(DEPO, recites(DEPO, spoiled), SHEET, [2])
    assert found["questions"] == answers
    assert found["accuracy"] == pytest.approx(right_answers / answers)
    assert found["first_token"] == pytest.approx(right_firsts / firsts)
    assert found["token"] == pytest.approx(right_tokens / tokens)


@pytest.mark.parametrize("task", [DEPO, BrevoTask(N=9)])
def test_graphs_are_asked_about_at_their_full_size_as_in_the_paper(task):
    whole = task.replace(qa=True)  # n = N
    is_depo = isinstance(whole, DepoTask)
    rows = rows_of(whole, whole.at_hops([2], SHEET.seed, "test", 0)[2]) if is_depo else some(whole)
    (found,) = exam.examine(task, recites(task, rows), SHEET, [2])
    assert not task.qa
    assert found["accuracy"] == 1


@pytest.mark.parametrize("documented", [False, True])
@pytest.mark.parametrize("multi", [False, True])
def test_any_topological_order_is_right_and_a_wrong_one_is_not(multi, documented):
    task = BrevoTask(
        N=6, multi=multi, documented_ids=documented, bos_token_id=50, eos_token_id=51, query_token_id=52,
        answer_token_id=None if documented else 53,
    )  # fmt: skip
    rows = some(task)
    assert exam.order_accuracy(task, recites(task, rows), SHEET)["accuracy"] == 1

    def other_order(row):  # another valid one, if two neighbours in the answer may be exchanged
        at = len(task.question(row))
        if multi:
            return row
        for t in range(at, len(row) - 2):
            changed = [*row[:t], row[t + 1], row[t], *row[t + 2 :]]
            if task.validate_example({"input_ids": changed}):
                return changed
        return row

    others = [other_order(row) for row in rows]
    assert exam.order_accuracy(task, recites(task, others), SHEET)["accuracy"] == 1
    wrong = [[*task.question(row), *row[len(task.question(row)) : -1][::-1], row[-1]] for row in rows]
    known: dict[tuple, list[int]] = {}  # a question that comes twice is answered as it was the first time
    for n, (row, other) in enumerate(zip(rows, wrong, strict=True)):
        known.setdefault(tuple(task.question(row)), row if n % 4 else other)
    said = [known[tuple(task.question(row))] for row in rows]
    expected = np.mean([task.validate_example({"input_ids": row}) for row in said])
    found = exam.order_accuracy(task, recites(task, said), SHEET)
    assert found["accuracy"] == pytest.approx(expected)
    assert found["accuracy"] < 1
    assert exam.order_accuracy(task, recites(task, []), SHEET)["accuracy"] == 0


def test_values_are_counted_by_length_beside_the_best_blind_guess():
    task = ManoTask(L=3, value_mod=5, bos_token_id=4999)
    rows = some(task)
    spoiled = [[*row[:-1], 5000] if row[1] // 10 == 2 else row for row in rows]
    whole, *by_length = exam.value_accuracy(task, recites(task, spoiled), SHEET)
    hits: dict[int, list[bool]] = {}
    for row, said in zip(rows, spoiled, strict=True):
        hits.setdefault(row[1] // 10, []).append(row[-1] == said[-1])
    assert {row["length"]: row["accuracy"] for row in by_length} == {n: np.mean(some) for n, some in hits.items()}
    assert whole["accuracy"] == pytest.approx(np.mean([hit for some in hits.values() for hit in some]))
    drawn = [row["input_ids"] for row in task.examples(task.sample(np.random.default_rng(0), 20_000))]
    answers = [row[-1] for row in drawn if row[1] // 10 == 2]
    often = max(answers.count(value) for value in set(answers)) / len(answers)
    assert next(row for row in by_length if row["length"] == 2)["chance"] == pytest.approx(often, abs=0.02)


def test_knowledge_of_a_model_that_recites_and_of_one_that_says_nothing():
    task = CapoTask(num_people=30, exposures=4, held_out_templates=5)
    every = [
        row
        for kind in ("train", "held_out")
        for exposure in range(4)
        for row in rows_of(task, task.replace(templates=kind).tell(np.arange(30), np.full(30, exposure)))
    ]
    knows = exam.knowledge(task, recites(task, every), SHEET)
    of_fields = [row for row in knows if row["field"] in capo.FIELDS and row["field"] != "name"]
    assert {row["templates"] for row in of_fields} == {"train", "held_out"}
    assert {row["field"] for row in of_fields} == set(capo.FIELDS) - {"name"}
    told_apart = [row for row in of_fields if row["field"] != "pronoun"]
    assert all(row["nats"] < 1 for row in told_apart)
    silent = exam.knowledge(task, recites(task, []), SHEET)
    for row in silent:
        if row["field"] == "pronoun":
            assert row["nats"] == pytest.approx(math.log(2))
        elif row["field"] == "year":
            assert row["nats"] == pytest.approx(math.log(task.num_tokens))
        elif row["field"] == "name":
            assert row["nats"] == pytest.approx(3 * math.log(task.num_tokens))
    bits = {row["field"]: row for row in silent if "bits_per_parameter" in row and row["templates"] == "train"}
    fields = {row["field"]: row["nats"] for row in silent if "nats" in row and row["templates"] == "train"}
    known = capo.bit_complexity(30, fields.pop("name"), sum(fields.values()))
    parameters = task.num_tokens**2
    assert bits["all"]["bits_per_parameter"] == pytest.approx(known.total / parameters)
    assert bits["names"]["most"] == pytest.approx(30 * math.log2(capo.bio.NAMES / 30) / parameters)


class SaysHe(Recites):
    """Takes everybody for a man and knows nothing else."""

    def hidden(
        self, input_ids: Tensor, positions: Tensor | None = None, rows: Rows | None = None, first: int = 0
    ) -> Tensor:
        x = torch.zeros(len(positions), self.num_tokens)
        x[:, [ids[0] for ids in CapoTask().pronouns]] = 1
        return x


@pytest.mark.slow
def test_the_people_asked_about_are_any_and_not_every_other_one():
    task = CapoTask(num_people=800)
    sheet = exam.Sheet(seed=0, split="test", examples=200, batch_size=50)
    rows = {row["field"]: row for row in exam.knowledge(task, SaysHe([], task.num_tokens, task.block_size), sheet)}
    assert rows["pronoun"]["questions"] == 200
    assert 0.35 < rows["pronoun"]["accuracy"] < 0.65


def test_nobody_is_credited_with_what_is_told_nowhere():
    told, untold = CapoTask(num_people=12, exposures=2), CapoTask(num_people=12, exposures=2, repeat_name=True)
    most = []
    for task in (told, untold):
        texts = [row for i in (0, 1) for row in rows_of(task, task.tell(np.arange(12), np.full(12, i)))]
        values = {row["field"]: row for row in exam.knowledge(task, recites(task, texts), SHEET)}["values"]
        assert values["bits_per_parameter"] <= values["most"]
        most.append(values["most"])
    assert (most[0] - most[1]) * task.num_tokens**2 == pytest.approx(12)  # a bit for each person


class KnowsTheLaw(LanguageModel):
    is_stochastic = False

    def __init__(self, task: LanoTask, uniform: bool = False):
        super().__init__()
        self.task, self.uniform = task, uniform
        self.num_tokens, self.n_positions = task.num_tokens, task.block_size
        self.head = nn.Linear(task.num_tokens, task.num_tokens, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(task.num_tokens))

    def hidden(
        self, input_ids: Tensor, positions: Tensor | None = None, rows: Rows | None = None, first: int = 0
    ) -> Tensor:
        T = input_ids.shape[1]
        laws = [self.task.law(input_ids[p // T, 1 : p % T + 1].tolist())[-1] for p in positions.tolist()]
        law = torch.from_numpy(np.array(laws)).float()
        return torch.zeros_like(law) if self.uniform else law.clamp_min(1e-30).log()

    def compile_blocks(self) -> None: ...


@pytest.mark.slow
def test_a_model_that_knows_the_law_writes_strings_of_the_grammar_and_diverges_in_nothing():
    task = LanoTask(config_name="cfg3b")
    sheet = exam.Sheet(seed=0, split="test", examples=6, batch_size=4)
    free, from_prefix = exam.parses(task, KnowsTheLaw(task), sheet)
    assert (free["prefix"], free["parse"]) == (0, 1)
    assert (from_prefix["prefix"], from_prefix["parse"]) == (50, 1)
    found = exam.divergence(task, KnowsTheLaw(task), sheet)
    assert found["kl"] == pytest.approx(0, abs=1e-5)
    batch = sheet.batch(task)
    losses = -task.oracle(batch).log_prob[batch.targets != IGNORE]
    assert found["entropy"] == pytest.approx(losses.mean().item(), abs=4 * losses.std().item() / len(losses) ** 0.5)

    blind = exam.divergence(task, KnowsTheLaw(task, uniform=True), sheet)
    assert blind["cross_entropy"] == pytest.approx(math.log(task.num_tokens))
    assert blind["kl"] == pytest.approx(math.log(task.num_tokens) - found["entropy"])
    assert exam.parses(task, KnowsTheLaw(task, uniform=True), sheet)[0]["parse"] == 0


def test_examples_are_those_of_the_split():
    assert some(DEPO) == rows_of(DEPO, TaskSource(DEPO, 3).batch("test", 0, 40))
