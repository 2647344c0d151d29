"""Splits that cannot leak: a prompt belongs to exactly one of train, validation and test, by a hash of its content."""

from functools import cache

import numpy as np

from core import rng
from core.batch import Batch, concatenate
from core.errors import UserError
from core.task import Task

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}  # of the space of prompts
BORDERS = np.cumsum(list(SHARES.values()))[:-1]
CANDIDATES_AT_ONCE = 4  # in blocks: keeps the memory of the rare splits near that of the common one
LARGEST_BLOCK = 2**28  # tokens drawn at once: 4 GiB of ids and targets, and several times that on the way
PATIENCE = 10_000  # in draws: a split that accepts under 1 % of so many counts as empty


class TooFewPrompts(UserError):
    """The task has so few distinct prompts that a split has none, or next to none, of them."""


@cache
def _weights(length: int) -> np.ndarray:
    return rng.generator("split", 0, "", 0).integers(2**64, size=length, dtype=np.uint64)


def split_of(prompts: np.ndarray) -> np.ndarray:
    """The split of each row of int64 (B, P), as an index into SHARES, int64 (B,).

    Depends on nothing but the tokens: not on the seed, so that no run's validation prompt is another run's training
    prompt. The hash is multilinear in the tokens, modulo 2^64, then mixed.
    """
    x = rng.mix(prompts.view(np.uint64) @ _weights(prompts.shape[1]))
    return np.searchsorted(BORDERS, x / 2.0**64, side="right")


def check_prompts(task: Task, seed: int, split: str) -> None:
    """Raises TooFewPrompts if a split of the task is empty, or it is for training and one that the task mixes has none.

    A mixed task that is absent elsewhere is learned all the same, and who measures says that it is not measured.
    """
    for each in (task, *(task.mixed if split == "train" else ())):
        draw_block(each, seed, split, 0)


def draw_block(task: Task, seed: int, split: str, block: int, stream: str | None = None) -> Batch:
    """Examples block * n .. (block + 1) * n - 1 of a split, with n = `task.examples_per_block`.

    A pure function of its arguments. Draws of other splits are rejected, which leaves the law of the rest as it was.
    `stream`, where given, is the fingerprint of another task, whose random numbers are used, so that two variants of
    a task can be asked about the same things.
    Raises TooFewPrompts where the split is empty, UserError for examples too long to be drawn.
    """
    if (tokens := task.block_size * task.examples_per_block) > LARGEST_BLOCK:
        raise UserError(
            f"task {task.name}: {task.examples_per_block} examples are drawn at once, which with {task.model_dump()} "
            f"are {tokens:,} tokens; at most {LARGEST_BLOCK:,} can be. Make the examples shorter"
        )
    generator = rng.generator(stream or task.fingerprint, seed, split, block)
    number, share = list(SHARES).index(split), SHARES[split]
    n = task.examples_per_block
    parts: list[Batch] = []
    found, draws = 0, 0

    def choose(prompts: np.ndarray) -> np.ndarray:
        return np.flatnonzero(split_of(prompts) == number)[: n - found]

    while found < n:
        expected, spread = (n - found) / share, ((n - found) * (1 - share)) ** 0.5 / share
        size = min(int(expected + 3 * spread) + 1, CANDIDATES_AT_ONCE * n)  # enough at the first go, nearly always
        part = task.sample_where(generator, size, choose)
        parts.append(part)
        found, draws = found + len(part.input_ids), draws + size
        if draws >= PATIENCE and found < draws / 100:
            raise TooFewPrompts(
                f"task {task.name}: {draws:,} draws with {task.model_dump()} gave {found} examples of the {split} "
                "split. It has too few distinct prompts to be divided: make them longer or their vocabulary larger"
            )
    return concatenate(parts, task.pad_token)
