"""Many seeds at once: each a run of its own, in a folder of its own, all moved by one batched computation."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from core import files, graphs, optim, trainer
from core.batch import IGNORE, SupervisedBatch
from core.distributed import World
from core.errors import Interrupted, RunFailed, UserError
from core.evaluate import Measure, Slices, answered_by, matching, measure_abreast
from core.model import GPT, loss_sum
from core.plan import Definition, Evaluate, Phase, Settings, saved_step
from core.prefetch import Prefetcher
from core.report import table
from core.run_config import SavedRunConfig
from core.signals import StopSignals
from core.stacked import StackedGPT, side_by_side
from core.trainer import Run

T = TypeVar("T", bound=SavedRunConfig)
End = dict[str, Any] | RunFailed  # the summary of a run, or why it failed

COUNTS = ("questions", "problems")  # of an evaluation, which seeds may have more or fewer of


class Replica(NamedTuple):
    """What `core.trainer.train` is given for a run, but for the world; and what follows when its summary is there."""

    model: GPT
    plan: Sequence[Phase]
    evaluate: Evaluate
    settings: Settings
    run_dir: Path
    definition: Definition
    conclude: Callable[[dict[str, Any]], None]  # tests, adds to the summary, draws, reports

    @property
    def arguments(self) -> tuple[GPT, Sequence[Phase], Evaluate, Settings, Path, Definition]:
        return self[:6]


def carry_out(config: T, prepare: Callable[[T, World], Replica], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The run that `config` describes, or with `seeds` one for each; returns the summaries. `labels`: as in `table`.

    Raises as `train`, and RunFailed with a line for each run that failed, once the others have ended.
    """
    configs = config.of_each_seed()
    for one in configs:
        one.check_machine()
    with config.join() as world:
        replicas = [prepare(one, world) for one in configs]
        if config.seeds is None:
            ends: Sequence[End] = [trainer.train(*replicas[0].arguments, world)]
        else:
            ends = train(replicas, world)
        summaries = {one.seed: end for one, end in zip(configs, ends, strict=True) if not isinstance(end, RunFailed)}
        for one, replica in zip(configs, replicas, strict=True):
            if one.seed in summaries:
                replica.conclude(summaries[one.seed])
        if config.seeds is not None:
            world.say(f"\nseeds: {len(summaries)}\n{table(rows_of_seeds(summaries), ['seed', *labels])}")
    failures = [problem for end in ends if isinstance(end, RunFailed) for problem in end.problems]
    if failures:
        raise RunFailed(*failures)
    return list(summaries.values())


