"""Accuracy by hop in the course of training: `curve`."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core import rehearsal, trainer
from core.batch import Batch, concatenate
from core.distributed import World
from core.errors import UserError
from core.evaluate import Slices
from core.files import write_whole
from core.model import LanguageModel
from core.plots import draw_panels
from core.report import report
from core.run_config import check_device
from core.source import TaskSource, Verdict
from core.trainer import Definition, Phase, Settings
from synthetic_tasks._curve_config import MAY_GROW, CurveConfig, TinyGPT2
from synthetic_tasks._exam import Row, Sheet, hop_accuracy
from synthetic_tasks.depo import DepoTask

COLUMNS = ("step", "examples_seen", "hop", "accuracy", "first_token", "token")


def train(config: CurveConfig) -> dict[str, Any]:
    """Trains and measures by turns; writes a CSV on the way and a plot at the end. Returns the run's summary."""
    check_device(config.device)
    with config.join() as world:
        model, plan, settings = build(config, world)
        config.check_machine()
        table = HopTable(config, world)
        definition = Definition(config.model_dump(), config.identity(world.size), MAY_GROW)
        summary = trainer.train(model, plan, table, settings, config.run_dir, definition, world)
        if world.is_main:
            plot = draw(config.run_dir / config.metrics_file, config.run_dir / config.plot_file)
            report(config.run_dir, summary, [plot], ("split", "hop"))
            print(f"{'by hop':<11} {config.run_dir / config.metrics_file}")
    return summary


def rehearse(config: CurveConfig) -> None:
    """Builds everything, tries a few updates, says what the run would take. Writes nothing."""
    check_device(config.device)
    with config.join() as world:
        world.say(rehearsal.rehearse(*build(config, world), world))


class Examples(TaskSource):
    """Training examples of Depo: always new ones, or the first `count` again and again; all for K steps, or growing.

    Growing, they begin with the first of `growing` as K. As often as an evaluation finds the present K mastered, the
    next one takes its place; the last is K of the task.
    """

    task: DepoTask

    def __init__(self, task: DepoTask, seed: int, count: int | None, growing: Sequence[int] = ()):
        super().__init__(task.replace(K=growing[0]) if growing else task, seed)
        self._count, self._growing = count, growing

    def batch(self, split: str, start: int, stop: int) -> Batch:
        if self._count is None or split != "train":
            return super().batch(split, start, stop)
        parts = []
        while start < stop:
            first = start % self._count
            size = min(stop - start, self._count - first)
            parts.append(super().batch(split, first, first + size))
            start += size
        return concatenate(parts, self.task.pad_token)

    def on_evaluation(self, step: int, metrics: dict[str, float]) -> Verdict:
        K = self.task.K
        if not self._growing or self._growing[-1] == K or metrics["mastered"] < K:
            return Verdict.GO_ON
        self.task = self.task.replace(K=self._growing[self._growing.index(K) + 1])
        return Verdict.CHANGED

    def state_dict(self) -> dict[str, Any]:
        return {"K": self.task.K}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task = self.task.replace(K=state["K"])


def build(config: CurveConfig, world: World) -> tuple[LanguageModel, list[Phase], Settings]:
    """Raises UserError if the model is too small for the task."""
    task, model = config.dataset, config.model.build(config.seed)
    if model.num_tokens < task.num_tokens or model.n_positions < task.block_size:
        has = f"{model.num_tokens} token ids and {model.n_positions} positions"
        raise UserError(f"model: has {has}, but dataset needs {task.num_tokens} and {task.block_size}")
    count = config.num_examples if config.num_examples > 0 else None
    growing = [] if config.grow_hops is None else sorted({*config.eval.hops, task.K})
    source = Examples(task, config.seed, count, growing)
    plan = [Phase("depo", source, config.max_steps, config.batch_size, config.lr_at)]
    settings = config.settings(
        world.device,
        seed=config.seed,
        accumulation=config.gradient_accumulation_steps,
        weight_decay=config.weight_decay,
        eval_every=config.eval_every_steps,
        save_every=config.save_every_steps,
        starts_blind=isinstance(config.model, TinyGPT2),
        pad_token=task.pad_token,
    )
    return model, plan, settings


class HopTable:
    """Measures a model by hop, and keeps the CSV up to date: after a resume, without what came after the checkpoint."""

    def __init__(self, config: CurveConfig, world: World):
        self._config, self._world = config, world
        self._path = config.run_dir / config.metrics_file

    def __call__(self, model: LanguageModel, step: int) -> Slices:
        config, asked = self._config, self._config.eval
        seed = config.seed + asked.seed_offset + (step * asked.seed_stride if asked.resample_each_eval else 0)
        sheet = Sheet(seed, "validation", asked.num_examples_per_hop, asked.batch_size)
        rows = hop_accuracy(config.measured_task, model, sheet, asked.hops)
        if self._world.is_main:
            seen = step * config.batch_size * config.gradient_accumulation_steps * self._world.size
            write(self._path, step, [{"step": step, "examples_seen": seen, **row} for row in rows])
        mean = {name: sum(row[name] for row in rows) / len(rows) for name in ("loss", "accuracy", "token")}
        if config.grow_hops is not None:
            mean["mastered"] = max((row["hop"] for row in rows if row["accuracy"] >= config.grow_hops), default=0)
        slices: list[tuple[dict[str, int | str], dict[str, float]]] = [({"split": "validation"}, mean)]
        for row in rows:
            where = {"split": "validation", "slice": "hop", "hop": row["hop"]}
            slices.append((where, {name: row[name] for name in ("loss", "accuracy", "first_token", "token")}))
        return slices


def write(path: Path, step: int, rows: list[Row]) -> None:
    """The CSV's rows of earlier updates, and these."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(row for row in read(path) if int(row["step"]) < step)
    table.writerows(rows)
    write_whole(path, text.getvalue())


def read(path: Path) -> list[Row]:
    """The rows that are there, values as text; none without a file."""
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def draw(metrics: Path, path: Path) -> Path:
    """A line of accuracy over the examples seen for each number of steps."""
    rows = read(metrics)

    def by_hop(axis: Any) -> None:
        for hop in sorted({int(row["hop"]) for row in rows}):
            mine = [(int(row["examples_seen"]), float(row["accuracy"])) for row in rows if int(row["hop"]) == hop]
            axis.plot(*zip(*mine, strict=True), marker=".", label=f"{hop} step" + "s" * (hop > 1))
        axis.set_ylim(-0.03, 1.03)
        axis.set_ylabel("answers all right")

    return draw_panels([by_hop], path, title="Depo by number of steps", across="examples seen")
