"""What the verbs do that need a model: train through the stages, resume, say where a run stands, generate."""

import shlex
from functools import partial
from pathlib import Path
from typing import Any

import torch

from core import checkpoint, hf, rehearsal, tokenizer
from core.config import home
from core.distributed import World, join
from core.errors import UserError
from core.generate import continuations
from core.model import GPT
from core.replicas import Replica, carry_out
from core.report import report, table
from core.run_config import check_device, of_checkpoint
from core.tokenizer import Tokenizer
from core.tracking import read_metrics
from core.trainer import Definition
from curriculum import plots
from curriculum.config import AblationConfig, GenerateConfig, StatusConfig, TrainingConfig
from curriculum.data import open_files, paths_of
from curriculum.evaluation import Validation, encoded
from curriculum.plan import Files, Part, parts_of, phases, position
from curriculum.stages import TYPES

LABELS = ("stage", "block_size")


def start(config: TrainingConfig) -> list[dict[str, Any]]:
    """Trains from scratch; with the key `resume`, which jobs that are requeued have, goes on if there is a checkpoint.

    Raises UserError, before anything is written, for whatever is missing or cannot be.
    """
    for one in config.of_each_seed():
        if steps := checkpoint.list_steps(one.run_dir):
            if config.resume:
                check_resumable(one)
                continue
            again = f"python -m curriculum.cli resume --type {shlex.quote(config.type)}"
            raise UserError(f"{one.run_dir} already holds a run (checkpoint-{steps[-1]}); go on with: {again}")
    return train(config)


def resume(config: TrainingConfig) -> list[dict[str, Any]]:
    """Goes on from the newest intact checkpoint of each seed. Raises UserError without any, or if it is of another
    curriculum."""
    each = config.of_each_seed()
    for one in [one for one in each if checkpoint.list_steps(one.run_dir)] or each:  # a kill may come before some saved
        check_resumable(one)
    return train(config.model_copy(update={"resume": True}))


def check_resumable(config: TrainingConfig) -> None:
    """Raises UserError unless the folder holds an intact checkpoint of a run of this type."""
    run_dir, begin = config.run_dir, f"begin with: python -m curriculum.cli start --type {shlex.quote(config.type)}"
    step = checkpoint.newest_intact(run_dir, say=lambda text: None)
    if step is None:
        if checkpoint.list_steps(run_dir):
            raise UserError(f"{run_dir} has no intact checkpoint to resume; move its checkpoint-* away and {begin}")
        raise UserError(f"{run_dir} has no checkpoint to resume; {begin}")
    saved = checkpoint.read_state(checkpoint.folder(run_dir, step))["identity"].get("type")
    if saved != type_name(config):
        raise UserError(f"type: the run in {run_dir} was started with {saved!r}, now it is {type_name(config)!r}")


def type_name(config: TrainingConfig) -> str:
    """The type, without the folder and the ending if it is a file."""
    return config.type if config.type in TYPES else Path(config.type).stem


def train(config: TrainingConfig) -> list[dict[str, Any]]:
    """Trains through all stages, evaluates, saves and draws. Returns the summary of each seed."""
    check_device(config.device)
    chosen = tokenizer.load(config.tokenizer)
    files = open_files(config, chosen)
    parts_of(config, files, 1)  # whatever cannot be, before a folder is made
    return carry_out(config, partial(prepare, files=files, tokenizer=chosen), LABELS)


def prepare(config: TrainingConfig, world: World, files: Files, tokenizer: Tokenizer) -> Replica:
    parts = parts_of(config, files, world.size)
    model = GPT(config.shape(tokenizer.num_tokens), seed=config.seed)
    world.say(f"{model.num_parameters():,} parameters\n{describe(parts)}")
    ends = [sum(part.steps for part in parts[:number]) for number in range(1, len(parts) + 1)]
    settings = config.settings(world.device, milestones=ends)
    definition = Definition(config.model_dump(), identity(config, files, world), position=partial(position, parts))

    def conclude(summary: dict[str, Any]) -> None:
        if world.is_main:
            report(config.run_dir, summary, [plots.draw_run(config.run_dir)], LABELS)

    evaluate = Validation(config, files, tokenizer, world)
    return Replica(model, phases(config, parts), evaluate, settings, config.run_dir, definition, conclude)


def identity(config: TrainingConfig, files: Files, world: World) -> dict[str, Any]:
    """What a resumed run must have the same of; the data by its hashes."""
    hashes = {file.path.name: file.digest[:16] for sides in files.values() for file in sides.values()}
    return {**config.identity(world.size), "type": type_name(config), **hashes}


def describe(parts: list[Part]) -> str:
    rows = [
        {
            "stage": part.stage.name,
            "block_size": part.length,
            "epochs": "-" if part.stage.n_tokens else part.stage.n_epochs,
            "windows": f"{part.windows_per_epoch:,}",
            "updates": f"{part.steps:,}",
            "tokens per update": f"{part.tokens_per_update:,}",
            "tokens": f"{part.tokens:,}",
        }
        for part in parts
    ]
    return table(rows, list(rows[0]))