def rows_of_seeds(summaries: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluations of all seeds, and the mean of each number that all of them have: a rare part of a mixture may be
    among the examples of some alone, and a curriculum may have come to other lengths."""
    rows = [{"seed": seed, **row} for seed, summary in summaries.items() for row in summary["evaluation"]]
    of_each = [{_what(row): row for row in summary["evaluation"]} for summary in summaries.values()]
    means = []
    for what in of_each[0] if of_each else ():
        same = [own[what] for own in of_each if what in own]
        if len(same) == len(of_each):
            numbers = [key for key, x in same[0].items() if isinstance(x, float) and all(key in row for row in same)]
            common = {key: x for key, x in same[0].items() if all(row.get(key) == x for row in same)}
            means.append({"seed": "mean", **common, **{key: fmean(row[key] for row in same) for key in numbers}})
    return rows + means


def _what(row: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """What was measured, of an evaluation: all but numbers, and on how many."""
    return tuple((key, value) for key, value in row.items() if not (isinstance(value, float) or key in COUNTS))


def train(replicas: Sequence[Replica], world: World) -> list[End]:
    """Carries out runs that differ in their seeds alone; each comes to what `core.trainer.train` makes of it.

    Returns the summary of each, or why it failed, which does not keep the others from going on. Those that are behind
    go first, so that runs may start at different steps, as after one was resumed alone. Raises UserError before any
    work, Interrupted after a signal, with everything saved.
    """
    check(replicas)
    runs = [Run(*replica.arguments[:-1], world) for replica in replicas]
    ended: dict[int, End] = {}
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals())
        open_all(runs, [replica.definition for replica in replicas], stack, ended)
        bar = stack.enter_context(progress(runs))
        while moving := those_behind(runs, ended):
            with Abreast(moving) as abreast:
                move_on(abreast, runs, ended, stop, bar)
    return [ended[number] for number in range(len(runs))]


def move_on(abreast: "Abreast", runs: Sequence[Run], ended: dict[int, End], stop: StopSignals, bar: tqdm) -> None:
    """Updates the runs that are abreast until one of them has ended, or they have caught up with others."""
    moving = abreast.runs
    for run in moving:
        with failing_alone(runs.index(run), ended), run.failing_in_words():
            run.measure_at_start()
    while those_behind(runs, ended) == moving:
        stop_status = stop.status
        for run, batches, loss, norm in abreast.update():
            with failing_alone(runs.index(run), ended), run.failing_in_words():
                run.note(batches, sum(batch.input_ids.numel() for batch in batches), loss, norm)
                run.draw_consequences(abreast.lr, stop_status)
        bar.update(len(moving))
        if stop_status and those_behind(runs, ended):
            step = moving[0].state.step
            raise Interrupted(f"stopped by a signal; step {step} of each run that goes on is saved", stop_status)


def check(replicas: Sequence[Replica]) -> None:
    """What differs in more than the seed is a mistake of ours; a user's are refused by `SavedRunConfig`."""
    first = replicas[0]
    for other in replicas[1:]:
        alike = replace(other.settings, seed=first.settings.seed, wandb=first.settings.wandb)
        assert alike == first.settings, "they differ in more than the seed"
        assert other.model.config == first.model.config, "they differ in their shape"


def open_all(runs: Sequence[Run], definitions: Sequence[Definition], stack: ExitStack, ended: dict[int, End]) -> None:
    """Opens each run's session, once no folder is found to be another run's. Raises UserError with all problems."""

    def look(run: Run, definition: Definition) -> None:
        if run.run_dir.exists():
            with files.lock(run.run_dir):
                saved_step(run.run_dir, definition, run.settings, run.world, say=lambda text: None)  # it is said below

    def enter(run: Run, definition: Definition) -> None:
        stack.enter_context(run.session(definition, is_shown=False))

    for do in (look, enter):
        problems: list[str] = []
        for number, (run, definition) in enumerate(zip(runs, definitions, strict=True)):
            try:
                with failing_alone(number, ended), run.failing_in_words():
                    do(run, definition)
            except UserError as error:
                problems += error.problems
        if problems:
            raise UserError(*problems)


@contextmanager
def failing_alone(number: int, ended: dict[int, End]) -> Iterator[None]:
    """Notes that a run failed, in place of ending all."""
    try:
        yield
    except RunFailed as error:
        ended[number] = error
        tqdm.write(f"{error}; the others go on")


def those_behind(runs: Sequence[Run], ended: dict[int, End]) -> list[Run]:
    """The runs that have made the fewest updates, of those that go on. The others that are done are summarised."""
    for number, run in enumerate(runs):
        if number not in ended and run.is_done():
            with failing_alone(number, ended), run.failing_in_words():
                ended[number] = run.summarise()
    left = [run for number, run in enumerate(runs) if number not in ended]
    step = min((run.state.step for run in left), default=0)
    return [run for run in left if run.state.step == step]


def progress(runs: Sequence[Run]) -> tqdm:
    total, done = sum(run.total for run in runs), sum(run.state.step for run in runs)
    return tqdm(total=total, initial=done, unit="step", desc=f"{len(runs)} runs", dynamic_ncols=True, mininterval=1)


class Abreast:
    """Runs that have made equally many updates, and make the next ones together, in one model and one optimiser.

    What a run holds of both are views into these, so that it measures and saves itself as if it were alone.
    """

    def __init__(self, runs: list[Run]):
        self.runs, first = runs, runs[0]
        self.lr = 0.0
        self.settings, self.device = first.settings, first.world.device
        self.model = StackedGPT([run.model for run in runs])
        self.model.recomputes = first.settings.gradient_checkpointing
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = optim.stacked([(run.model, run.optimizer) for run in runs], self.model)
        if self.settings.compile:
            self.model.compile_parts()
        self.move: graphs.Move = graphs.Graphed(self.move_once, self.device) if first.is_graphed else self.move_once
        step, workers = first.state.step, self.settings.workers
        self.batches = Prefetcher(self.make_update, start=step, stop=first.total, workers=workers)
        self.slices: dict[int, list[Slices]] = {}  # of each run, under the step at which they were measured last
        for number, run in enumerate(runs):
            run.batches = self.batches
            run.evaluated = partial(self.evaluated, number)  # type: ignore[method-assign]

    def __enter__(self) -> Self:
        self.batches.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.batches.__exit__(*error)
        for run in self.runs:
            del run.evaluated
            with_memory_of_its_own(run)  # else a run that has ended would hold the stack for as long as others go on
        del self.model, self.optimizer, self.parameters, self.move

    def evaluated(self, number: int) -> Slices:
        """What a run measures now. The first to ask has all of them measured, as all are due at the same steps."""
        step = self.runs[number].state.step
        if step not in self.slices:
            askings = [run.evaluate(run.model, step) for run in self.runs]
            self.slices = {step: answered_by(askings, self.measure)}
        return self.slices[step][number]

    def measure(self, asked: dict[int, Measure]) -> dict[int, Any]:
        """Measures each run's model, all at once if that can be."""
        evaluations = matching(asked.values())
        if evaluations and len(asked) == len(self.runs):
            return dict(zip(asked, measure_abreast(self.model, evaluations), strict=True))
        return {number: measure(self.runs[number].model) for number, measure in asked.items()}

    def make_update(self, t: int) -> tuple[list[list[SupervisedBatch]], list[SupervisedBatch]]:
        """The micro-batches of each run, and the same side by side."""
        of_each = [run.make_update(t) for run in self.runs]
        return of_each, [side_by_side(micro).pinned(self.device) for micro in zip(*of_each, strict=True)]

    def update(self) -> Iterator[tuple[Run, list[SupervisedBatch], Tensor, Tensor]]:
        """Moves the weights of all once. Gives each run with its micro-batches, loss sum and norm of the gradient."""
        step = self.runs[0].state.step
        phase, step_of_phase = self.runs[0].locate(step)
        self.lr = phase.lr(step_of_phase)
        of_each, batches = self.batches.take(step)
        optim.set_lr(self.optimizer, self.lr)
        losses, norms = self.move(batches)
        return zip(self.runs, of_each, losses.unbind(), norms.unbind(), strict=True)

    def move_once(self, batches: list[SupervisedBatch]) -> tuple[Tensor, Tensor]:
        """Moves the weights of all. Returns the loss sums and the norms of the gradients, each (N,)."""
        batches = [batch.to(self.device) for batch in batches]
        is_target = [(batch.labels != IGNORE).view(len(self.runs), -1) for batch in batches]
        targets = torch.stack([flags.sum(dim=1) for flags in is_target]).sum(dim=0)
        losses = self.backward(batches, 1 / targets)
        norms = clip_each_(self.parameters, self.settings.max_grad_norm or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses, norms

    def backward(self, batches: list[SupervisedBatch], scale: Tensor) -> Tensor:
        """Gradients of each run's scale * loss over its micro-batches. Returns the unscaled loss sums, (N,)."""
        total = torch.zeros(len(self.runs), device=self.device)
        for batch in batches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
                losses = loss_sum(self.model, batch)
            (losses * scale).sum().backward()  # no model's weights are in another's loss
            total += losses.detach()
        return total


def with_memory_of_its_own(run: Run) -> None:
    """Weights and moments in place of views into a stack."""
    for parameter in run.model.parameters():
        parameter.data = parameter.data.clone()
    for state in run.optimizer.state.values():
        state.update({slot: value.clone() for slot, value in state.items()})


def clip_each_(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Scales each model's gradients down to the norm `max_norm`, as `clip_grad_norm_`; returns their norms, (N,)."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.cat([g.flatten(1) for g in gradients], dim=1).norm(dim=1)  # two launches, not two a parameter
    factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, [factors.view(-1, *[1] * (g.dim() - 1)) for g in gradients])
    return norms
