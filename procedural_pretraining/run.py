"""From a checked configuration to a trained model: task, model, plan, and the loop of `core`."""

import math
import os
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from core import checkpoint, hf, plots, tracking, trainer
from core.config import domain, resolve
from core.distributed import World, join, pick_device
from core.errors import UserError
from core.evaluate import Evaluation, Slices
from core.model import GPT
from core.schedule import factor
from core.source import TaskSource
from core.split import TooFewPrompts, draw_block
from core.task import task_class, task_names
from core.trainer import Definition, Phase, Settings
from procedural_pretraining.config import MAY_GROW, PACKAGE, EvaluationConfig, PretrainingConfig, schema
from procedural_pretraining.length_curriculum import LengthCurriculum


def train(config: PretrainingConfig) -> dict[str, Any]:
    """Pretrains, evaluates, saves and draws. Returns the summary that is in `run_dir/summary.json`."""
    check_before_work(config)
    with join(config.device) as world:
        model, source, plan, settings = build(config, world)
        definition = Definition(config.model_dump(), config.identity(world.size), MAY_GROW)
        evaluate = LengthTable(config, source, world)
        summary = trainer.train(model, plan, evaluate, settings, config.run_dir, definition, world)
        if world.is_main:
            report(config, summary, plots.draw_run(config.run_dir))
    return summary


def rehearse(config: PretrainingConfig) -> None:
    """Builds everything, tries a few updates, says what the run would take. Writes nothing.

    A curriculum is tried at its final length, where a run needs the most memory and, sooner or later, the most time.
    """
    check_device(config.device)
    check_splits(config)
    with join(config.device) as world:
        model, source, plan, settings = build(config, world)
        source.task = config.task_at(config.final_length)
        world.say(trainer.rehearse(model, plan, settings, world))


def check_before_work(config: PretrainingConfig) -> None:
    """Raises UserError for what a schema cannot know: the machine, the folder, splits without prompts."""
    check_device(config.device)
    if config.wandb_enable:
        tracking.check_wandb()
    check_splits(config)
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
        probe = config.run_dir / ".lock"
        probe.touch()
    except OSError as error:
        raise UserError(f"save_dir: {config.run_dir} cannot be written: {error.strerror}") from error


def check_device(device: str | int) -> None:
    try:
        pick_device(device)
    except ValueError as error:
        raise UserError(f"device: {error}") from error


def check_splits(config: PretrainingConfig) -> None:
    trained = [(length, split) for length in config.training_lengths for split in ("train", "validation")]
    for length, split in [*trained, *((length, "validation") for length in config.eval_lengths)]:
        try:
            draw_block(config.task_at(length), config.seed, split, 0)
        except TooFewPrompts as error:
            raise UserError(str(error)) from error


def build(config: PretrainingConfig, world: World) -> tuple[GPT, TaskSource, list[Phase], Settings]:
    model = GPT(config.model_shape, seed=config.seed)
    source = build_source(config, world)
    course = partial(
        factor,
        shape=config.lr_schedule,
        steps=config.total_steps,
        warmup=config.warmup_steps,
        floor=config.min_lr_ratio,
    )
    plan = [Phase(config.task, source, config.total_steps, config.batch_size, lambda step: config.lr * course(step))]
    on_gpu = world.device.type == "cuda"
    settings = Settings(
        seed=config.seed,
        accumulation=config.gradient_accumulation_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        precision=config.precision if config.precision != "auto" else "bf16" if on_gpu else "fp32",
        compile=config.compile,
        log_every=config.log_every_steps,
        eval_every=config.eval_every,
        save_every=config.save_every_steps,
        save_steps=config.save_steps,
        save_total_limit=config.save_total_limit,
        patience=config.patience,
        workers=config.num_workers,
        resume=config.resume,
        pad_token=source.task.pad_token,
        wandb=wandb_arguments(config),
    )
    return model, source, plan, settings


