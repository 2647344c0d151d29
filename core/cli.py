"""Verbs to functions: what every package's `cli.py` is made of."""

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import takewhile
from typing import Any

from core import config
from core.errors import CommandError, UserError
from core.signals import leave_on_signals

HELP_FLAGS = ("--help", "-h")
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory")  # PyTorch's words, on a GPU and on a CPU


@dataclass(frozen=True)
class Verb:
    """What a command can be told to do. Its function takes the checked configuration, or nothing without a schema."""

    function: Callable[..., Any]
    schema: config.Schema | None = None
    rehearsal: Callable[..., Any] | None = None  # what --dry_run calls instead
    words: str | None = None  # the key, a list, that words right after the verb are the value of
    word: str | None = None  # the key that the one word right after the verb is the value of


def run_verbs(verbs: dict[str, Verb], argv: list[str] | None, *, doc: str, default: str) -> int:
    """Runs `[VERB] [--config FILE] [--key value ...]` and returns the exit status.

    0 done, 1 the run failed, 2 the command cannot be carried out, 75 stopped by a signal and to be started again,
    130 stopped by Ctrl-C, 141 nobody reads any more. Errors meant for people are one line each, without a traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return status_of(lambda: _run(verbs, arguments, doc, default))


def status_of(command: Callable[[], Any]) -> int:
    """Carries a command out and returns its exit status, as `run_verbs` says."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names of tokens that a terminal cannot write
    undo = leave_on_signals()
    try:
        status = _status_of(command)
    except KeyboardInterrupt:  # once more, while the first was being answered
        status = 130
    if status not in (75, 130):  # after the first signal others may come until the process ends; they change nothing
        undo()
    return status


def _status_of(command: Callable[[], Any]) -> int:
    try:
        command()
        print(end="", flush=True)
    except CommandError as error:
        return _report(error.problems, error.status)
    except KeyboardInterrupt:
        return _report(("interrupted",), 130)
    except BrokenPipeError:  # as with `| head`: whoever read what this prints has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 141
    except OSError as error:
        return _report((str(error),), 1)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        reason = str(error).strip().partition("\n")[0] or "an allocation failed"
        return _report((f"out of memory: {reason}. Use a smaller batch_size or a smaller model",), 1)
    return 0


def _run(verbs: dict[str, Verb], arguments: list[str], doc: str, default: str) -> None:
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else default
    if name not in verbs:
        raise UserError(f"{name!r}: no such verb; there are {', '.join(verbs)}")
    verb = verbs[name]
    if verb.word and arguments and not arguments[0].startswith("-"):
        arguments = [*arguments[1:], f"--{verb.word}={arguments[0]}"]
    words = list(takewhile(lambda word: not word.startswith("-"), arguments)) if verb.words else []
    arguments = arguments[len(words) :] + ([f"--{verb.words}={json.dumps(words)}"] if words else [])
    asks_help = any(flag in arguments for flag in HELP_FLAGS)
    flags = config.read_flags([word for word in arguments if word not in HELP_FLAGS])
    file = flags.pop("config", None)
    if file == "":  # as of a variable that is not set
        raise UserError("--config: is empty; it takes a YAML or JSON file")
    switches = {switch: _is_on(switch, flags.pop(switch, "false")) for switch in ("print_config", "dry_run")}
    if asks_help:
        return print(_help(verbs, name, doc, file, flags))
    if verb.schema is None:
        if file or flags or any(switches.values()):
            raise UserError(f"{name} takes no options")
        return verb.function()
    try:
        _carry_out(verb, name, config.resolve(verb.schema, file, flags), switches)
    except UserError as error:
        raise UserError(*config.as_given(error.problems, verb.schema, file, flags)) from error


def _carry_out(verb: Verb, name: str, checked: Any, switches: dict[str, bool]) -> None:
    if switches["print_config"]:
        return print(config.as_yaml(checked), end="")
    if switches["dry_run"]:
        if verb.rehearsal is None:
            raise UserError(f"--dry_run: {name} cannot be rehearsed")
        return verb.rehearsal(checked)
    return verb.function(checked)


def _is_on(switch: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise UserError(f"--{switch}: {text!r} is not allowed; it takes true or false")
    return text == "true"


def _help(verbs: dict[str, Verb], name: str, doc: str, file: str | None, flags: dict[str, str]) -> str:
    verb, others = verbs[name], ", ".join(verbs)
    text = f"{doc.strip()}\n\nVerbs: {others}. This is the help of `{name}`.\n"
    if verb.schema is None:
        return text + "It takes no options."
    given = {**(config.read_file(file) if file else {}), **flags}
    text += "\n  --config FILE  keys from a YAML or JSON file; those given as flags win\n"
    text += "  --print_config  print the resolved configuration and do nothing else\n"
    if verb.rehearsal is not None:
        text += "  --dry_run  build everything, try a few steps, report size and expected duration, write nothing\n"
    return text + config.help_of(verb.schema(given))


def _report(problems: tuple[str, ...], status: int) -> int:
    rank = os.environ.get("RANK", "0")
    if rank == "0" or status == 1:  # under torchrun every rank meets the same problem, but each may fail by itself
        own = "" if rank == "0" else f"rank {rank}: "
        for problem in problems:
            print(f"error: {own}{problem}" if status in (1, 2) else problem, file=sys.stderr)
    return status
