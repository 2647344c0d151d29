"""What a run would take, found by trying a few of its updates."""

import datetime
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from core.distributed import World
from core.model import LanguageModel
from core.tracking import Tracker
from core.trainer import Phase, Run, Settings


def rehearse(model: LanguageModel, plan: Sequence[Phase], settings: Settings, world: World, updates: int = 3) -> str:
    """Tries a few updates of the plan and says in words what the whole would take. Writes nothing."""
    run = Run(model, plan, lambda model, step: [], settings, Path(), world)
    run.tracker = Tracker(Path(), 0, run.total, is_main=False)
    batches = run.make_update(0)
    run.update(batches, 0.0, 0)  # compiles and warms up
    started = time.perf_counter()
    for _ in range(updates):
        run.update(run.make_update(0), 0.0, 0)
    run.read()
    seconds = (time.perf_counter() - started) / updates
    tokens = run.state.tokens // run.state.step
    if world.device.type == "cuda":
        memory, kind = torch.cuda.max_memory_allocated(), "GPU memory"
    else:
        memory, kind = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "memory of the process"
    scored = world.size * sum(batch.scored for batch in batches)
    lines = {
        "parameters": f"{model.num_parameters():,}",
        "tokens per update": f"{tokens:,}, of which {scored:,} are scored",
        "seconds per update": f"{seconds:.4f} ({tokens / seconds:,.0f} tokens/s)",
        "peak " + kind: f"{memory / 2**20:,.0f} MiB",
        "updates": f"{run.total:,}",
        "expected duration": f"{duration(seconds * run.total)} without evaluation",
    }
    return "\n".join(f"{name:<28}{value}" for name, value in lines.items())


def duration(seconds: float) -> str:
    if seconds > 1e10:
        return "centuries"
    return f"{datetime.timedelta(seconds=round(seconds))} (h:mm:ss)"
