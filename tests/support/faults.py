"""What can go wrong, as functions that make it go wrong in the process that calls them."""

import errno
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError

from core import files, trainer
from core.batch import SupervisedBatch

NOBODY = 65534


class Disk:
    """Counts the calls that change what is under a folder, and lets `act` see each before it is carried out.

    Python tells of them by audit events; of fsync it does not, and safetensors writes past it, so both are replaced.
    Calls that free space are `is_free`: they still succeed on a full disk.
    """

    CHANGES = ("os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.truncate")
    FREES = ("os.remove", "os.rmdir", "os.truncate")

    def __init__(self, folder: str, act: Callable[[int, bool, str], None]):
        self.folder, self.act, self.calls = folder, act, 0
        self.fsync, self.save_file = os.fsync, files.save_file
        sys.addaudithook(self.on_event)
        os.fsync = self.on_fsync
        files.save_file = self.on_save_file

    def on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and self.is_inside(path):
                self.count(False, f"open {path}")
        elif event in self.CHANGES:
            path = arguments[1] if event == "os.symlink" else arguments[0]
            if self.is_inside(path) or (event in self.FREES and arguments[-1] != -1):
                self.count(event in self.FREES, f"{event} {path}")

    def is_inside(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder)

    def on_fsync(self, descriptor: int) -> None:
        self.count(False, "fsync")
        self.fsync(descriptor)

    def on_save_file(self, tensors: Any, path: Any, *rest: Any, **keywords: Any) -> None:
        self.save_file(tensors, path, *rest, **keywords)
        size = os.path.getsize(path)
        try:
            with open(path, "r+b") as file:  # half of it was written when it happened; this is the call that counts
                file.truncate(size // 2)
        except OSError as error:
            reason = f"{error.strerror} (os error {error.errno})"  # as the library words it
            raise SafetensorError(f"Error while serializing: I/O error: {reason}") from error
        self.save_file(tensors, path, *rest, **keywords)

    def count(self, is_free: bool, what: str) -> None:
        self.calls += 1
        self.act(self.calls, is_free, what)


def count_disk_calls(folder: str, into: str) -> None:
    """Leaves in the file `into` a line for each call of a run."""
    lines = open(into, "w", buffering=1)  # noqa: SIM115  (until the process ends)
    Disk(folder, lambda number, is_free, what: print(is_free, what, file=lines))


def disk_refuses(folder: str, at: int, code: int, lasting: bool = True) -> None:
    """Call number `at` fails, and if `lasting` all that need space and come later."""

    def refuse(number: int, is_free: bool, what: str) -> None:
        is_full = code in (errno.ENOSPC, errno.EDQUOT)
        if (number == at or (lasting and number > at)) and not (is_free and is_full):
            raise OSError(code, os.strerror(code), what)

    Disk(folder, refuse)


def killed_at_disk_call(folder: str, at: int, number: int = signal.SIGKILL, times: int = 1) -> None:
    """The process gets a signal as it makes call number `at`, and, if `times` is larger, at each of the next ones."""

    def die(call: int, is_free: bool, what: str) -> None:
        if at <= call < at + times:
            os.kill(os.getpid(), number)

    Disk(folder, die)


def file_size_limit(size: int) -> None:
    """No file may grow beyond `size` bytes: the system itself refuses, safetensors' writes as well."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def as_nobody() -> None:
    """Without root's rights, which no permission stops."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def clock(kind: str) -> None:
    """Time stands still, runs backwards, or jumps; files get such times as well."""
    start, calls = time.time(), iter(range(10**9))
    jump = {
        "frozen": lambda n: 0.0,
        "backwards": lambda n: -3600.0 * n,
        "jumps": lambda n: 86400.0 * 365 * (-1) ** n * (n % 7),
        "epoch": lambda n: -start,
        "far": lambda n: 2.0**33 * (n + 1),
    }[kind]
    time.time = lambda: start + jump(next(calls))
    if kind == "frozen":  # of a coarse clock; those below may stand still, but never go back
        time.perf_counter = time.monotonic = lambda: 1000.0
    rename = os.rename

    def rename_and_date(source: Any, target: Any, **keywords: Any) -> None:
        rename(source, target, **keywords)
        if not os.path.islink(target):
            os.utime(target, (max(0.0, time.time()),) * 2)

    os.rename = rename_and_date


def poisoned(micro_batch: int, value: float, where: str) -> None:
    """The micro-batch of that number, from 1, gives `value`: as loss, in the gradient alone, or in a weight."""
    calls, right = iter(range(1, 10**9)), trainer.loss_sum

    def loss_sum(model: torch.nn.Module, batch: SupervisedBatch) -> torch.Tensor:
        is_now = next(calls) == micro_batch
        if is_now and where == "weight":
            with torch.no_grad():
                next(model.parameters()).view(-1)[0] = value
        loss = right(model, batch)
        if is_now and where == "gradient":
            loss.register_hook(lambda gradient: gradient * value)
        return loss * value if is_now and where == "loss" else loss

    trainer.loss_sum = loss_sum


def source_breaks(at: int, error: str) -> None:
    """The data for update `at` cannot be made."""
    make = trainer.Run.make_update
    kinds = {"OSError": OSError(errno.EIO, os.strerror(errno.EIO), "/data/tokens.bin"), "MemoryError": MemoryError()}

    def make_update(self: trainer.Run, t: int) -> list[SupervisedBatch]:
        if t == at:
            raise kinds[error]
        return make(self, t)

    trainer.Run.make_update = make_update


def at_update(number: int, action: str, rank: int = 0) -> None:
    """Before update `number`, counted from 1 in this process, rank `rank` dies, stops, or hears a signal."""
    if int(os.environ.get("RANK", 0)) != rank:
        return
    calls, update = iter(range(1, 10**9)), trainer.Run.update

    def act(self: trainer.Run, *arguments: Any) -> int:
        if next(calls) == number:
            os.kill(os.getpid(), signal.Signals[action])
        return update(self, *arguments)

    trainer.Run.update = act


def storm(first: str, signals: list[int], every: float) -> None:
    """From the first call of a method of Run on, signals rain in from another thread until the process ends."""
    method, begun = getattr(trainer.Run, first), threading.Event()

    def rain() -> None:
        begun.wait()
        while True:
            for number in signals:
                os.kill(os.getpid(), number)
                time.sleep(every)

    def begin(self: trainer.Run, *arguments: Any) -> Any:
        begun.set()
        time.sleep(every)
        return method(self, *arguments)

    setattr(trainer.Run, first, begin)
    threading.Thread(target=rain, daemon=True).start()


def slow_updates(seconds: float) -> None:
    """So that a signal or a kill strikes in training, not after it."""
    update = trainer.Run.update

    def wait(self: trainer.Run, *arguments: Any) -> int:
        time.sleep(seconds)
        return update(self, *arguments)

    trainer.Run.update = wait


def begins_late(seconds: float) -> None:
    time.sleep(seconds)
