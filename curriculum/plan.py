"""From stages to phases of the training loop: windows, updates, learning rates; and other orders to compare with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core import rng
from core.batch import Batch, SupervisedBatch
from core.errors import UserError
from core.schedule import factor
from core.source import Source
from core.token_files import TokenFile
from core.trainer import Phase
from core.windows import Permutation, Windows, cut
from curriculum.config import TrainingConfig
from curriculum.stages import CurriculumStage

Files = dict[str, dict[str, TokenFile]]  # by stage and side
WARMUP_SHARE = 10  # a warm-up takes at most a tenth of a stage


class Replay(Source):
    """Windows of a stage, and among them, evenly spread, a share of windows of earlier stages' files."""

    def __init__(self, own: Windows, earlier: Windows, share: float):
        self.own, self.earlier, self.share = own, earlier, share

    def batch(self, split: str, start: int, stop: int) -> Batch | SupervisedBatch:
        replayed = np.floor(np.arange(start, stop + 1) * self.share).astype(np.int64)  # examples before each
        is_own = np.diff(replayed) == 0
        numbers, begins = (np.empty(stop - start, np.int64) for _ in range(2))
        first, last = int(replayed[0]), int(replayed[-1])
        if is_own.any():
            numbers[is_own], begins[is_own] = self.own.places(start - first, stop - last)
        if not is_own.all():
            number, begins[~is_own] = self.earlier.places(first, last)
            numbers[~is_own] = number + len(self.own.files)
        files = [*self.own.files, *self.earlier.files]
        return cut(files, numbers, begins, self.own.length, self.own.document_mask)


@dataclass(frozen=True)
class Part:
    """Updates on the windows of one stage."""

    stage: CurriculumStage
    index: int
    source: Source
    length: int  # of a window
    batch_size: int  # windows per micro-batch, on each rank
    windows_per_update: int  # of all micro-batches and ranks
    windows_per_epoch: int
    steps: int

    @property
    def tokens_per_update(self) -> int:
        return self.windows_per_update * self.length

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_update

    def epoch(self, step: int) -> int:
        """The pass over the stage's own text in which update `step` of the stage begins."""
        return int(step * self.windows_per_update * self.stage.own_share) // self.windows_per_epoch


def parts_of(config: TrainingConfig, files: Files, world_size: int, length: int | None = None) -> list[Part]:
    """The stages as updates; all windows are of `length`, if one is given. Raises UserError for one without any."""
    parts = []
    for index, stage in enumerate(config.stages):
        block = length or stage.block_size
        earlier = [files[other.name]["train"] for other in config.stages[:index]]
        windows, source = windows_of(config, stage, files, earlier, block)
        batch_size = config.batch_size_of(block)
        per_update = batch_size * config.gradient_accumulation_steps * world_size
        if stage.n_tokens is None:
            steps = int(stage.n_epochs * len(windows) / stage.own_share) // per_update
            has = f"{stage.n_epochs} x {len(windows):,} windows"
        else:
            steps = stage.n_tokens // (per_update * block)
            has = f"{stage.n_tokens:,} tokens"
        if steps == 0:
            raise UserError(
                f"{stage.name}: {has} do not make one update of {per_update} windows of {block} tokens; "
                "use a smaller batch_size or gradient_accumulation_steps, or more epochs"
            )
        parts.append(Part(stage, index, source, block, batch_size, per_update, len(windows), steps))
    return parts


def windows_of(
    config: TrainingConfig, stage: CurriculumStage, files: Files, earlier: Sequence[TokenFile], block: int
) -> tuple[Windows, Source]:
    """The windows of a stage's own text, and what it trains on: these, or these with a share of earlier ones."""

    def windows(some: Sequence[TokenFile], name: str) -> Windows:
        return Windows(some, block, config.seed, name=name, document_mask=config.document_mask)

    try:
        own = windows([files[stage.name]["train"]], stage.name)
        if not stage.replay:
            return own, own
        long_enough = [file for file in earlier if len(file) > block]
        if not long_enough:
            raise ValueError(f"no earlier stage has a window of {block} tokens to replay")
        return own, Replay(own, windows(long_enough, f"replay in {stage.name}"), stage.replay)
    except ValueError as error:
        raise UserError(f"{stage.name}: {error}") from error


