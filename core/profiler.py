"""Where the time of an update goes: a Chrome trace of some updates, and five lines."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from core.distributed import World

PARTS = ("data wait", "forward", "backward", "optimiser", "logging")
WARM_UP = 5  # updates that pass unseen: they compile, and allocate memory
UPDATES = 10  # updates that are watched
TRACE = "trace.json"


class Profiler:
    """Watches the main process, if it is asked to, for some updates; then it writes the trace and says what it saw.

    At the end of each part a GPU is waited for, so that each part's time is its own. What overlaps otherwise does not
    meanwhile, so that watched updates take longer than others.
    """

    def __init__(self, run_dir: Path, world: World, is_on: bool):
        self.path, self.world, self.is_on = run_dir / TRACE, world, is_on and world.is_main
        self.updates, self.started = 0, 0.0
        self.seconds = dict.fromkeys(PARTS, 0.0)
        on_gpu = world.device.type == "cuda"
        self._trace = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])])

    def part(self, name: str) -> AbstractContextManager[None]:
        return self._watched(name) if self.is_on and self.updates >= WARM_UP else nullcontext()

    @contextmanager
    def _watched(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        with record_function(name):
            yield
            if self.world.device.type == "cuda":
                torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - started

    def advance(self) -> None:
        """Called between two updates."""
        if not self.is_on:
            return
        self.updates += 1
        if self.updates == WARM_UP:
            self._trace.start()
        elif self.updates == WARM_UP + UPDATES:
            self.finish()

    def finish(self) -> None:
        """Writes and says what was seen, once; after the run's last update at the latest."""
        if not self.is_on:
            return
        self.is_on, watched = False, self.updates - WARM_UP
        if watched >= 0:
            self._trace.stop()
        if watched > 0:
            there = ", for chrome://tracing" if self.write() else " could not be written"
            self.world.say(f"{self.summary(watched)}\ntrace of {watched} updates{there}: {self.path}")
        else:
            self.world.say(f"profile: no trace of {self.updates} updates, as the first {WARM_UP} pass unseen")

    def write(self) -> bool:
        """Writes the trace; whether it could be.

        On a full disk the library raises nothing, and keeps the part that it has written, where checkpoints are to be
        saved.
        """
        if self.path.is_file():
            self.path.unlink()  # an earlier session's, not to be taken for this one's
        self._trace.export_chrome_trace(str(self.path))
        partial = self.path.with_name(f"{TRACE}.tmp")
        if partial.exists():
            partial.write_bytes(b"")  # the library still has it open, so that to delete it alone would free nothing
            partial.unlink()
        return self.path.is_file()

    def summary(self, watched: int) -> str:
        total = sum(self.seconds.values())
        rows = [(name, 1e3 * seconds / watched, seconds / total) for name, seconds in self.seconds.items()]
        return "\n".join(f"{name:<12}{ms:>10.3f} ms an update{share:>8.1%}" for name, ms, share in rows)
