"""From a checked configuration to a trained model: task, model, plan, and the loop of `core`."""

from functools import lru_cache
from typing import Any

from tqdm import tqdm

from core import hf, plots, rehearsal
from core.config import home
from core.distributed import World, join
from core.errors import UserError
from core.evaluate import Asking, Evaluation, Slices, by_group
from core.model import GPT, LanguageModel
from core.replicas import Replica, carry_out
from core.report import report, table
from core.run_config import check_device, of_checkpoint
from core.source import TaskSource
from core.split import check_prompts, draw_block
from core.trainer import Definition, Phase, Settings
from procedural_pretraining.config import MAY_GROW, EvaluationConfig, PretrainingConfig, schema
from procedural_pretraining.length_curriculum import LengthCurriculum

LABELS = ("seq_length", "part")


def train(config: PretrainingConfig) -> list[dict[str, Any]]:
    """Pretrains, evaluates, saves and draws. Returns the summary that is in `run_dir/summary.json`, of each seed."""
    check_device(config.device)
    for one in config.of_each_seed():
        check_splits(one)
    return carry_out(config, prepare, LABELS)


def prepare(config: PretrainingConfig, world: World) -> Replica:
    model, source, plan, settings = build(config, world)
    definition = Definition(config.model_dump(), config.identity(world.size), MAY_GROW)

    def conclude(summary: dict[str, Any]) -> None:
        if world.is_main:
            report(config.run_dir, summary, [plots.draw_run(config.run_dir)], LABELS)

    evaluate = LengthTable(config, source, world)
    return Replica(model, plan, evaluate, settings, config.run_dir, definition, conclude)


def rehearse(config: PretrainingConfig) -> None:
    """Builds everything, tries a few updates, says what the run would take. Writes nothing.

    A curriculum is tried at its final length, where a run needs the most memory and, sooner or later, the most time.
    """
    check_device(config.device)
    check_splits(config)
    with config.join() as world:
        model, source, plan, settings = build(config, world)
        source.task = config.task_at(config.final_length)
        world.say(rehearsal.rehearse(model, plan, settings, world, seeds=config.seeds))


def check_splits(config: PretrainingConfig) -> None:
    """Raises UserError if there are too few prompts to be divided."""
    trained = [(length, split) for length in config.training_lengths for split in ("train", "validation")]
    splits = [*trained, *((length, "validation") for length in config.eval_lengths)]
    for length, split in tqdm(splits, desc="are there prompts of each length?", unit="split", delay=2, leave=False):
        check_prompts(config.task_at(length), config.seed, split)


def build(config: PretrainingConfig, world: World) -> tuple[GPT, TaskSource, list[Phase], Settings]:
    model = GPT(config.model_shape, seed=config.seed)
    source = build_source(config, world)
    plan = [Phase(config.task, source, config.total_steps, config.batch_size, config.lr_at)]
    settings = config.settings(world.device, patience=config.patience, pad_token=source.task.pad_token)
    return model, source, plan, settings


def build_source(config: PretrainingConfig, world: World) -> TaskSource:
    if not (config.use_curriculum or config.stop_at_mastery):
        return TaskSource(config.task_at(), config.seed)
    return LengthCurriculum(
        config.task_at,
        config.seed,
        config.training_lengths,
        config.curriculum_mastery_threshold,
        config.curriculum_step_epochs * config.steps_per_epoch,
        config.stop_at_mastery,
        lambda text: world.say(f"{config.run_dir}: {text}"),  # seeds trained at once grow each for itself
    )


class LengthTable:
    """Validation at the length now trained on, and at each of `eval_lengths`; of a mixture, also by part."""

    def __init__(self, config: PretrainingConfig, source: TaskSource, world: World):
        def evaluations(length: int | None) -> dict[str, Evaluation]:
            return by_group(
                config.task_at(length), config.seed, "validation", config.eval_examples, config.batch_size, world
            )

        self._at = lru_cache(1 + len(config.eval_lengths))(evaluations)  # a length that was outgrown is not kept
        self._source, self._config = source, config

    def __call__(self, model: LanguageModel, step: int) -> Asking[Slices]:
        source = self._source
        current = source.length if isinstance(source, LengthCurriculum) else self._config.final_length
        slices = list((yield from self._measure(current, {"split": "validation"})))
        for length in self._config.eval_lengths:
            slices += yield from self._measure(length, {"split": "validation", "slice": "length"})
        return slices

    def _measure(self, length: int | None, where: dict[str, int | str]) -> Asking[Slices]:
        where = where | ({} if length is None else {"seq_length": length})
        slices = []
        for part, measure in self._at(length).items():
            slices.append((where | ({"slice": "part", "part": part} if part else {}), (yield measure)))
        return slices


def evaluate(config: EvaluationConfig) -> list[dict[str, Any]]:
    """Measures a checkpoint on the task of its run, prints a table and returns its rows."""
    check_device(config.device)
    folder = home(config.checkpoint)
    run = of_checkpoint(folder, schema)
    lengths = [run.final_length, *config.eval_lengths]
    try:
        tasks = [run.task_at(length) for length in lengths]
    except ValueError as error:
        raise UserError(f"eval_lengths: {error}") from error
    model = hf.load(folder, length=max(task.block_size for task in tasks))
    for length, task in zip(lengths, tasks, strict=True):
        if task.block_size > model.config.n_positions:
            has = model.config.n_positions
            raise UserError(f"eval_lengths: {length} needs {task.block_size} positions, the model has {has}")
        draw_block(task, run.seed, config.split, 0)  # raises UserError if there are none
    rows = []
    with join(config.device) as world:
        model = model.to(world.device)
        for length, task in zip(lengths, tasks, strict=True):
            where = {"split": config.split} | ({} if length is None else {"seq_length": length})
            for part, measure in by_group(
                task, run.seed, config.split, config.examples, config.batch_size, world
            ).items():
                rows.append({**where, **({"part": part} if part else {}), **measure(model)})
    world.say(table(rows, LABELS))
    return rows
