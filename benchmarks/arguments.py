"""What options of benchmarks may be: refused in words by argparse, before anything is measured."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from core.errors import UserError
from core.files import check_folder


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; it takes an integer >= 1")
    return int(text)


def new_file(text: str) -> Path:
    """A file that is written at the end: the work of minutes should not be lost to a name."""
    path = Path(text)
    try:
        check_folder(path.absolute().parent, text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder")
    return path


def some_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Some of the names, separated by commas."""

    def chosen(text: str) -> list[str]:
        given = text.split(",")
        if unknown := [name for name in given if name not in names]:
            raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}; it takes some of {', '.join(names)}")
        return given

    return chosen


def sizes(text: str) -> list[str]:
    """Sizes of models, separated by commas."""
    from core.model import parse_size  # with PyTorch, which not all benchmarks are to load

    given = text.split(",")
    try:
        for size in given:
            parse_size(size)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return given