def build_source(config: PretrainingConfig, world: World) -> TaskSource:
    task = config.task_at()
    if not (config.use_curriculum or config.stop_at_mastery):
        return TaskSource(task, config.seed)
    return LengthCurriculum(
        task,
        config.seed,
        config.training_lengths,
        config.curriculum_mastery_threshold,
        config.curriculum_step_epochs * config.steps_per_epoch,
        config.stop_at_mastery,
        world.say,
    )


def wandb_arguments(config: PretrainingConfig) -> dict[str, Any] | None:
    if not config.wandb_enable:
        return None
    resume = {"id": config.resume_run_id, "resume": "must"} if config.resume_run_id else {}
    return {
        "project": config.wandb_project,
        "name": config.wandb_name,
        "mode": config.wandb_mode,
        "dir": str(config.run_dir),
        "config": config.model_dump(),
        **resume,
    }


class LengthTable:
    """Validation at the length now trained on, and at each of `eval_lengths`."""

    def __init__(self, config: PretrainingConfig, source: TaskSource, world: World):
        def evaluation(length: int) -> Evaluation:
            task = config.task_at(length)
            examples = config.eval_examples
            return Evaluation.of_task(task, config.seed, "validation", examples, config.batch_size, world)

        self._at = lru_cache(1 + len(config.eval_lengths))(evaluation)  # a length that was outgrown is not kept
        self._source, self._lengths = source, config.eval_lengths

    def __call__(self, model: GPT) -> Slices:
        current = self._source.task.model_dump()["seq_length"]
        slices = [({"split": "validation", "seq_length": current}, self._at(current)(model))]
        for length in self._lengths:
            where = {"split": "validation", "slice": "length", "seq_length": length}
            slices.append((where, self._at(length)(model)))
        return slices


def report(config: PretrainingConfig, summary: dict[str, Any], plot: Path) -> None:
    print(f"\n{summary['stopped']} after {summary['step']} updates, {summary['tokens']:,} tokens")
    print(table(summary["evaluation"]))
    print(f"checkpoint  {summary['checkpoint']}")
    for name, path in [("metrics", config.run_dir / "metrics.jsonl"), ("curves", plot)]:
        print(f"{name:<11} {path}")


def table(rows: list[dict[str, Any]]) -> str:
    """Metrics as aligned columns, a line for each slice."""
    columns = ["seq_length", *dict.fromkeys(key for row in rows for key, v in row.items() if isinstance(v, float))]
    lines = [columns] + [[_cell(row.get(column, math.nan)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cell(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def evaluate(config: EvaluationConfig) -> list[dict[str, Any]]:
    """Measures a checkpoint on the task of its run, prints a table and returns its rows."""
    check_device(config.device)
    folder = Path(os.path.expanduser(config.checkpoint))
    run_config = folder.resolve().parent / "config.yaml"
    if not run_config.exists():
        raise UserError(f"checkpoint: {run_config} does not exist; {folder} is no checkpoint of a run")
    problem = checkpoint.damage(folder)
    if problem:
        raise UserError(f"checkpoint: {folder} is damaged: {problem}")
    run = resolve(schema, str(run_config), {})
    rows = []
    with join(config.device) as world:
        model = hf.load(folder).to(world.device)
        for length in [run.final_length, *config.eval_lengths]:
            try:
                task = run.task_at(length)
            except ValueError as error:
                raise UserError(f"eval_lengths: {error}") from error
            if task.block_size > model.config.n_positions:
                has = model.config.n_positions
                raise UserError(f"eval_lengths: {length} needs {task.block_size} positions, the model has {has}")
            try:
                measure = Evaluation.of_task(task, run.seed, config.split, config.examples, config.batch_size, world)
            except TooFewPrompts as error:
                raise UserError(str(error)) from error
            rows.append({"split": config.split, "seq_length": length, **measure(model)})
    world.say(table(rows))
    return rows


def list_tasks() -> None:
    """Prints every task with its parameters."""
    for name in task_names(PACKAGE):
        kind = task_class(PACKAGE, name)
        print(f"{name}: {(kind.__doc__ or '').strip().splitlines()[0]}")
        for key, field in kind.model_fields.items():
            print(f"    {key} = {field.default}  ({domain(field)}) {field.description or ''}")
