"""What a model has learned of a task, measured as in the papers: by hop, by whole order, by length, in bits, by parse.

Each measurement gives rows for a table: what was measured, and numbers, among them what a blind guess would reach.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from core.batch import IGNORE, Batch, SupervisedBatch, concatenate
from core.generate import continuations
from core.model import LanguageModel, evaluating
from core.source import TaskSource
from core.task import Task
from synthetic_tasks import capo
from synthetic_tasks._example_task import ExampleTask, Spans
from synthetic_tasks.brevo import BrevoTask
from synthetic_tasks.capo import CapoTask
from synthetic_tasks.depo import DepoTask
from synthetic_tasks.lano import LanoTask
from synthetic_tasks.mano import ManoTask

Row = dict[str, Any]
LABELS = ("split", "hop", "length", "prefix", "templates", "field", "questions")
PREFIXES = (0, 50)  # tokens of a string of Lano that are given


@dataclass(frozen=True)
class Sheet:
    """The examples that are asked, and how many at a time."""

    seed: int
    split: str
    examples: int
    batch_size: int

    def batch(self, task: Task) -> Batch:
        return TaskSource(task, self.seed).batch(self.split, 0, self.examples)


def examine(task: ExampleTask, model: LanguageModel, sheet: Sheet, hops: Sequence[int] = ()) -> list[Row]:
    """The measurement that belongs to the task, on graphs of N nodes. `hops`: of Depo; none means those that occur."""
    match task:
        case DepoTask():
            return hop_accuracy(task.replace(qa=True), model, sheet, hops or task.hops)
        case BrevoTask():
            return [order_accuracy(task.replace(qa=True), model, sheet)]
        case ManoTask():
            return value_accuracy(task, model, sheet)
        case CapoTask():
            return knowledge(task, model, sheet)
        case LanoTask():
            return [*parses(task, model, sheet), divergence(task, model, sheet)]
    raise TypeError(f"no measurement is known for {type(task).__name__}")


# --- Predictions


@torch.no_grad()
def _logits(model: LanguageModel, batch: Batch, batch_size: int) -> Iterator[tuple[SupervisedBatch, torch.Tensor]]:
    """The scored positions of some rows at a time, and their logits float32 (N, V)."""
    device = next(model.parameters()).device
    with evaluating(model):
        for start in range(0, len(batch.input_ids), batch_size):
            some = batch.rows(slice(start, start + batch_size)).supervised()
            moved = some.to(device)
            yield some, model(moved.input_ids, moved.positions).float().cpu()


def _scores(
    model: LanguageModel, batch: Batch, batch_size: int, rivals: Sequence[Sequence[int]] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy of each target in nats, float64 (B, T), and whether it is the likeliest token, bool (B, T).

    0 and False where nothing is scored. A target that is among some `rivals` is weighed against them alone.
    """
    nats, right = [], []
    for some, logits in _logits(model, batch, batch_size):
        for ids in rivals:
            others = torch.ones(logits.shape[1], dtype=torch.bool)
            others[list(ids)] = False
            at = torch.isin(some.labels, torch.tensor(ids)).nonzero()
            logits[at, others.nonzero().T] = -math.inf
        nats.append(F.cross_entropy(logits, some.labels, reduction="none").double())
        right.append(logits.argmax(dim=-1) == some.labels)
    scored = (batch.targets != IGNORE).numpy()
    table, hits = np.zeros(scored.shape), np.zeros(scored.shape, dtype=np.bool_)
    table[scored], hits[scored] = torch.cat(nats).numpy(), torch.cat(right).numpy()
    return table, hits


