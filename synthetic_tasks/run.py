"""From a checked configuration to a trained model, and to what it has learned."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core import checkpoint, hf, plots, rehearsal, trainer
from core.config import home
from core.distributed import World, join
from core.errors import UserError
from core.evaluate import Asking, Slices, by_group
from core.files import write_json
from core.model import GPT, LanguageModel
from core.replicas import Replica, carry_out
from core.report import report, table
from core.run_config import check_device, of_checkpoint
from core.show import View, inspect
from core.source import TaskSource
from core.split import SHARES, draw_block
from core.trainer import Definition, Phase, Settings
from synthetic_tasks._curve_config import CurveConfig
from synthetic_tasks._exam import LABELS, Row, Sheet, examine
from synthetic_tasks._example_task import ExampleTask
from synthetic_tasks.config import MAY_GROW, ExamConfig, ExamOfTask, InspectConfig, SyntheticConfig, schema
from synthetic_tasks.depo import DepoTask
from synthetic_tasks.models.recurrent_olmo3 import RecurrentOLMo3


def train(config: SyntheticConfig) -> list[dict[str, Any]]:
    """Trains, examines, saves and draws. Returns the summary that is in `run_dir/summary.json`, of each seed."""
    check_device(config.device)
    for one in config.of_each_seed():
        check_splits(one)
    return carry_out(config, prepare, ("split", "part"))


def prepare(config: SyntheticConfig, world: World) -> Replica:
    model, plan, settings = build(config, world)
    definition = Definition(config.model_dump(), config.identity(world.size), MAY_GROW)

    def conclude(summary: dict[str, Any]) -> None:
        if world.is_main:
            world.say("measuring")
            sheet = Sheet(config.seed, "test", config.exam_examples, config.batch_size)
            summary["exam"] = examine(config.example_task, model, sheet)
            write_json(config.run_dir / "summary.json", summary)
            report(config.run_dir, summary, [plots.draw_run(config.run_dir)], ("split", "part"))
            print(table(summary["exam"], LABELS))

    return Replica(model, plan, validation(config, world), settings, config.run_dir, definition, conclude)


def rehearse(config: SyntheticConfig) -> None:
    """Builds everything, tries a few updates, says what the run would take. Writes nothing."""
    check_device(config.device)
    check_splits(config)
    with config.join() as world:
        world.say(rehearsal.rehearse(*build(config, world), world, seeds=config.seeds))


def check_splits(config: SyntheticConfig) -> None:
    """Raises UserError if there are too few prompts to be divided."""
    for split in SHARES:
        draw_block(config.example_task, config.seed, split, 0)


def build(config: SyntheticConfig, world: World) -> tuple[GPT, list[Phase], Settings]:
    task = config.example_task
    source = TaskSource(task, config.seed)
    plan = [Phase(config.task, source, config.max_steps, config.batch_size, config.lr_at, pack_to=config.pack_to)]
    settings = config.settings(world.device, pad_token=task.pad_token)
    return GPT(config.model_shape, seed=config.seed), plan, settings


def validation(config: SyntheticConfig, world: World) -> trainer.Evaluate:
    task = config.example_task
    measured = by_group(task, config.seed, "validation", config.eval_examples, config.batch_size, world)

    def evaluate(model: LanguageModel, step: int) -> Asking[Slices]:
        slices: list[tuple[dict[str, int | str], dict[str, float]]] = []
        for part, measure in measured.items():
            where: dict[str, int | str] = {"slice": "part", "part": part} if part else {}
            slices.append(({"split": "validation", **where}, (yield measure)))
        return slices

    return evaluate


def evaluate(config: ExamConfig) -> list[Row]:
    """Measures a checkpoint as the paper does, on the task of its run or the one given. Prints a table."""
    check_device(config.device)
    folder = home(config.checkpoint)
    if isinstance(config, ExamOfTask):
        task, seed = config.example_task, config.seed or 0
    else:
        run = of_checkpoint(folder, lambda keys: CurveConfig if "dataset" in keys else schema(keys))
        task, seed = run.example_task, run.seed if config.seed is None else config.seed
        check_grammar(run, folder)
    check_hops(task, config.hops)
    model = load(folder)
    if task.num_tokens > model.num_tokens or task.block_size > model.n_positions:
        has = f"{model.num_tokens} tokens and {model.n_positions} positions"
        raise UserError(
            f"checkpoint: task {task.name} needs {task.num_tokens} and {task.block_size}, {folder} has {has}"
        )
    with join(config.device) as world:
        sheet = Sheet(seed, config.split, config.examples, config.batch_size)
        rows = examine(task, model.to(world.device), sheet, config.hops)
        world.say(table(rows, LABELS))
    return rows


def check_grammar(run: CurveConfig | SyntheticConfig, checkpoint_folder: Path) -> None:
    """Raises UserError if the file of the run's grammar no longer says what it said in training."""
    now = run.identity(world_size=1).get("grammar")
    if checkpoint.read_state(checkpoint_folder)["identity"].get("grammar", now) != now:
        raise UserError(f"config_path: the grammar in this file has changed since {checkpoint_folder} was trained")


def check_hops(task: ExampleTask, hops: Sequence[int]) -> None:
    """Raises UserError for numbers of steps that the task cannot be asked for."""
    if hops and not isinstance(task, DepoTask):
        raise UserError(f"hops: only Depo asks for them, and this task is {task.name}; leave them out")
    if isinstance(task, DepoTask) and max(hops, default=0) > task.K:
        raise UserError(f"hops: {max(hops)} steps are never asked for by this task, whose K is {task.K}; use fewer")


def load(folder: Path) -> LanguageModel:
    """The model of a checkpoint. Raises UserError."""
    if problem := checkpoint.missing(folder):
        raise UserError(f"checkpoint: {problem}")
    try:
        config = json.loads((folder / "config.json").read_text())
        return RecurrentOLMo3.from_pretrained(folder) if "recurrent" in config else hf.load(folder)
    except hf.UnreadableModel as error:
        raise UserError(f"checkpoint: {error}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint: {folder} holds no readable model: {error}") from error


def look(config: InspectConfig) -> None:
    """Prints examples of a task."""
    inspect(View.of_task(config.dataset.task, config.seed), config)
