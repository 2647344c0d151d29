"""From a checked configuration to a model trained on an algorithmic task: transfer, plan, the loop of `core`, test."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from core import plots, rehearsal, transfer
from core.distributed import World
from core.errors import UserError
from core.evaluate import Slices
from core.files import write_whole
from core.model import GPT, LanguageModel
from core.replicas import Replica, carry_out
from core.report import report
from core.run_config import check_device
from core.schedule import factor
from core.show import View, inspect
from core.split import SHARES, draw_block
from core.task_verbs import export_task
from core.trainer import Definition, Phase, Settings
from downstream.algorithmic_tasks.config import MAY_GROW, AlgorithmicConfig, LookConfig, WriteConfig, parse
from downstream.algorithmic_tasks.exam import Exam, QuestionSource

LABELS = ("split", "questions")


def train(config: AlgorithmicConfig) -> list[dict[str, Any]]:
    """Transfers, trains, tests, saves and draws. Returns the summary in `run_dir/summary.json`, of each seed."""
    check_device(config.device)
    for one in config.of_each_seed():
        check_splits(one)
    return carry_out(config, prepare, LABELS)


def prepare(config: AlgorithmicConfig, world: World) -> Replica:
    model, fates = build_model(config)
    config.check_machine()
    announce(fates, world)
    plan, settings = build_plan(config, world)
    exam = partial(Exam, config.question, config.seed, batch_size=config.micro_batch, world=world)
    validation = exam(split="validation", examples=config.validation_size)

    def evaluate(model: LanguageModel, step: int) -> Slices:
        return [({"split": "validation"}, validation(model))]

    def conclude(summary: dict[str, Any]) -> None:
        test = exam(split="test", examples=config.eval_size)(model)
        summary["evaluation"].append({"split": "test", **test})
        summary["transfer"] = fates.rows()
        if world.is_main:
            write_whole(config.run_dir / "summary.json", json.dumps(summary, indent=2) + "\n")
            report(config.run_dir, summary, [plots.draw_run(config.run_dir)], LABELS)

    definition = Definition(config.model_dump(), config.identity(world.size), MAY_GROW)
    return Replica(model, plan, evaluate, settings, config.run_dir, definition, conclude)


def rehearse(config: AlgorithmicConfig) -> None:
    """Builds everything, tries a few updates, says what the run would take. Writes nothing."""
    check_device(config.device)
    check_splits(config)
    with config.join() as world:
        model, fates = build_model(config)
        announce(fates, world)
        world.say(rehearsal.rehearse(model, *build_plan(config, world), world))


def announce(fates: transfer.Report, world: World) -> None:
    if not fates.says_nothing:
        world.say(str(fates))


def check_splits(config: AlgorithmicConfig) -> None:
    """Raises UserError if the task has too few questions to be divided."""
    for split in SHARES:
        draw_block(config.question, config.seed, split, 0)


def build_model(config: AlgorithmicConfig) -> tuple[GPT, transfer.Report]:
    """The model with what is transferred, and what is frozen. Raises UserError for what does not fit."""
    parts = [transfer.Part(transfer.read(path, key), some, key) for key, path, some in config.sources]
    try:
        shape = config.shape(parts[0].source if parts else None)
    except ValueError as error:
        raise UserError(str(error)) from error
    model = GPT(shape, seed=config.seed)
    chosen = transfer.Transfer(
        parts,
        embedding=config.embedding_init_strategy,
        trained=config.weights_to_be_trained,
        control=config.transfer_control,
        seed=config.seed,
    )
    return model, transfer.apply(model, chosen)


def build_plan(config: AlgorithmicConfig, world: World) -> tuple[list[Phase], Settings]:
    course: Callable[[int], float] = partial(
        factor,
        shape=config.lr_schedule,
        steps=config.updates,
        warmup=config.warmup,
        floor=config.min_lr_ratio,
    )
    source = QuestionSource(config.question, config.seed, config.mask)
    rate = config.learning_rate
    plan = [Phase(config.task, source, config.updates, config.micro_batch, lambda step: rate * course(step))]
    settings = config.settings(
        world.device,
        seed=config.seed,
        accumulation=config.gradient_accumulation_steps,
        weight_decay=config.weight_decay,
        eval_every=config.eval_every,
        save_every=config.save_steps,
        starts_blind=not config.sources,
        pad_token=config.question.pad_token,
    )
    return plan, settings


def look(config: LookConfig) -> None:
    """Prints examples of a task."""
    inspect(View.of_task(parse(config.task), config.seed), config)


def write(config: WriteConfig) -> None:
    """Writes examples of a task to files."""
    export_task(parse(config.task), config.seed, config)
