"""The training loop: a plan of phases, resumable at every update."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core import checkpoint, files, graphs, hf, optim, rng, tracking
from core.batch import Batch, SupervisedBatch
from core.config import write_yaml
from core.distributed import World, ignore_orders_to_stop
from core.errors import Interrupted, RunFailed, UserError
from core.evaluate import Slices, answered
from core.model import LanguageModel, loss_sum
from core.packing import packed
from core.parallel import spread
from core.plan import Definition, Evaluate, Phase, Settings, saved_step
from core.prefetch import Prefetcher
from core.profiler import Profiler
from core.signals import StopSignals
from core.source import Verdict
from core.tracking import Tracker

SHAPES = 16  # different numbers of targets that batches of one size may have where each is a CUDA graph of its own


@dataclass
class State:
    """What a run has to remember beside weights and optimiser. Where its data goes on follows from `step`."""

    step: int = 0  # updates done
    examples: int = 0
    tokens: int = 0  # input tokens, padding included, of all ranks
    best_loss: float | None = None  # lowest validation loss since the data last changed
    evaluations_without_improvement: int = 0
    best_saved: tuple[int, float] | None = None  # step and validation loss of the checkpoint `best` points to
    window: list[tuple[float, float, float]] = field(default_factory=list)  # loss sum, targets, norm since last logged
    stopped: str = ""  # why no more updates are to follow


def train(
    model: LanguageModel,
    plan: Sequence[Phase],
    evaluate: Evaluate,
    settings: Settings,
    run_dir: Path,
    definition: Definition,
    world: World,
) -> dict[str, Any]:
    """Carries out the plan and returns the summary that it also writes to `run_dir/summary.json`.

    Raises UserError before any work, RunFailed if the run diverges or cannot write, Interrupted after a signal (with
    everything saved).
    """
    run = Run(model, plan, evaluate, settings, run_dir, world)
    with StopSignals() as stop, run.session(definition):
        run.measure_at_start()
        for phase, step in run.remaining():
            if step == 0 and len(plan) > 1:
                facts = "".join(f", {name} {value}" for name, value in phase.facts.items())
                world.say(f"phase {phase.name}: {phase.steps:,} updates{facts}")
            stop_status = run.update(run.next_batches(), phase.lr(step), stop.status)
            run.draw_consequences(phase.lr(step), stop_status)
            if stop_status and not run.is_done():
                raise Interrupted(f"stopped by a signal; step {run.state.step} is saved in {run.newest}", stop_status)
        return run.summarise()


class Run:
    """The parts of a run, which `train` moves on, or `core.replicas` together with others."""

    tracker: Tracker
    batches: Prefetcher

    def __init__(
        self,
        model: LanguageModel,
        plan: Sequence[Phase],
        evaluate: Evaluate,
        settings: Settings,
        run_dir: Path,
        world: World,
    ):
        self.model, self.plan, self.evaluate = model, plan, evaluate
        self.settings, self.run_dir, self.world = settings, run_dir, world
        self.state = State()
        self.total = sum(phase.steps for phase in plan)
        self.identity: dict[str, Any] = {}
        self.position: Callable[[int], dict[str, Any]] = lambda step: {}
        self.profiler = Profiler(run_dir, world, settings.profile)
        self.model.recomputes = settings.gradient_checkpointing
        self.is_graphed = settings.compile == "reduce-overhead"
        if self.is_graphed:
            graphs.check(settings, plan, world)
        if settings.parallel == "fsdp" and settings.optimizer == "muon":
            raise UserError("parallel: fsdp divides the matrices that muon needs whole; use ddp, or optimizer: adamw")
        self.parallel = spread(model, world, settings.parallel, bool(settings.compile))
        make, trained = optim.OPTIMIZERS[settings.optimizer], self.parallel.trained
        self.optimizer = make(trained, lr=0.0, weight_decay=settings.weight_decay, betas=settings.betas)
        self.scale = torch.zeros((), device=world.device)  # of a loss sum, before its gradient is taken
        self.move: graphs.Move = self.move_once
        if self.is_graphed:
            optim.make_capturable(self.optimizer, world.device)
            self.move = graphs.Graphed(self.move_once, world.device)
        self.unread: list[tuple[Tensor, float, Tensor]] = []  # as state.window, still on the device
        self.slices: Slices = []  # the last evaluation
        self.saveable_loss: float | None = None  # validation loss of the very weights at hand, if it was measured
        self.first_step, self.started = 0, time.perf_counter()
        self.read_tokens, self.padding = 0, 0  # on this rank, in this session

    @contextmanager
    def session(self, definition: Definition, is_shown: bool = True) -> Iterator[None]:
        """Holds the run's folder and all that updates need, from where the run stands. `is_shown`: with a bar."""
        with ExitStack() as stack:
            stack.enter_context(self.failing_in_words())
            if self.world.is_main:
                stack.enter_context(files.lock(self.run_dir))
            self.restore(definition)
            step, settings = self.state.step, self.settings
            tracker = Tracker(self.run_dir, step, self.total, self.world.is_main, settings.wandb, is_shown)
            self.tracker = stack.enter_context(tracker)
            prefetcher = Prefetcher(self.make_pinned, start=step, stop=self.total, workers=settings.workers)
            self.batches = stack.enter_context(prefetcher)
            yield

    # --- Where the run stands

    @property
    def newest(self) -> Path:
        return checkpoint.folder(self.run_dir, self.state.step)

    @property
    def best(self) -> Path | None:
        """The checkpoint that `best` points to. A run that ends as its data changes has measured none on the new data;
        then it is the last one, as those before have seen less of them."""
        if self.state.best_saved:
            return checkpoint.folder(self.run_dir, self.state.best_saved[0])
        return self.newest if self.is_done() else None

    def remaining(self) -> Iterator[tuple[Phase, int]]:
        """Each update that is left, as its phase and its number within the phase."""
        while not self.is_done():
            yield self.locate(self.state.step)

    def locate(self, update: int) -> tuple[Phase, int]:
        for phase in self.plan:
            if update < phase.steps:
                return phase, update
            update -= phase.steps
        raise IndexError("no such update in the plan")

    def is_done(self) -> bool:
        return self.state.step >= self.total or bool(self.state.stopped)

    def is_due(self, every: int | None) -> bool:
        step = self.state.step
        return self.is_done() or step in self.settings.milestones or (every is not None and step % every == 0)

    def is_save_due(self) -> bool:
        return self.is_due(self.settings.save_every) or self.state.step in self.settings.save_steps

    # --- One update

    def make_update(self, t: int) -> list[SupervisedBatch]:
        """This rank's micro-batches of update t: number j takes the examples of global micro-batch t*A*W + j*W + r."""
        phase, step = self.locate(t)
        A, W, B = self.settings.accumulation, self.world.size, phase.batch_size
        numbers = [(step * A + j) * W + self.world.rank for j in range(A)]
        batches = (phase.source.batch("train", n * B, (n + 1) * B) for n in numbers)
        pad, to = self.settings.pad_token, phase.pack_to
        made = [packed(b, to, pad) if to and isinstance(b, Batch) else b.supervised(pad) for b in batches]
        return [b.filled(SHAPES) for b in made] if self.is_graphed else made

    def make_pinned(self, t: int) -> list[SupervisedBatch]:
        return [batch.pinned(self.world.device) for batch in self.make_update(t)]

    def next_batches(self) -> list[SupervisedBatch]:
        with self.profiler.part("data wait"):
            return self.batches.take(self.state.step)

    def update(self, batches: list[SupervisedBatch], lr: float, stop_status: int) -> int:
        """Moves the weights once. Returns the exit status that a signal to any rank asks for, 0 if none came."""
        state, W = self.state, self.world.size
        targets = float(sum(batch.scored for batch in batches))
        tokens = float(sum(batch.input_ids.numel() for batch in batches))  # ranks may have longer rows than others
        all_targets, all_tokens, signals = self.world.sum([targets, tokens, float(stop_status)])
        if self.model.is_stochastic:  # a function of the step, so that a checkpoint need not hold any generator
            draw = rng.generator("dropout", self.settings.seed, "train", state.step * W + self.world.rank)
            torch.manual_seed(int(draw.integers(2**63)))
        self.scale.fill_(W / all_targets)  # DDP averages over ranks: the mean over targets is left
        optim.set_lr(self.optimizer, lr)
        loss, norm = self.move(batches)
        with self.profiler.part("logging"):
            self.note(batches, int(all_tokens), loss, norm)
        return (stop_status or 75) if signals else 0

    def note(self, batches: list[SupervisedBatch], tokens: int, loss: Tensor, norm: Tensor) -> None:
        """Counts an update that moved the weights: tokens of all ranks, this rank's loss sum, the gradient's norm."""
        state = self.state
        state.step += 1
        state.examples += self.world.size * sum(batch.examples for batch in batches)
        state.tokens += tokens
        self.saveable_loss = None
        self.tracker.advance()
        self.read_tokens += sum(batch.input_ids.numel() for batch in batches)
        self.padding += sum(batch.padding for batch in batches)
        self.unread.append((loss, float(sum(batch.scored for batch in batches)), norm))
        if self.world.device.type == "cpu" or state.step == 1:
            self.read()  # free on a CPU; a GPU would be waited for, so there only when something is due

    def draw_consequences(self, lr: float, stop_status: int) -> None:
        """Evaluates, logs and saves after an update, as far as each is due."""
        if self.is_due(self.settings.eval_every) and self.measure_and_judge() is Verdict.CHANGED:
            self.batches.restart(self.state.step)
        if self.is_due(self.settings.log_every):  # after the evaluation, which may find that this was the last update
            with self.profiler.part("logging"):
                self.log(lr)
        self.profiler.advance()
        if self.is_save_due() or stop_status:
            self.save()

    def move_once(self, batches: list[SupervisedBatch]) -> tuple[Tensor, Tensor]:
        """Moves the weights by what the micro-batches say. Returns their loss sum and the norm of the gradient."""
        loss = self.backward(batches)
        with self.profiler.part("optimiser"):
            norm = self.parallel.clip(self.settings.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss, norm

    def backward(self, batches: list[SupervisedBatch]) -> Tensor:
        """Gradients of scale * loss over the micro-batches, all-reduced once. Returns the unscaled loss sum."""
        device, total = self.world.device, torch.zeros((), device=self.world.device)
        for number, batch in enumerate(batches, start=1):
            with self.parallel.accumulating() if number < len(batches) else nullcontext():
                autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")
                with self.profiler.part("forward"), autocast:
                    loss = loss_sum(self.parallel.module, batch.to(device))
                with self.profiler.part("backward"):
                    (loss * self.scale).backward()
            total += loss.detach()
        return total

    def read(self) -> None:
        """Moves losses and norms from the device to the window, and stops the run if one of them is not sound."""
        if not self.unread:
            return
        rows = torch.stack([x for loss, _, norm in self.unread for x in (loss, norm)]).view(-1, 2).tolist()
        first = self.state.step - len(rows) + 1
        for step, (loss, norm), (_, targets, _) in zip(range(first, first + len(rows)), rows, self.unread, strict=True):
            self.state.window.append((loss, targets, norm))
            if not math.isfinite(loss) or not math.isfinite(norm):
                self.diverged(f"loss is {loss / targets:g} and gradient norm {norm:g} at step {step}")
        self.unread = []
        vocabulary = math.log(self.model.num_tokens)
        is_first = first == 1 and self.settings.starts_blind
        if is_first and rows[0][0] / self.state.window[0][1] > 2 * vocabulary + 2:
            loss = rows[0][0] / self.state.window[0][1]
            self.diverged(
                f"first loss is {loss:.2f} nats, far above ln(vocabulary) = {vocabulary:.2f} of a blind guess"
            )

    def diverged(self, what: str) -> None:
        self.fail(what, "Try a lower lr, more warmup_steps or a smaller max_grad_norm")

    def fail(self, what: str, advice: str) -> None:
        """Ends the run with what happened, what is left, and what to do."""
        step = checkpoint.newest_intact(self.run_dir, say=lambda text: None)
        last = "no checkpoint yet" if step is None else f"last good checkpoint: {checkpoint.folder(self.run_dir, step)}"
        raise RunFailed(f"{self.run_dir}: {what}; {last}. {advice}")

    @contextmanager
    def failing_in_words(self) -> Iterator[None]:
        """What the system refuses, such as space on a disk, and the loss of a rank end the run as what they are."""
        advice = "resume: true goes on from there"
        try:
            yield
        except RuntimeError as error:
            lost = self.world.loss_of_rank(error)
            if lost is None:
                raise
            ignore_orders_to_stop()
            what = f"after step {self.state.step}: one of the {self.world.size} processes ended or hangs ({lost})"
            self.fail(what, f"Its own output, or torchrun's, says why; {advice}")
        except OSError as error:
            self.fail(f"after step {self.state.step}: {error}", f"Once that is mended, {advice}")

    # --- Now and then

    def where(self) -> dict[str, Any]:
        phase, _ = self.locate(max(self.state.step - 1, 0))
        position = {name: getattr(self.state, name) for name in ("step", "tokens", "examples")}
        return {**position, "phase": phase.name, **phase.facts}

    def log(self, lr: float) -> None:
        """Writes the mean training loss since the last time, over all ranks."""
        self.read()
        loss, targets = self.world.sum([math.fsum(row[i] for row in self.state.window) for i in (0, 1)])
        norm = self.state.window[-1][2]
        self.state.window = []
        values = {"loss": loss / targets, "lr": lr, "grad_norm": norm}
        self.tracker.log(self.where() | {"split": "train"}, values)
        self.tracker.show(loss=loss / targets)

    def measure_at_start(self) -> None:
        if self.state.step == 0 and not self.slices:  # seeds trained at once begin anew when one of them fails at once
            self.measure()

    def measure(self) -> None:
        self.read()
        self.slices = self.evaluated()
        for where, values in self.slices:
            if not math.isfinite(values["loss"]):
                self.diverged(f"{where['split']} loss is {values['loss']:g} after step {self.state.step}")
            self.tracker.log(self.where() | where, values)
        metrics = self.slices[0][1]
        self.tracker.show(val_loss=metrics["loss"], val_acc=metrics["accuracy"])

    def evaluated(self) -> Slices:
        with self.parallel.ready() as model:
            return answered(self.evaluate(model, self.state.step), model)

    def measure_and_judge(self) -> Verdict:
        """Evaluates, and draws the consequences: patience, growth of the source, the end."""
        self.measure()
        state, metrics = self.state, self.slices[0][1]
        loss = metrics["loss"]
        if state.best_loss is None or loss < state.best_loss:
            state.best_loss, state.evaluations_without_improvement = loss, 0
        else:
            state.evaluations_without_improvement += 1
        self.saveable_loss = loss
        phase, _ = self.locate(state.step - 1)
        verdict = phase.source.on_evaluation(state.step, metrics)
        if verdict is Verdict.CHANGED:  # losses on other data cannot be compared with those so far
            state.best_loss, state.evaluations_without_improvement = None, 0
            state.best_saved = self.saveable_loss = None
        elif verdict is Verdict.MASTERED:
            state.stopped = phase.source.goal
        elif self.settings.patience and state.evaluations_without_improvement >= self.settings.patience:
            state.stopped = "patience"
        return verdict

    # --- Checkpoints

    def save(self) -> None:
        """Saves, marks the best, deletes what is over the limit. Only the main rank writes."""
        self.read()
        state, best, window = self.state, self.state.best_saved, self.window_of_all_ranks()
        if self.saveable_loss is not None and (best is None or self.saveable_loss < best[1]):
            state.best_saved = (state.step, self.saveable_loss)
        self.parallel.collect()
        optimizer_state = self.parallel.optimizer_state(self.optimizer)
        if self.world.is_main:
            self.write(window, optimizer_state)
        self.world.wait_for_all()  # to leave after a signal before it is written would have it killed by torchrun

    def write(self, window: list[tuple[float, float, float]], optimizer_state: dict[str, Tensor]) -> None:
        state = self.state
        phase, _ = self.locate(state.step - 1)
        sources = {phase.name: phase.source.state_dict() for phase in self.plan}
        position = {**asdict(state), "window": window, "phase": phase.name}
        record = {**self.position(state.step), **position, "sources": sources, "identity": self.identity}
        self.tracker.flush()
        checkpoint.save(self.run_dir, state.step, self.model, optimizer_state, record, self.settings.pad_token)
        if self.best == self.newest:
            checkpoint.link_best(self.run_dir, state.step)
        kept = {*self.settings.save_steps, *self.settings.milestones}
        checkpoint.prune(self.run_dir, state.step, self.settings.save_total_limit, kept)

    def window_of_all_ranks(self) -> list[tuple[float, float, float]]:
        """What a checkpoint holds, so that it does not matter how many ranks go on from it: the main one takes it."""
        rows = self.state.window
        losses = self.world.sum([loss for loss, _, _ in rows])
        targets = self.world.sum([targets for _, targets, _ in rows])
        return list(zip(losses, targets, [norm for _, _, norm in rows], strict=True))  # a norm is of all ranks already

    def restore(self, definition: Definition) -> None:
        """Goes on from the newest intact checkpoint, or starts; then writes config.yaml. Raises UserError."""
        self.identity, self.position = json.loads(json.dumps(definition.identity)), definition.position
        step = saved_step(self.run_dir, definition, self.settings, self.world)
        if step is not None:
            self.load(step)
        elif self.settings.resume:
            self.world.say(f"{self.run_dir} has no checkpoint yet: starting at step 0")
        if self.world.is_main:
            tracking.forget_after(self.run_dir, -1 if step is None else step, self.world.say)
            files.write_whole(self.run_dir / "config.yaml", write_yaml(definition.config))

    def load(self, step: int) -> None:
        path = checkpoint.folder(self.run_dir, step)
        record = checkpoint.read_state(path)
        hf.restore(self.model, path)
        self.parallel.hand_out()
        self.parallel.load_optimizer_state(self.optimizer, checkpoint.optimizer_state(path))
        for phase in self.plan:
            phase.source.load_state_dict(record["sources"].get(phase.name, {}))
        self.state = State(**{name: record[name] for name in State.__dataclass_fields__})
        self.first_step = self.state.step
        if not self.world.is_main:  # what all ranks had is the main one's now; the others add nothing to each row
            self.state.window = [(0.0, 0.0, norm) for _, _, norm in self.state.window]
        if self.state.best_saved and not checkpoint.folder(self.run_dir, self.state.best_saved[0]).exists():
            self.state.best_saved = None  # somebody deleted it; the best is to be one of those that are left
        if self.world.is_main and self.state.best_saved:
            checkpoint.link_best(self.run_dir, self.state.best_saved[0])
        self.world.say(f"resuming {path} at step {step} of {self.total}")

    # --- The end

    def summarise(self) -> dict[str, Any]:
        """What the run came to, also written to `summary.json`."""
        seconds, state = max(time.perf_counter() - self.started, 1e-9), self.state
        self.profiler.finish()
        self.slices = self.slices or self.evaluated()  # of a run that had ended before
        self.parallel.collect()
        self.model.to(self.world.device)  # for what follows
        steps = state.step - self.first_step
        summary = {
            "stopped": state.stopped or "completed",
            "step": state.step,
            "tokens": state.tokens,
            "examples": state.examples,
            "evaluation": [{**where, **values} for where, values in self.slices],
            "sources": {phase.name: phase.source.state_dict() for phase in self.plan},
            "checkpoint": str(self.newest),
            "best": str(self.best),
            "parameters": self.model.num_parameters(),
            "session": {  # of this process; a resumed run has had others
                "steps": steps,
                "seconds": round(seconds, 2),
                "steps_per_second": round(steps / seconds, 3),
                "data_wait_share": round(self.batches.waited / seconds, 4),
                "padding_share": round(self.padding / max(self.read_tokens, 1), 4),
                "device": str(self.world.device),
                "world_size": self.world.size,
                "torch": torch.__version__,
            },
        }
        if self.world.is_main:
            files.write_json(self.run_dir / "summary.json", summary)
        return summary
