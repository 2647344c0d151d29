"""The processes that train together, and the device of each. How a model is spread over them: `core.parallel`."""

import ctypes
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from tqdm import tqdm

from core.errors import UserError

LOST = re.compile("gloo|nccl|timed out|connection (closed|reset)|broken pipe", re.IGNORECASE)  # their words for it


@dataclass(frozen=True)
class World:
    """This process among those that train together. `torchrun` sets the environment that `join` reads."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """True on the one process that writes and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks on the CPU, which never waits for a GPU. Every rank must call it."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def loss_of_rank(self, error: RuntimeError) -> str | None:
        """What PyTorch says of another rank that ended or does not answer, if that is what the error is about."""
        if self.size == 1 or not LOST.search(str(error)):
            return None
        return re.split(r"\n|\. ", re.sub(r"^\[\S+\] ", "", str(error).strip()))[0]

    def say(self, text: str) -> None:
        """Prints a line, once, above a progress bar if there is one."""
        if self.is_main:
            tqdm.write(text)

    def wait_for_all(self) -> None:
        """Returns once every rank has called it."""
        self.sum([0.0])


def pick_device(device: str | int) -> torch.device:
    """`auto`: the local rank's GPU if there is one, else the CPU; `cuda`: that GPU; a number: the one that has it.

    A GPU comes with its number. Raises ValueError if it is missing.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    own = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    name = {"auto": own if gpus else "cpu", "cuda": own}.get(str(device), str(device))
    full = f"cuda:{int(name)}" if name.isdecimal() else name
    try:
        chosen = torch.device(full)
    except RuntimeError as error:
        raise ValueError(f"{device!r} is no device; use auto, cpu, cuda, cuda:1 or the number of a GPU") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"{device!r} is not supported; use auto, cpu, cuda, cuda:1 or the number of a GPU")
    if chosen.type == "cuda" and (str(chosen) != full or chosen.index >= gpus):  # PyTorch takes 256 for 0
        raise ValueError(f"{name!r} is not there: this machine has {gpus} GPUs that PyTorch can use; use auto or cpu")
    if chosen.type == "cuda" and str(device) not in ("auto", "cuda") and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        raise ValueError(f"{device!r} is one GPU for several processes; use auto or cuda, by which each has its own")
    return chosen


def keep_freed_memory() -> None:
    """Has glibc keep what is freed for what comes next, as PyTorch does on a GPU; elsewhere it does nothing.

    By default large tensors go back to the system, and each step pays for having their pages zeroed again: 3 % of a
    step of 4_4_256 here (`python -m benchmarks.train_step`), more for wider models.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # of malloc.h
    mallopt(TRIM_THRESHOLD, -1)  # never give back
    mallopt(TOP_PAD, 64 * 2**20)  # bytes to ask for at once
    mallopt(MMAP_MAX, 0)  # no mapping of its own for a large tensor


def processes() -> int:
    """How many take part, before they have joined: as many as `torchrun` says, or this one."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def join(device: str | int = "auto", timeout: timedelta = timedelta(minutes=10)) -> Iterator[World]:
    """The world that `torchrun` describes in the environment, or a world of one.

    `timeout`: how long a rank waits for the others. One that dies is noticed at once; one that hangs, or whose machine
    went away, only by this.
    """
    chosen = pick_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        torch.set_float32_matmul_precision("high")  # TF32
    else:
        torch.set_flush_denormal(True)  # after a saturated softmax, denormal numbers make a step several times slower
        keep_freed_memory()
    if processes() == 1:
        yield World(device=chosen)
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=timeout)
    except ValueError as error:  # as where WORLD_SIZE is set, but not the rest of what torchrun sets
        raise UserError(f"WORLD_SIZE is {processes()}, but this is no process of torchrun's: {error}") from error
    try:
        yield World(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()
        time.sleep(0.2)  # a thread of gloo's that still holds a tensor when Python ends aborts it (pytorch, PR 179291)


def ignore_orders_to_stop() -> None:
    """For a process that is about to end by itself, and still has to say why: torchrun tells it to stop meanwhile."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
