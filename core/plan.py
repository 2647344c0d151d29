"""What a run is to do, and how: given to the loop by whoever starts it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from core import checkpoint
from core.config import home
from core.distributed import World
from core.errors import UserError
from core.evaluate import Asking, Slices
from core.model import LanguageModel
from core.parallel import Kind
from core.source import Source

Compilation = bool | Literal["reduce-overhead"]  # the latter: whole updates as CUDA graphs as well


@dataclass(frozen=True)
class Phase:
    """Updates that draw on one source. The learning rate is a function of the update within the phase."""

    name: str
    source: Source
    steps: int  # updates
    batch_size: int  # examples per micro-batch, on each rank
    lr: Callable[[int], float]
    pack_to: int | None = None  # rows share contexts of so many tokens, each still seeing itself alone
    facts: Mapping[str, Any] = field(default_factory=dict)  # said of it, beside its name, in each line of metrics


@dataclass(frozen=True)
class Settings:
    """How a plan is carried out. Intervals are in updates; None means never (and always at the end)."""

    seed: int = 0  # of dropout; data and weights have theirs
    optimizer: Literal["adamw", "muon"] = "adamw"
    accumulation: int = 1  # micro-batches per update, on each rank
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float | None = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: Compilation = False
    gradient_checkpointing: bool = False
    parallel: Kind = "ddp"  # over several ranks
    profile: bool = False
    log_every: int = 10
    eval_every: int | None = None
    save_every: int | None = None
    save_steps: Sequence[int] = ()  # extra checkpoints, which the limit does not touch
    milestones: Sequence[int] = ()  # updates after which all of this is done, and whose checkpoints are kept as well
    save_total_limit: int | None = None
    patience: int | None = None  # evaluations without a lower validation loss before the run ends
    workers: int = 1  # threads that make batches ahead
    resume: bool = False
    resumed_by: str = "resume: true"  # how that is said to the user
    starts_blind: bool = True  # untrained weights: a first loss far above that of a blind guess is a mistake
    pad_token: int | None = None  # for the saved config.json
    wandb: dict[str, Any] | None = None  # arguments of wandb.init


@dataclass(frozen=True)
class Definition:
    """What a run is, for those who come after: a resumed run must have the same identity."""

    config: dict[str, Any]  # resolved, written to config.yaml
    identity: dict[str, Any]  # the part that decides on weights and metrics
    may_grow: Sequence[str] = ()  # keys of the identity that may be larger on resume; None counts as infinite
    position: Callable[[int], dict[str, Any]] = lambda step: {}  # what a checkpoint after so many updates says as well


# Of the model after so many updates; the first slice decides on patience, best checkpoint and the growth of sources.
Evaluate = Callable[[LanguageModel, int], Slices | Asking[Slices]]


def saved_step(
    run_dir: Path, definition: Definition, settings: Settings, world: World, say: Callable[[str], None] | None = None
) -> int | None:
    """The step of the newest intact checkpoint; None if there is no checkpoint yet. `say` is told of damaged ones.

    Raises UserError if the run may not go on from it, or not be in this folder.
    """
    steps = checkpoint.list_steps(run_dir)
    if (best := run_dir / "best").exists() and not best.is_symlink():  # as a copy that follows links leaves it
        kind = "folder" if best.is_dir() else "file"
        raise UserError(f"{best} is a {kind}, where a link is to be made to the best checkpoint; move it away")
    if steps and not settings.resume:
        has = f"{run_dir} already holds a run (checkpoint-{steps[-1]})"
        raise UserError(f"{has}; go on with {settings.resumed_by}, or use another folder")
    found = checkpoint.newest_intact(run_dir, say or world.say) if world.is_main else None
    (step,) = world.sum([-1 if found is None and world.is_main else found or 0])  # rank 0 decides
    if steps and step < 0:
        raise UserError(f"{run_dir}: none of its {len(steps)} checkpoints is intact; move them away to start anew")
    if step < 0:
        return None
    path = checkpoint.folder(run_dir, int(step))
    now = json.loads(json.dumps(definition.identity))  # as a file gives it back
    check_identity(path, checkpoint.read_state(path)["identity"], now, definition.may_grow)
    return int(step)


def check_identity(path: Path, saved: dict[str, Any], current: dict[str, Any], may_grow: Sequence[str]) -> None:
    """Raises UserError with a line for each key in which a resumed run would differ from the one saved in `path`."""
    problems = []
    for key in sorted(saved.keys() | current.keys()):
        old, new = saved.get(key), current.get(key)
        grows = key in may_grow and (new is None or (old is not None and new > old))
        if old != new and not grows and not (key.endswith("_path") and _is_same_place(old, new)):
            only = "; it may only grow" if key in may_grow else ""
            problems.append(f"{key}: the run in {path.parent} was started with {old!r}, now it is {new!r}{only}")
    if problems:
        raise UserError(*problems)


def _is_same_place(one: Any, other: Any) -> bool:
    """Whether two paths lead to the same place, however they are written."""
    paths = [home(path).resolve() for path in (one, other) if isinstance(path, str)]
    return len(paths) == 2 and paths[0] == paths[1]
