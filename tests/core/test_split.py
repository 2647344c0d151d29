import itertools
from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field

from core.batch import IGNORE, Batch
from core.split import PATIENCE, SHARES, TooFewPrompts, draw_block, split_of
from core.task import Task

SPLITS = list(SHARES)


class Weighted(Task):
    """A single prompt token i, drawn with probability proportional to ratio^i, and a token that repeats it."""

    prompts: int = Field(300, ge=1, description="number of distinct prompts")
    ratio: float = Field(0.98, ge=0, le=1, description="how fast their weights fall")
    drawn: ClassVar[list[int]] = []  # sizes that were asked for

    @property
    def law(self) -> np.ndarray:
        weights = self.ratio ** np.arange(self.prompts)
        return weights / weights.sum()

    @property
    def num_tokens(self) -> int:
        return self.prompts

    @property
    def block_size(self) -> int:
        return 2

    def sample(self, rng, size):
        self.drawn.append(size)
        tokens = np.repeat(rng.choice(self.prompts, size=(size, 1), p=self.law), 2, axis=1)
        targets = tokens.copy()
        targets[:, 1] = IGNORE
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets))

    def check(self, input_ids): ...

    def token_name(self, token):
        return str(token)


class OneByOne(Weighted):
    examples_per_block: ClassVar[int] = 1


def all_words(letters: int, length: int) -> np.ndarray:
    return np.array(list(itertools.product(range(letters), repeat=length)), dtype=np.int64)


@pytest.mark.parametrize(
    "prompts",
    [
        all_words(10, 5),
        all_words(2, 16),
        np.arange(100_000).reshape(-1, 1),
        np.random.default_rng(0).integers(1, 100, size=(100_000, 65)),
    ],
    ids=["decimals", "bits", "numbers", "lists"],
)
def test_shares_are_80_10_10_whatever_prompts_look_like(prompts):
    found = np.bincount(split_of(prompts), minlength=3) / len(prompts)
    for share, expected in zip(found, SHARES.values(), strict=True):
        assert abs(share - expected) < 4.5 * np.sqrt(expected * (1 - expected) / len(prompts))


def test_prompts_that_differ_in_one_token_fall_independently():
    rows = np.random.default_rng(1).integers(1, 100, size=(50_000, 12))
    for column in (0, 5, 11):
        changed = rows.copy()
        changed[:, column] += 1
        both = np.mean((split_of(rows) == 0) & (split_of(changed) == 0))
        assert abs(both - 0.64) < 0.01


def test_the_split_depends_on_the_tokens_and_not_on_their_place_in_memory():
    rows = np.random.default_rng(2).integers(1, 100, size=(500, 20))
    for view in (rows[:, :7], rows[::2], rows[:, ::3], np.asfortranarray(rows)):
        assert np.array_equal(split_of(view), split_of(np.ascontiguousarray(view)))


def test_the_split_of_a_prompt_does_not_change_from_version_to_version():
    assert split_of(all_words(3, 3)).tolist() == [
        0,
        0,
        0,
        1,
        1,
        2,
        0,
        0,
        0,
        0,
        1,
        0,
        2,
        0,
        0,
        1,
        0,
        0,
        0,
        2,
        0,
        1,
        2,
        0,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_a_block_holds_examples_of_its_split_alone(split):
    task = Weighted()
    batch = draw_block(task, seed=3, split=split, block=5)
    assert len(batch.input_ids) == len(batch.targets) == task.examples_per_block
    assert set(split_of(batch.input_ids.numpy())) == {SPLITS.index(split)}
    assert torch.equal(batch.input_ids[:, 1], batch.targets[:, 0])


def test_seeds_and_parameters_draw_other_examples_from_the_same_split():
    blocks = [draw_block(Weighted(), seed, "validation", 0).input_ids for seed in (0, 1)]
    assert not torch.equal(*blocks)
    other = draw_block(Weighted(ratio=0.9800001), 0, "validation", 0).input_ids
    assert not torch.equal(blocks[0], other)  # nearly the same law, but another stream


def test_a_block_does_not_depend_on_what_was_drawn_before():
    alone = draw_block(Weighted(), 0, "test", 9)
    for block in range(9):
        draw_block(Weighted(), 0, "test", block)
    assert torch.equal(alone.input_ids, draw_block(Weighted(), 0, "test", 9).input_ids)


@pytest.mark.parametrize("split", SPLITS)
def test_rejection_leaves_the_law_of_the_rest_as_it_was(split):
    task, blocks = Weighted(), 80
    law = np.where(split_of(np.repeat(np.arange(300)[:, None], 2, axis=1)) == SPLITS.index(split), task.law, 0)
    expected = law / law.sum() * blocks * task.examples_per_block
    tokens = torch.cat([draw_block(task, 0, split, block).input_ids[:, 0] for block in range(blocks)])
    found = np.bincount(tokens.numpy(), minlength=300)
    assert (found[expected == 0] == 0).all()
    likely = expected > 5
    deviation = np.sum((found - expected)[likely] ** 2 / expected[likely])
    assert abs(deviation - likely.sum()) < 4 * np.sqrt(2 * likely.sum())


def test_a_split_without_prompts_is_reported_after_a_bounded_number_of_draws():
    task = Weighted(prompts=1)
    home = SPLITS[split_of(np.zeros((1, 2), dtype=np.int64))[0]]
    for split in SPLITS:
        task.drawn.clear()
        if split == home:
            assert (draw_block(task, 0, split, 0).input_ids == 0).all()
        else:
            with pytest.raises(TooFewPrompts, match=rf"'prompts': 1,.* 0 examples of the {split} split"):
                draw_block(task, 0, split, 0)
            assert PATIENCE <= sum(task.drawn) <= PATIENCE + 4 * task.examples_per_block


def test_a_rare_split_is_not_called_empty_when_blocks_are_small():
    task = OneByOne(ratio=0.84)
    is_validation = split_of(np.repeat(np.arange(300)[:, None], 2, axis=1)) == SPLITS.index("validation")
    assert 0.02 < task.law[is_validation].sum() < 0.04  # so rare that 100 draws often miss it
    for block in range(200):
        assert len(draw_block(task, 0, "validation", block).input_ids) == 1


def test_a_rare_split_is_not_called_empty_however_many_draws_it_takes():
    task = Weighted(ratio=0.8)  # 2 % of the draws are of the validation split
    task.drawn.clear()
    assert len(draw_block(task, 0, "validation", 0).input_ids) == task.examples_per_block
    assert sum(task.drawn) > PATIENCE
