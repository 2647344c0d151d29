"""Starts a command again and again, each time killed by SIGKILL, until it may end by itself.

python kill_and_resume.py SEED KILLS MODULE ARGUMENT...   (MODULE has a `main`, such as procedural_pretraining.cli)

One process imports everything and forks for each attempt, so that an attempt costs no start-up. Half of the attempts
die within milliseconds after a random update, whatever they do then; the others in a save, as they flush a random file.
Moments are counted in updates and files, not in seconds, so that every kill strikes on a fast machine, too.
"""

import importlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable

import torch._dynamo  # noqa: F401  which every optimiser imports, in more time than an attempt takes otherwise

from core import files, trainer


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_updates(updates: int, seconds: float) -> None:
    note = trainer.Run.note

    def note_and_die(self, *arguments):
        nonlocal updates
        updates -= 1
        if updates == 0:
            threading.Timer(seconds, die).start()
        note(self, *arguments)

    trainer.Run.note = note_and_die


def die_in_a_save(calls: int) -> None:
    flush = files.flush

    def flush_or_die(path):
        nonlocal calls
        calls -= 1
        if calls == 0:
            die()
        flush(path)

    files.flush = flush_or_die


def attempt(
    main: Callable[[list[str]], int], arguments: list[str], choice: random.Random, number: int, kills: int
) -> int:
    """The exit status of one attempt; negative if it was killed."""
    in_a_save, updates, seconds, calls = (
        number % 2,
        choice.randint(1, 12),
        choice.uniform(0, 0.01),
        choice.randint(1, 10),
    )
    child = os.fork()
    if child == 0:
        if number < kills and in_a_save:
            die_in_a_save(calls)
        elif number < kills:
            die_after_updates(updates, seconds)
        os._exit(main(arguments))
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    choice, kills = random.Random(int(sys.argv[1])), int(sys.argv[2])
    main = importlib.import_module(sys.argv[3]).main
    killed, status, number = 0, -1, 0
    while status < 0:
        status = attempt(main, sys.argv[4:], choice, number, kills)
        killed += status < 0
        number += 1
    print(f"killed {killed} times")
    sys.exit(status)
