"""From a checked configuration to a trained model, and what can be done with one: evaluate, generate."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core import checkpoint, hf, rehearsal, trainer
from core.config import home, resolve
from core.distributed import World, join
from core.errors import UserError
from core.evaluate import Slices
from core.export import export
from core.model import GPT, LanguageModel
from core.report import report, table
from core.run_config import check_device, of_checkpoint
from core.show import View, inspect
from core.trainer import Definition, Phase, Settings
from prng import parameters, plots
from prng.config import (
    EvaluateConfig,
    GenerateConfig,
    LookConfig,
    PlotConfig,
    PrngConfig,
    TrainConfig,
    WriteConfig,
    of_run,
)
from prng.evaluation import Table, cells, save_correctness
from prng.parameters import Parameters
from prng.source import Grid, Mixture

LABELS = ("generator", "cell")
MAY_GROW = ("num_steps",)
AC_VALUES = "ac_values.npz"
PARAMS = "params"  # folder of the final weights alone


def train(config: PrngConfig) -> dict[str, Any]:
    """Trains, evaluates, saves and draws. Returns the summary that is in `run_dir/summary.json`."""
    chosen, model = choose(config), new_model(config)
    config.check_machine()
    if config.wandb_api_key:
        os.environ["WANDB_API_KEY"] = config.wandb_api_key
    run_dir = config.run_dir
    with config.join() as world:
        plan, settings = build(config, chosen, world)
        correctness = run_dir / "correctness.npz" if config.save_correctness else None
        evaluate = Recorder(config, chosen, world, correctness)
        identity = {**config.identity(world.size), "ac_values": digest(chosen)}
        definition = Definition(config.model_dump(), identity, MAY_GROW)
        summary = trainer.train(model, plan, evaluate, settings, run_dir, definition, world)
        if world.is_main:
            finish(config, model, summary)
    return summary


def rehearse(config: PrngConfig) -> None:
    """Builds everything, tries a few updates, says what the run would take. Writes nothing."""
    check_device(config.device)
    chosen, model = choose(config), new_model(config)
    with config.join() as world:
        world.say(rehearsal.rehearse(model, *build(config, chosen, world), world))


def choose(config: PrngConfig) -> list[Parameters]:
    """The values of a and c for each modulus. Raises UserError if there are too few or a file cannot be honoured."""
    excluded = parameters.read_excluded(config.exclude_ac_paths, own=config.run_dir / AC_VALUES)
    sizes = (config.n_a, config.n_c), (config.n_test_a, config.n_test_c)
    try:
        return parameters.choose([m for m, _ in config.widths], *sizes, config.data_seed, excluded)
    except ValueError as error:
        raise UserError(str(error)) from error


def digest(chosen: Sequence[Parameters]) -> str:
    """A hash of all values: a run must not be resumed with others, whatever became of the excluded files."""
    return hashlib.blake2b(json.dumps([asdict(p) for p in chosen]).encode(), digest_size=8).hexdigest()


def new_model(config: PrngConfig) -> GPT:
    """Fresh weights, or those of `pretrained_path`, unless a run has begun, whose checkpoint then has its own."""
    model = GPT(config.model_shape, seed=config.main_seed)
    if config.pretrained_path is not None and not checkpoint.list_steps(config.run_dir):
        load_pretrained(config, model, home(config.pretrained_path))
    return model


def build(config: PrngConfig, chosen: Sequence[Parameters], world: World) -> tuple[list[Phase], Settings]:
    settings = config.settings(
        world.device,
        seed=config.main_seed,
        accumulation=config.grad_acc_steps,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        eval_every=config.eval_interval,
        save_every=config.checkpoint_interval if config.save_checkpoints else None,
        starts_blind=config.pretrained_path is None,
    )
    return build_plan(config, chosen, world), settings


def generating_device(world: World) -> torch.device | None:
    return world.device if world.device.type == "cuda" else None


def build_plan(config: PrngConfig, chosen: Sequence[Parameters], world: World) -> list[Phase]:
    grid = partial(Grid, seed=config.data_seed, use="train", starts=config.n_example, device=generating_device(world))
    rows = zip(config.generators, chosen, strict=True)
    grids = [[grid(generator, p.train_a, p.train_c) for generator in row] for row, p in rows]
    per_update = config.batch_size * config.grad_acc_steps * world.size
    plan = []
    for number, (name, phase) in enumerate(zip(config.phase_names, config.plan, strict=True)):
        weights = partial(phase.weights, moduli=len(chosen), interval=config.weights_interval)
        source = Mixture(grids, weights, per_update, config.form, seed=config.main_seed, phase=number)
        lr = partial(phase.lr, peak=config.lr_trgt, lowest=config.lr_min)
        plan.append(Phase(name, source, phase.phase_steps, config.batch_size, lr))
    return plan


def load_pretrained(config: PrngConfig, model: GPT, folder: Path) -> None:
    """Starts the model from a checkpoint folder. Raises UserError for anything that cannot be loaded as it is meant."""
    if problem := checkpoint.missing(folder):
        raise UserError(f"pretrained_path: {problem}")
    check_meaning(config, folder)
    try:
        rows = hf.load_grown(model, folder)
    except hf.UnreadableModel as error:
        raise UserError(f"pretrained_path: {error}") from error
    if os.environ.get("RANK", "0") == "0":
        print(f"starting from {folder}: {rows} rows of the embedding kept, {model.config.num_tokens - rows} new")


def check_meaning(config: PrngConfig, folder: Path) -> None:
    """Tokens must mean the same in the run that the folder comes from, if that is one of ours."""
    run_config = checkpoint.run_dir_of(folder) / "config.yaml"
    if not run_config.exists():
        if config.pretrain_m is not None:
            raise UserError(f"pretrain_m: cannot be checked, as {run_config} does not exist; leave it out")
        return
    run = run_of(folder)
    moduli = [m for m, _ in run.widths]
    if config.pretrain_m is not None and config.pretrain_m != max(moduli):
        raise UserError(f"pretrain_m: {config.pretrain_m}, but {folder} was trained on moduli up to {max(moduli)}")
    several = config.digits > 1 or run.form.digits > 1
    if several and config.form.base != run.form.base:
        raise UserError(
            f"base: {config.form.base}, but {folder} has digits to base {run.form.base}; its rows would mean others"
        )


class Recorder(Table):
    """The table of a run, which leaves the values of a and c with its first row, in place of those of a run that was
    begun in the folder and killed before it had a checkpoint. `is_recorded`: they are there already."""

    def __init__(
        self,
        config: PrngConfig,
        chosen: Sequence[Parameters],
        world: World,
        keep: Path | None = None,
        is_recorded: bool = False,
    ):
        last = config.plan[-1]
        ends = last.weights(last.phase_steps, len(chosen))
        measured = cells(config.generators, chosen, config.data_seed, generating_device(world))
        super().__init__(measured, config.form, ends, config.eval_examples, config.batch_size, world, keep)
        self._path, self._chosen, self._is_recorded = config.run_dir / AC_VALUES, chosen, is_recorded

    def __call__(self, model: LanguageModel, step: int = 0) -> Slices:
        if self.world.is_main and not self._is_recorded:
            parameters.save(self._path, self._chosen)
            self._is_recorded = True
        return super().__call__(model, step)


def finish(config: PrngConfig, model: GPT, summary: dict[str, Any]) -> None:
    """Writes what was asked for beside the checkpoints, draws, and says where everything is."""
    if config.save_params:
        folder = config.run_dir / PARAMS
        folder.mkdir(exist_ok=True)
        hf.save(model, folder)
    report(config.run_dir, summary, plots.draw_run(config.run_dir), LABELS)
    written = {PARAMS: config.save_params, "correctness.npz": config.save_correctness, AC_VALUES: True}
    for name in (name for name, exists in written.items() if exists):
        print(f"{name.partition('.')[0]:<11} {config.run_dir / name}")


def run_of(folder: Path) -> PrngConfig:
    """The configuration of the run that a checkpoint belongs to, or the weights alone, which have no manifest."""
    run_config = checkpoint.run_dir_of(folder) / "config.yaml"
    if folder.resolve().name == PARAMS and (folder / "config.json").exists() and run_config.exists():
        return resolve(of_run, str(run_config), {})
    return of_checkpoint(folder, of_run)


def open_run(folder: Path) -> tuple[PrngConfig, list[Parameters]]:
    """The configuration and the values of the run that a checkpoint belongs to."""
    run = run_of(folder)
    return run, parameters.load(checkpoint.run_dir_of(folder) / AC_VALUES)


def evaluate(settings: EvaluateConfig) -> list[dict[str, Any]]:
    """Measures a checkpoint on the cells of its run, prints a table, keeps the scores in full beside the run."""
    check_device(settings.device)
    folder = home(settings.checkpoint)
    run, chosen = open_run(folder)
    path = checkpoint.run_dir_of(folder) / f"correctness_{folder.resolve().name}.npz"
    with join(settings.device) as world:
        model = hf.load(folder).to(world.device)
        measured = Recorder(run, chosen, world, is_recorded=True)
        measured.examples, measured.batch_size = settings.examples, settings.batch_size
        rows = [{**where, **values} for where, values in measured(model)]
        if world.is_main:
            print(table(rows, LABELS))
            save_correctness(path, measured.cells, measured.scores)
            print(f"by position and pair: {path}")
    return rows


def generate(config: GenerateConfig) -> list[int]:
    """Prints and returns the numbers of one sequence."""
    generator = config.generator
    x0, a, c = (np.array([value], dtype=generator.dtype) for value in (config.x0, config.a, config.c))
    numbers = [int(number) for number in generator.sequences(x0, a, c, config.seq_len)[0]]
    for number in numbers:
        print(f"{number:0{-(-generator.k // 4)}x}" if config.show == "hex" else number)
    return numbers


def look(config: LookConfig) -> None:
    """Prints sequences that training sees."""
    inspect(view(config), config)


def write(config: WriteConfig) -> None:
    """Writes sequences that training sees to files."""
    named = config.model_dump(include={"type", "m", "control_bits", "bits_to_keep", "n_a", "n_c", "n_example"})
    named |= {"seq_len": config.seq_len, "base": config.form.base, "digits": config.digits}
    identity = {"task": f"prng {config.type}", "parameters": named, "data_seed": config.data_seed}
    values = {"main_seed": config.main_seed, "fingerprint": digest(choose(config))}
    export(view(config), identity | values, config)


def view(config: TrainConfig) -> View:
    """The sequences of the only phase, number by number, or digit by digit with the lowest first."""
    source = build_plan(config, choose(config), World())[0].source
    assert isinstance(source, Mixture)
    return View(f"{config.type}, m = {config.m}", source.batch, str, splits=("train",))


def plot(settings: PlotConfig) -> list[Path]:
    """Measures a checkpoint of each run and draws all that can be drawn; prints and returns the files."""
    check_device(settings.device)
    folders = [checkpoint_of(home(run), settings.checkpoint) for run in settings.runs]
    opened = [open_run(folder) for folder in folders]  # says what is wrong with any before the first is measured
    drawn: list[Path] = []
    points: dict[str, list[tuple[int, int]]] = {}
    with join(settings.device) as world:
        for run_dir, folder, (run, chosen) in zip(map(home, settings.runs), folders, opened, strict=True):
            model = hf.load(folder).to(world.device)
            measured = Recorder(run, chosen, world, is_recorded=True)
            measured.examples, measured.batch_size = settings.examples, settings.batch_size
            measured(model)
            name, title = folder.resolve().name, (run_dir / folder.resolve().name).as_posix()
            rows = model.wte.weight.detach().float().cpu().numpy()[: run.form.base]
            drawn += plots.draw_run(run_dir)
            at = run_dir / "plots"
            drawn += plots.draw_positions(measured.cells, measured.scores, at / f"positions_{name}.png", title)
            drawn.append(plots.draw_embedding(rows, at / f"embedding_{name}.png", title))
            for cell, scores in zip(measured.cells, measured.scores, strict=True):
                needed = plots.needed_context(scores.by_number, settings.threshold)
                if cell.name == plots.UNSEEN and needed is not None:
                    points.setdefault(cell.generator.kind, []).append((cell.generator.m, needed))
    if len({m for pairs in points.values() for m, _ in pairs}) > 1:
        path = home(settings.runs[0]) / "plots" / "moduli.png"
        drawn.append(plots.draw_moduli(points, path, settings.threshold))
    else:
        print(f"no plot against the modulus: fewer than two moduli reach an accuracy of {settings.threshold:g}")
    for path in drawn:
        print(path)
    return drawn


def checkpoint_of(run_dir: Path, which: str) -> Path:
    """The folder of `last`, of `best`, or of a step. Raises UserError with those that there are."""
    steps = checkpoint.list_steps(run_dir)
    which = str(steps[-1]) if which == "last" and steps else which.removeprefix("checkpoint-")
    folder = run_dir / (f"checkpoint-{which}" if which.isdigit() else which)
    if (run_dir / "config.json").exists():
        raise UserError(f"runs: {run_dir} is a checkpoint; give its run's folder, and its step as checkpoint")
    if not folder.is_dir() and not steps:
        raise UserError(f"runs: {run_dir} {'holds no checkpoint' if run_dir.exists() else 'does not exist'}")
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; {run_dir} holds checkpoints of steps: {', '.join(map(str, steps))}")
    return folder
