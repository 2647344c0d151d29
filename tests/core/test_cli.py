"""What every command does where its words go nowhere."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(*words: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", *words]
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_reader_who_has_seen_enough_is_no_error():
    with start("procedural_data.cli", "inspect", "sort", "--show", "200") as command:
        command.stdout.readline()
        command.stdout.close()  # as `head -1` does
        assert command.stderr.read() == b""
        assert command.wait() == 141  # what a shell reports of a program that a closed pipe ended


def test_a_terminal_that_cannot_write_a_sign_gets_its_number():
    words = ["inspect", "dataset=capo", "dataset.config.num_people=9", "show=1"]
    with start("synthetic_tasks.cli", *words, PYTHONIOENCODING="ascii") as command:
        out, err = command.communicate()
    assert (command.returncode, err) == (0, b"")
    assert rb"[\u2581was]" in out
