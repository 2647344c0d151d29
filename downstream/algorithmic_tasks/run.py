"""From a checked configuration to a model trained on an algorithmic task: transfer, plan, the loop of `core`, test."""

from functools import partial
from typing import Any

from core import plots, rehearsal
from core.distributed import World
from core.evaluate import Asking, Slices
from core.files import write_json
from core.model import LanguageModel
from core.replicas import Replica, carry_out
from core.report import report
from core.run_config import check_device
from core.show import View, inspect
from core.split import SHARES, draw_block
from core.task_verbs import export_task
from core.trainer import Definition, Phase, Settings
from downstream.adaptation import announce, build_model, identity, read_parts
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
    parts = read_parts(config)
    model, fates = build_model(config, parts, config.shape)
    announce(fates, world)
    plan, settings = build_plan(config, world)
    exam = partial(Exam, config.question, config.seed, batch_size=config.micro_batch, world=world)
    validation = exam(split="validation", examples=config.validation_size)

    def evaluate(model: LanguageModel, step: int) -> Asking[Slices]:
        return [({"split": "validation"}, (yield from validation.asking()))]

    def conclude(summary: dict[str, Any]) -> None:
        test = exam(split="test", examples=config.eval_size)(model)
        summary["evaluation"].append({"split": "test", **test})
        summary["transfer"] = fates.rows()
        if world.is_main:
            write_json(config.run_dir / "summary.json", summary)
            report(config.run_dir, summary, [plots.draw_run(config.run_dir)], LABELS)

    definition = Definition(config.model_dump(), identity(config, parts, world), MAY_GROW)
    return Replica(model, plan, evaluate, settings, config.run_dir, definition, conclude)


def rehearse(config: AlgorithmicConfig) -> None:
    """Builds everything, tries a few updates, says what the run would take. Writes nothing."""
    check_device(config.device)
    check_splits(config)
    with config.join() as world:
        model, fates = build_model(config, read_parts(config), config.shape)
        announce(fates, world)
        world.say(rehearsal.rehearse(model, *build_plan(config, world), world, seeds=config.seeds))


def check_splits(config: AlgorithmicConfig) -> None:
    """Raises UserError if the task has too few questions to be divided."""
    for split in SHARES:
        draw_block(config.question, config.seed, split, 0)


def build_plan(config: AlgorithmicConfig, world: World) -> tuple[list[Phase], Settings]:
    source = QuestionSource(config.question, config.seed, config.mask)
    plan = [Phase(config.task, source, config.updates, config.micro_batch, config.lr_at)]
    return plan, config.settings(world.device, pad_token=config.question.pad_token)


def look(config: LookConfig) -> None:
    """Prints examples of a task."""
    inspect(View.of_task(parse(config.task), config.seed), config)


def write(config: WriteConfig) -> None:
    """Writes examples of a task to files."""
    export_task(parse(config.task), config.seed, config)