def rehearse(config: TrainingConfig) -> None:
    """Builds everything, tries a few updates of the longest stage, says what the run would take. Writes nothing."""
    check_device(config.device)
    chosen = tokenizer.load(config.tokenizer)
    files = open_files(config, chosen)
    with config.join() as world:
        parts = parts_of(config, files, world.size)
        world.say(describe(parts))
        model = GPT(config.shape(chosen.num_tokens), seed=config.seed)
        plan = sorted(phases(config, parts), key=lambda phase: -phase.facts["block_size"])
        world.say(rehearsal.rehearse(model, plan, config.settings(world.device), world, seeds=config.seeds))


def status(config: StatusConfig) -> None:
    """Prints which token files there are, and how far the run is, or that of each seed."""
    rows = []
    for text in config.texts:
        for path in paths_of(config, text):
            rows.append({"file": str(path), "stage": text.name, **state_of(path)})
    print(table(rows, ["file", "stage", "state", "documents", "tokens", "tokenizer"]))
    default, name = "runs/curriculum", config.training.get("run_name") or ""
    run_dir = home(config.save_dir or config.training.get("save_dir", default)) / name
    of_seeds = seeds_in(run_dir)
    for one in [run_dir] if checkpoint.list_steps(run_dir) or not of_seeds else of_seeds:
        show_progress(one)


def seeds_in(run_dir: Path) -> list[Path]:
    """The folders of the seeds that were trained together."""
    return sorted(run_dir.glob("seed*"), key=lambda path: (len(path.name), path.name))


def show_progress(run_dir: Path) -> None:
    """Prints where a run stands and its last measurements. Raises UserError for a run that has no stages."""
    step = checkpoint.newest_intact(run_dir, say=print)
    if step is None:
        print(f"\n{run_dir}: no run yet")
        return
    state = checkpoint.read_state(checkpoint.folder(run_dir, step))
    if "curriculum_stage" not in state:
        raise UserError(f"save_dir: the run in {run_dir} was not made by `start`, so it has no stages")
    print(f"\n{run_dir}: step {step}, {state['tokens']:,} tokens, {state['identity']['type']} curriculum")
    where = {key: state[key] for key in ("curriculum_stage_idx", "curriculum_stage", "epoch", "stage_iter_num")}
    print(", ".join(f"{key} {value}" for key, value in where.items()))
    measured = [row for row in read_metrics(run_dir) if row["split"] == "validation"]
    last = [row for row in measured if row["step"] == measured[-1]["step"]] if measured else []
    print(table(last, LABELS) if last else "not evaluated yet")


def state_of(path: Path) -> dict[str, Any]:
    """What a glance at a token file says."""
    from core.token_files import TokenFile

    try:
        file = TokenFile(path, verify=False, say=lambda text: None)
    except UserError as error:
        return {"state": error.problems[0].partition(": ")[2]}
    if file.meta is None:
        return {"state": "foreign", "tokens": f"{len(file):,}"}
    meta = file.meta
    counts = {"documents": f"{meta['documents']:,}", "tokens": f"{meta['tokens']:,}"}
    return {"state": "complete", **counts, "tokenizer": meta["tokenizer"]["name"]}


def generate(config: GenerateConfig) -> str:
    """Prints and returns a prompt with what a trained model writes after it."""
    check_device(config.device)
    folder = newest(config)
    run = of_checkpoint(folder, lambda values: AblationConfig if "arms" in values else TrainingConfig)
    chosen = tokenizer.load(run.tokenizer)
    (prompt,) = encoded([config.prompt], chosen, "prompt")
    with join(config.device) as world:
        model = hf.load(folder).to(world.device)
        if len(prompt) >= model.n_positions:
            raise UserError(f"prompt: has {len(prompt)} tokens, but the model has {model.n_positions} positions")
        (found,) = continuations(
            model,
            [prompt],
            stop=chosen.end_of_text,
            most=config.tokens,
            temperature=config.temperature,
            generator=torch.Generator().manual_seed(config.seed),
        )
    text = config.prompt + chosen.decode(token for token in found if token != chosen.end_of_text)
    print(text)
    return text


def newest(config: GenerateConfig) -> Path:
    """The checkpoint that is named, or the newest intact one of the run. Raises UserError without any."""
    if config.checkpoint is not None:
        return home(config.checkpoint)
    run_dir = home(config.save_dir)
    step = checkpoint.newest_intact(run_dir, say=print)
    if step is None:
        if of_seeds := seeds_in(run_dir):
            raise UserError(f"save_dir: {run_dir} holds a run of each seed; take one of them, such as {of_seeds[0]}")
        raise UserError(
            f"save_dir: {run_dir} has no checkpoint; give the save_dir of your run, or a checkpoint. "
            "Train with: python -m curriculum.cli start"
        )
    return checkpoint.folder(run_dir, step)