def _within(spans: Spans) -> tuple[np.ndarray, np.ndarray]:
    """Of each token of each span the span's number, and the position that predicts it."""
    lengths = spans.stop - spans.start
    number = np.repeat(np.arange(len(lengths)), lengths)
    return number, spans.start[number] - 1 + np.arange(len(number)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


# --- Depo


def hop_accuracy(task: DepoTask, model: LanguageModel, sheet: Sheet, hops: Sequence[int]) -> list[Row]:
    """A row for each number of steps k, on the same cycles and nodes for every k.

    `accuracy`: answers with every token right, `first_token` and `token`: shares of tokens right, `loss`: nats per
    token, all without <ans>. `chance`: of naming any node of the largest cycle.
    """
    blocks = range(-(-sheet.examples // task.examples_per_block))
    found = [task.at_hops(hops, sheet.seed, sheet.split, block) for block in blocks]
    rows = []
    for k in hops:
        some = concatenate([batches[k] for batches in found], task.pad_token).rows(slice(sheet.examples))
        nats, right = _scores(model, some, sheet.batch_size)
        spans = task.spans(some)
        number, position = _within(spans)
        of_tokens = spans.row[number], position
        hits = right[of_tokens]
        shares = {
            "loss": nats[of_tokens].mean(),
            "accuracy": (np.bincount(number, ~hits) == 0).mean(),
            "first_token": right[spans.row, spans.start - 1].mean(),
            "token": hits.mean(),
            "chance": 1 / task.N,
        }
        sizes = {"split": sheet.split, "hop": k, "questions": len(spans.row)}
        rows.append({**sizes, **{name: float(share) for name, share in shares.items()}})
    return rows


# --- Brevo


def order_accuracy(task: BrevoTask, model: LanguageModel, sheet: Sheet) -> Row:
    """`accuracy`: answers, decoded greedily, that list all ancestors in any order with parents first."""
    prompts = [task.question(row) for row in sheet.batch(task).input_ids.tolist()]
    right = 0
    for start in range(0, len(prompts), sheet.batch_size):
        some = prompts[start : start + sheet.batch_size]
        answers = continuations(model, some, stop=task.eos_token_id, most=task.longest_answer)
        whole = [prompt + answer for prompt, answer in zip(some, answers, strict=True)]
        right += sum(task.validate_example({"input_ids": row}) for row in whole)
    return {"split": sheet.split, "questions": len(prompts), "accuracy": right / len(prompts)}


# --- Mano


def value_accuracy(task: ManoTask, model: LanguageModel, sheet: Sheet) -> list[Row]:
    """A row for each number of operators; `chance`: of the best guess that knows it and nothing else."""
    batch = sheet.batch(task)
    spans = task.spans(batch)
    hits = _scores(model, batch, sheet.batch_size)[1][spans.row, spans.start - 1]
    chances = task.answer_chances().max(axis=1)
    groups = [(n, hits[spans.kind == n]) for n in np.unique(spans.kind).tolist()]
    whole = ("all", hits, task.chance_accuracy())
    return [
        {
            "split": sheet.split,
            "length": n,
            "questions": len(some),
            "accuracy": float(some.mean()),
            "chance": float(best),
        }
        for n, some, best in [whole, *((n, some, chances[n]) for n, some in groups)]
    ]


# --- Capo


def knowledge(task: CapoTask, model: LanguageModel, sheet: Sheet) -> list[Row]:
    """A row for each field of a person and one for all: what is recalled, and bits per parameter.

    `accuracy`: values of which every token is the likeliest, given the text before; `chance`: of the most frequent one.
    `nats`: mean cross-entropy of a value. `bits_per_parameter`: of names, of values, of both (`bit_complexity`), with
    `most`, if everything were known. In sentences that were kept from training, if there are any, as well as in others.
    """
    kinds = ["train", *(["held_out"] if task.held_out_templates else [])]
    return [row for kind in kinds for row in _knowledge(task.replace(templates=kind), model, sheet)]


def _knowledge(task: CapoTask, model: LanguageModel, sheet: Sheet) -> list[Row]:
    rng = np.random.default_rng(sheet.seed)
    people = rng.choice(task.num_people, size=min(sheet.examples, task.num_people), replace=False)
    exposures = rng.integers(task.exposures, size=len(people))
    batch = task.tell(people, exposures)
    spans = task.spans(batch)
    table, hits = _scores(model, batch, sheet.batch_size, task.pronouns)
    number, position = _within(spans)
    nats = np.bincount(number, table[spans.row[number], position])
    right = np.bincount(number, ~hits[spans.row[number], position]) == 0
    parameters = model.num_parameters()
    rows: list[Row] = []
    costs: dict[str, float] = {}
    for kind, field in enumerate(capo.FIELDS):
        mine = spans.kind == kind
        if mine.any():
            costs[field] = float(nats[mine].mean())
            shares = {"accuracy": float(right[mine].mean()), "chance": capo.chance(field), "nats": costs[field]}
            rows.append({"templates": task.templates, "field": field, "questions": int(mine.sum()), **shares})
    name = costs.pop("name")
    untold = 0.0 if "pronoun" in costs else math.log(len(capo.bio.PRONOUNS))  # with repeat_name
    known = capo.bit_complexity(task.num_people, name, sum(costs.values()) + untold)
    most = capo.most_bits(task.num_people, untold)
    for what, bits, limit in (
        ("names", known.names, most.names),
        ("values", known.values, most.values),
        ("all", known.total, most.total),
    ):
        share = {"bits_per_parameter": bits / parameters, "most": limit / parameters}
        rows.append({"templates": task.templates, "field": what, "questions": len(people), **share})
    return rows


# --- Lano


def parses(task: LanoTask, model: LanguageModel, sheet: Sheet) -> list[Row]:
    """A row for each of PREFIXES, tokens of a string that the model is given: `parse`, the share of its completions,
    drawn at temperature 1, that the grammar can make."""
    if not (task.bos and task.eos):
        return []  # nothing to begin with, or never an end
    strings = [task.string(row["input_ids"]) for row in task.examples(sheet.batch(task))]
    rows = []
    for length in PREFIXES:
        generator = torch.Generator().manual_seed(sheet.seed)
        prompts = [[0, *string[:length]] for string in strings if len(string) > length]
        valid = 0
        for start in range(0, len(prompts), sheet.batch_size):
            some = prompts[start : start + sheet.batch_size]
            written = continuations(model, some, stop=task.eos_token, temperature=1.0, generator=generator)
            whole = [prompt + answer for prompt, answer in zip(some, written, strict=True)]
            valid += sum(task.validate_example({"input_ids": row}) for row in whole)
        if prompts:
            parse = {"parse": valid / len(prompts)}
            rows.append({"split": sheet.split, "prefix": length, "questions": len(prompts), **parse})
    return rows


def divergence(task: LanoTask, model: LanguageModel, sheet: Sheet) -> Row:
    """Over all positions the mean in nats of `kl`, from the grammar's law of the next token to the model's, and of
    `cross_entropy`, that law's with the model's, which is least, `entropy`, where both agree."""
    batch = sheet.batch(task)
    law = torch.from_numpy(task.laws(batch))
    model_law = torch.cat([logits.double().log_softmax(-1) for _, logits in _logits(model, batch, sheet.batch_size)])
    model_law = model_law[:, : law.shape[1]]
    cross = -(law * model_law).sum(dim=1).mean().item()
    entropy = -torch.special.xlogy(law, law).sum(dim=1).mean().item()
    sizes = {"split": sheet.split, "questions": len(batch.input_ids)}
    return {**sizes, "kl": cross - entropy, "cross_entropy": cross, "entropy": entropy}
