"""What options of benchmarks may be: refused in words by argparse, before anything is measured."""

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; it takes an integer >= 1")
    return int(text)


def new_file(text: str) -> Path:
    """A file that is written at the end: the work of minutes should not be lost to a name."""
    path = Path(text)
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written")
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