# --- Learning rates


def warmup_of(config: TrainingConfig, part: Part) -> int:
    return min(config.warmup_steps, part.steps // WARMUP_SHARE)


def course(
    config: TrainingConfig, peak: float, steps: float, warmup: int, before: float = 0.0, pace: float = 1.0
) -> Callable[[int], float]:
    """The learning rate of each update of a phase that begins `before` updates into a course of `steps`."""

    def lr(step: int) -> float:
        at = before + step * pace
        floor = config.min_lr_ratio
        return peak * factor(at, shape=config.lr_decay, steps=steps, warmup=warmup, floor=floor)

    return lr


def restart(config: TrainingConfig, part: Part) -> Callable[[int], float]:
    """A course for the part alone."""
    return course(config, part.stage.lr or config.lr, part.steps, warmup_of(config, part))


def continuous(
    config: TrainingConfig, parts: Sequence[Part], number: int, warmup: int | None = None
) -> Callable[[int], float]:
    """One course for all parts, by tokens, in units of the first one's updates. `warmup`; null: of the first one."""
    unit, part = parts[0].tokens_per_update, parts[number]
    before, total = (sum(p.tokens for p in some) / unit for some in (parts[:number], parts))
    pace = part.tokens_per_update / unit
    warmup = warmup_of(config, parts[0]) if warmup is None else warmup
    return course(config, part.stage.lr or config.lr, total, warmup, before, pace)


def phases(config: TrainingConfig, parts: Sequence[Part], warmup: int | None = None) -> list[Phase]:
    """A phase for each part, in their order. `warmup`: of a continuous course."""
    plan = []
    for number, part in enumerate(parts):
        lr = restart(config, part) if config.lr_schedule == "restart" else continuous(config, parts, number, warmup)
        facts = {"block_size": part.length}
        plan.append(Phase(part.stage.name, part.source, part.steps, part.batch_size, lr, facts=facts))
    return plan


def position(parts: Sequence[Part], step: int) -> dict[str, Any]:
    """Where a run stands after so many updates: the stage that comes next, and how far it is; at the end, the last."""
    done, part = step, parts[0]
    for part in parts:
        if done < part.steps or part is parts[-1]:
            break
        done -= part.steps
    return {
        "curriculum_stage_idx": part.index,
        "curriculum_stage": part.stage.name,
        "epoch": min(part.epoch(done), part.stage.n_epochs - 1) if part.stage.n_tokens is None else part.epoch(done),
        "stage_iter_num": done,
        "iter_num": step,
        "block_size": part.length,
    }


# --- Other orders


class Shuffled(Source):
    """The updates of several parts in random order. An example is a micro-batch, of whichever part its update is of."""

    def __init__(self, parts: Sequence[Part], micro_batches: int, seed: int):
        """`micro_batches`: in an update, over all ranks."""
        self.parts, self.micro_batches = parts, micro_batches
        self._borders = np.cumsum([0, *(part.steps for part in parts)])
        generator = rng.generator("shuffled updates", seed, "train", 0)
        self._order = Permutation(int(self._borders[-1]), generator)

    def batch(self, split: str, start: int, stop: int) -> Batch | SupervisedBatch:
        assert stop == start + 1, "micro-batches of different lengths cannot be stacked"
        update, micro = divmod(start, self.micro_batches)
        number = int(self._order(np.array([update]))[0])
        index = int(np.searchsorted(self._borders, number, side="right")) - 1
        part = self.parts[index]
        first = ((number - int(self._borders[index])) * self.micro_batches + micro) * part.batch_size
        return part.source.batch(split, first, first + part.batch_size)


def shuffled(config: TrainingConfig, parts: Sequence[Part], world_size: int) -> list[Phase]:
    """One phase with the updates of all parts in random order, the same for every `seed`.

    Tokens per update must be the same in all parts.
    """
    steps = sum(part.steps for part in parts)
    source = Shuffled(parts, config.gradient_accumulation_steps * world_size, config.data_seed)
    lr = course(config, config.lr, steps, warmup_of(config, parts[0]))
    return [Phase("shuffled", source, steps, 1, lr)]
