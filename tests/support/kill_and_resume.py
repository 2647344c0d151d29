"""Run by test_resume.py: starts a command again and again, killing it with SIGKILL, until it ends by itself.

python kill_and_resume.py SEED KILLS ARGUMENT...

One process imports everything and forks for each attempt, so that an attempt costs no start-up. Every other attempt
is killed at a random moment, the rest inside a save: at a random one of its calls that flush a file to the disk.
"""

import os
import random
import signal
import sys
import time

from core import checkpoint
from procedural_pretraining import cli


def die_in_a_save(calls: int) -> None:
    flush = checkpoint._flush

    def flush_or_die(path):
        nonlocal calls
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(path)

    checkpoint._flush = flush_or_die


def attempt(arguments: list[str], choice: random.Random, number: int, kills: int) -> int:
    """The exit status of one attempt; negative if it was killed."""
    child = os.fork()
    if child == 0:
        if number < kills and number % 2:
            die_in_a_save(choice.randint(1, 20))
        os._exit(cli.main(arguments))
    if number < kills and number % 2 == 0:
        time.sleep(choice.uniform(0.1, 1.2))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    choice, kills = random.Random(int(sys.argv[1])), int(sys.argv[2])
    killed, status, number = 0, -1, 0
    while status < 0:
        status = attempt(sys.argv[3:], choice, number, kills)
        killed += status < 0
        number += 1
    print(f"killed {killed} times")
    sys.exit(status)
