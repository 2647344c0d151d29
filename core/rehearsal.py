"""What a run would take, found by trying a few of its updates."""

import datetime
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from core import memory
from core.distributed import World
from core.model import LanguageModel
from core.tracking import Tracker
from core.trainer import Phase, Run, Settings


def rehearse(
    model: LanguageModel,
    plan: Sequence[Phase],
    settings: Settings,
    world: World,
    updates: int = 3,
    seeds: Sequence[int] | None = None,
) -> str:
    """Tries a few updates of the plan and says in words what the whole would take. Writes nothing.

    The memory is predicted before, and said, for the case that it is not there. Of several `seeds` one is tried.
    """
    settings = replace(settings, profile=False)
    run = Run(model, plan, lambda model, step: [], settings, Path(), world)
    run.tracker = Tracker(Path(), 0, run.total, is_main=False)
    batches = run.make_update(0)
    needed = memory.predicted(model, batches, settings, world.size)
    predicted = "-" if needed is None else f"{needed / 2**20:,.1f} MiB"
    world.say(f"{'predicted for tensors':<28}{predicted}")
    before = memory_in_use(world)
    run.update(batches, 0.0, 0)  # compiles and warms up
    started = time.perf_counter()
    for _ in range(updates):
        run.update(run.make_update(0), 0.0, 0)
    run.read()
    seconds = (time.perf_counter() - started) / updates
    tokens = run.state.tokens // run.state.step
    kind = "GPU memory" if world.device.type == "cuda" else "memory of the process"
    scored = world.size * sum(batch.scored for batch in batches)
    padding = f", {run.padding / run.read_tokens:.1%} are padding" if run.padding else ""
    lines = {
        "parameters": f"{model.num_parameters():,}",
        "tokens per update": f"{tokens:,}, of which {scored:,} are scored{padding}",
        "seconds per update": f"{seconds:.4f} ({tokens / seconds:,.0f} tokens/s)",
        "peak " + kind: f"{memory_in_use(world) / 2**20:,.0f} MiB, before the first update {before / 2**20:,.0f}",
        "updates": f"{run.total:,}",
        "expected duration": f"{duration(seconds * run.total)} without evaluation",
    }
    if seeds is not None:
        lines["seeds at once"] = f"{len(seeds)}; the above is of one of them, and memory grows with their number"
    return "\n".join(f"{name:<28}{value}" for name, value in lines.items())


def memory_in_use(world: World) -> int:
    """The most bytes so far: of tensors on a GPU, or of the process, with Python and libraries."""
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def duration(seconds: float) -> str:
    if seconds > 1e10:
        return "centuries"
    return f"{datetime.timedelta(seconds=round(seconds))} (h:mm:ss)"
