"""Updates, learning rates and windows of stages, against what the documentation and the formulas say."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from core import config as loader
from core.documents import Document, Documents
from core.errors import UserError
from core.token_files import TokenFile
from core.token_writer import write
from core.tokenizer import load
from core.windows import Windows
from curriculum.config import TrainingConfig
from curriculum.plan import Replay, Shuffled, continuous, parts_of, phases, position, restart
from curriculum.stages import Curriculum, CurriculumStage

BYTES = load("bytes")


class Numbers(Documents):
    """One document of different letters for each stage."""

    def __init__(self, first: str, count: int):
        self.text = "".join(chr(ord(first) + n % 20) for n in range(count))

    def identity(self):
        return {}

    def documents(self, start=0):
        yield from [Document(self.text, "")][start:]


@pytest.fixture
def files(tmp_path):
    found = {}
    for name, first, count in (("warmup", "A", 999), ("foundation", "a", 2099), ("pretrain", "\x20", 3999)):
        write(tmp_path / f"{name}.bin", Numbers(first, count), BYTES, say=lambda text: None)
        found[name] = {"train": TokenFile(tmp_path / f"{name}.bin")}
    return found


def config_of(stages=None, **keys) -> TrainingConfig:
    stages = stages or [
        CurriculumStage(name=name, dataset_key="d/" + name, block_size=block, n_epochs=epochs)
        for name, block, epochs in (("warmup", 8, 3), ("foundation", 16, 2), ("pretrain", 32, 1))
    ]
    return TrainingConfig(type="mine.yaml", stages=stages, batch_size=2, gradient_accumulation_steps=2, **keys)


def test_the_types_have_the_documented_numbers():
    rows = [(s.name, s.dataset_key, s.block_size, s.n_epochs, s.n_items) for s in Curriculum.simple().stages]
    assert rows == [
        ("warmup", "roneneldan/TinyStories", 128, 1, 10_000),
        ("pretrain", "custom-scrape", 256, 2, None),
    ]
    rows = [(s.name, s.dataset_key, s.block_size, s.n_epochs, s.n_items) for s in Curriculum.default().stages]
    assert rows == [
        ("warmup", "roneneldan/TinyStories", 128, 1, 50_000),
        ("foundation", "local-files", 256, 2, None),
        ("pretrain", "custom-scrape", 512, 3, None),
    ]


def test_updates_go_through_the_text_as_often_as_asked_and_have_the_same_tokens(files):
    parts = parts_of(config_of(), files, world_size=1)
    assert [part.batch_size for part in parts] == [8, 4, 2]
    assert {part.tokens_per_update for part in parts} == {2 * 2 * 32}
    windows = [1000 // 8, 2100 // 16, 4000 // 32]
    assert [part.windows_per_epoch for part in parts] == windows
    assert [part.steps for part in parts] == [windows[0] * 3 // 16, windows[1] * 2 // 8, windows[2] // 4]


def test_ranks_share_the_updates(files):
    alone, together = (parts_of(config_of(), files, world_size=n) for n in (1, 2))
    assert [b.steps for b in together] == [a.steps // 2 for a in alone]


def test_tokens_can_be_asked_for_in_place_of_epochs(files):
    stages = [CurriculumStage(name="warmup", dataset_key="d", block_size=8, n_tokens=10_000)]
    (part,) = parts_of(config_of(stages), files, 1)
    assert part.steps == 10_000 // part.tokens_per_update
    assert 10_000 - part.tokens_per_update < part.tokens <= 10_000


def test_a_stage_too_small_for_one_update_is_refused(files):
    stages = [CurriculumStage(name="warmup", dataset_key="d", block_size=512, n_epochs=1)]
    with pytest.raises(UserError, match=r"warmup: 1 x 1 windows do not make one update of 4 windows of 512 tokens"):
        parts_of(config_of(stages), files, 1)
    stages = [CurriculumStage(name="warmup", dataset_key="d", block_size=1000, n_epochs=9)]
    with pytest.raises(UserError, match="has 1,000 tokens, too few for a window of 1000 and the next"):
        parts_of(config_of(stages), files, 1)


def closed_form(t: int, S: int, w: int, peak: float, floor: float) -> float:
    """The learning rate of update t of S, written out once more."""
    if t < w:
        return peak * (t + 1) / (w + 1)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (t - w) / (S - w))))


def test_restarted_learning_rates_are_the_closed_form(files):
    config = config_of(lr=0.5, warmup_steps=2, min_lr_ratio=0.1)
    parts = parts_of(config, files, 1)
    for part in parts:
        w = min(2, part.steps // 10)
        trace = [restart(config, part)(t) for t in range(part.steps)]
        assert trace == pytest.approx([closed_form(t, part.steps, w, 0.5, 0.1) for t in range(part.steps)])
    assert max(min(2, part.steps // 10) for part in parts) == 2
    assert min(min(2, part.steps // 10) for part in parts) < 3


def test_a_continuous_learning_rate_is_one_course_over_all_stages(files):
    config = config_of(lr=0.5, warmup_steps=2, lr_schedule="continuous")
    parts = parts_of(config, files, 1)
    total = sum(part.steps for part in parts)
    trace = [phase.lr(t) for phase in phases(config, parts) for t in range(phase.steps)]
    assert len(trace) == total
    assert trace == pytest.approx([closed_form(t, total, 2, 0.5, 0.1) for t in range(total)])


def test_a_continuous_course_runs_by_tokens_where_updates_differ(files):
    config = config_of(lr_schedule="continuous", warmup_steps=0, lr_decay="linear", min_lr_ratio=0.0, lr=1.0)
    parts = parts_of(config, files, 1)
    doubled = [parts[0], *(type(p)(**{**vars(p), "windows_per_update": 2 * p.windows_per_update}) for p in parts[1:])]
    tokens = sum(p.tokens for p in doubled)
    before = 0
    for number, part in enumerate(doubled):
        for t in (0, part.steps - 1):
            expected = 1 - (before + t * part.tokens_per_update) / tokens
            assert continuous(config, doubled, number)(t) == pytest.approx(expected)
        before += part.tokens


def test_a_stage_may_have_a_peak_of_its_own(files):
    stages = [CurriculumStage(name="warmup", dataset_key="d", block_size=8, lr=0.25)]
    config = config_of(stages, warmup_steps=0)
    assert restart(config, parts_of(config, files, 1)[0])(0) == 0.25


def test_the_position_names_the_stage_that_comes_next(files):
    parts = parts_of(config_of(), files, 1)
    first, second, third = (part.steps for part in parts)
    assert position(parts, 0) == {
        "curriculum_stage_idx": 0,
        "curriculum_stage": "warmup",
        "epoch": 0,
        "stage_iter_num": 0,
        "iter_num": 0,
        "block_size": 8,
    }
    at = position(parts, first - 1)
    assert (at["curriculum_stage_idx"], at["epoch"], at["stage_iter_num"]) == (0, 2, first - 1)
    at = position(parts, first)
    assert (at["curriculum_stage_idx"], at["epoch"], at["stage_iter_num"], at["iter_num"]) == (1, 0, 0, first)
    at = position(parts, first + second + third)
    assert (at["curriculum_stage"], at["stage_iter_num"], at["epoch"]) == ("pretrain", third, 0)


@pytest.mark.parametrize("share", [0.1, 0.5, 1 / 3])
def test_replay_mixes_in_its_share_of_earlier_windows(files, share):
    own, earlier = Windows([files["foundation"]["train"]], 8, 0), Windows([files["warmup"]["train"]], 8, 0)
    source = Replay(own, earlier, share)
    whole = source.batch("train", 0, 400)
    is_earlier = (whole.input_ids[:, 0] >= 65) & (whole.input_ids[:, 0] < 97)  # capitals
    assert is_earlier.sum() == math.floor(400 * share)
    spread = is_earlier.float().cumsum(0) - torch.arange(1, 401) * share
    assert spread.abs().max() <= 1
    n = int(is_earlier.sum())
    assert torch.equal(whole.input_ids[is_earlier], earlier.batch("train", 0, n).input_ids)
    assert torch.equal(whole.input_ids[~is_earlier], own.batch("train", 0, 400 - n).input_ids)
    for start, stop in [(0, 1), (7, 9), (100, 133)]:
        assert torch.equal(source.batch("train", start, stop).input_ids, whole.input_ids[start:stop])


def test_replay_lengthens_the_stage_so_that_its_own_text_is_gone_through(files):
    def stages(replay):
        return [
            CurriculumStage(name="warmup", dataset_key="d", block_size=8),
            CurriculumStage(name="foundation", dataset_key="e", block_size=16, replay=replay),
        ]

    plain, mixed = (parts_of(config_of(stages(replay)), files, 1)[1].steps for replay in (0.0, 0.5))
    assert mixed in (2 * plain, 2 * plain + 1)


def test_updates_with_replay_are_counted_exactly(files):
    stages = [
        CurriculumStage(name="warmup", dataset_key="d", block_size=8),
        CurriculumStage(name="foundation", dataset_key="e", block_size=8, n_epochs=3, replay=0.7),
    ]
    part = parts_of(config_of(stages), files, 1)[1]
    assert (part.steps, part.windows_per_epoch) == (10 * 262 // 4, 262)  # in floats, 3 / (1 - 0.7) is less than 10
    assert [part.epoch(step) for step in (part.steps - 1, part.steps)] == [2, 3]


def test_replay_without_anything_long_enough_is_refused(files):
    stages = [
        CurriculumStage(name="warmup", dataset_key="d", block_size=8, n_epochs=9),
        CurriculumStage(name="foundation", dataset_key="e", block_size=1500, replay=0.1),
    ]
    with pytest.raises(UserError, match="foundation: no earlier stage has a window of 1500 tokens to replay"):
        parts_of(config_of(stages), files, 1)


def test_shuffled_updates_are_the_very_same_updates(files):
    config = config_of()
    parts = parts_of(config, files, 1)

    def updates(source, steps, batch):
        for t in range(steps):
            rows = [source.batch("train", (2 * t + j) * batch, (2 * t + j + 1) * batch).input_ids for j in range(2)]
            yield torch.cat(rows).numpy().tobytes()

    expected = Counter(update for part in parts for update in updates(part.source, part.steps, part.batch_size))
    steps = sum(part.steps for part in parts)
    found = list(updates(Shuffled(parts, 2, seed=0), steps, 1))
    assert Counter(found) == expected
    of_part = {update: part.index for part in parts for update in updates(part.source, part.steps, part.batch_size)}
    changes = np.count_nonzero(np.diff([of_part[update] for update in found]))
    assert changes > steps / 4


def test_file_and_flags_make_one_configuration(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "stages: [{name: a, dataset_key: local-files, block_size: 8}]\ntraining: {lr: 1e-2, batch_size: 3}\n"
    )
    path = str(tmp_path / "c.yaml")
    found = loader.resolve(lambda values: TrainingConfig, path, {"type": path, "batch_size": "5"})
    assert (found.lr, found.batch_size, found.stages[0].name) == (1e-2, 5, "a")
