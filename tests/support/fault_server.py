"""Carries out commands in which something goes wrong: each in a fork of this process, which has imported everything.

python fault_server.py   (reads a JSON list of attempts a line, answers with a JSON list of outcomes)

The attempts of a list run at the same time. An attempt:

    module, argv   whose `main` is called, and with what
    faults         [[name, {keyword: value}], ...], functions of `faults` that are called before, in the fork
    environ        further environment variables
    signals        [[seconds after the start, number], ...], sent while it runs; SIGKILL is one of them
    limit          seconds after which it counts as hanging and is killed

An outcome: `status` (negative: the signal that ended it), `said` (all that it wrote), `seconds`, `hung`.
"""

import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from typing import Any

import faults
import torch
from tqdm import tqdm

from core import plots
from procedural_pretraining import cli as pretraining


class Attempt:
    """A fork that is under way."""

    def __init__(self, order: dict[str, Any]):
        self.order, self.said = order, b""
        self.output, write_end = os.pipe()  # which no limit on the size of files concerns
        os.set_blocking(self.output, False)
        self.signals = sorted(order.get("signals", []))
        self.outcome: dict[str, Any] | None = None
        self.hung = False
        sys.stdout.flush()
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            carry_out(order, write_end)
        os.close(write_end)

    def look(self) -> None:
        """Sends the signals that are due, and notes the outcome if there is one."""
        seconds = time.monotonic() - self.started
        if seconds > self.order["limit"] and not self.hung:
            self.hung = True
            os.kill(self.pid, signal.SIGKILL)
        while self.signals and self.signals[0][0] <= seconds:
            os.kill(self.pid, self.signals.pop(0)[1])  # it is not waited for yet, so that the number is still its own
        done, status = os.waitpid(self.pid, os.WNOHANG)
        self.listen()
        if done:
            os.close(self.output)
            said = self.said.decode(errors="replace")
            code = os.waitstatus_to_exitcode(status)
            self.outcome = {"status": code, "said": said, "seconds": seconds, "hung": self.hung}

    def listen(self) -> None:
        with suppress(BlockingIOError):
            while part := os.read(self.output, 65536):
                self.said += part


def carry_out(order: dict[str, Any], output: int) -> None:
    """In the fork: never returns."""
    status = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(order.get("environ", {}))
        tqdm.set_lock(threading.RLock())  # its own is shared by all forks, and stays locked by one that is killed
        main = importlib.import_module(order["module"]).main
        for name, keywords in order["faults"]:
            getattr(faults, name)(**keywords)
        status = main(order["argv"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def draw_nothing(panels: Any, path: Any, **_: Any) -> Any:
    """In place of matplotlib, which takes longer than the rest of a run: as many calls to the system, and a file."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"a picture")
    return path


def warm_up() -> None:
    """A run in this process: what PyTorch sets up at first use is then there in every fork."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        keys = {"task": "set", "seq_length": 4, "vocab_size": 12, "max_steps": 2, "save_dir": folder, "device": "cpu"}
        assert pretraining.main([f"--{key}={value}" for key, value in keys.items()]) == 0


def main() -> None:
    torch.set_num_threads(1)
    plots.draw_panels = draw_nothing
    warm_up()
    print("ready", flush=True)
    for line in sys.stdin:
        attempts = [Attempt(order) for order in json.loads(line)]
        while any(attempt.outcome is None for attempt in attempts):
            for attempt in attempts:
                if attempt.outcome is None:
                    attempt.look()
            time.sleep(0.001)
        print(json.dumps([attempt.outcome for attempt in attempts]), flush=True)


if __name__ == "__main__":
    main()
