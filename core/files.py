"""Files that are whole or not there, whose failures are the system's own words, and what proves them intact."""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def write_whole(path: Path, text: str) -> None:
    """Writes a file that holds all of `text`, as UTF-8, or what it held before, whatever happens meanwhile."""
    partial = partial_of(path)
    try:
        partial.write_text(text, encoding="utf-8")
        flush(partial)  # or a power cut might leave the new name with nothing in it
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """As `write_whole`, for people to read."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def partial_of(path: Path) -> Path:
    """The name of a file while it is written."""
    return path.with_name(f".{path.name}.partial")


def save_file(tensors: "dict[str, Tensor]", path: Path, metadata: dict[str, str] | None = None) -> None:
    """The library's, imported when it is needed: what writes nothing but text can do without PyTorch."""
    from safetensors import torch

    torch.save_file(tensors, path, metadata)


def write_tensors(tensors: "dict[str, Tensor]", path: Path, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, for all who may read the folder: the library's are for their owner alone.

    Raises OSError, where the library would tell of a full disk by an error of its own.
    """
    try:
        save_file(tensors, path, metadata)
        path.chmod(path.parent.stat().st_mode & 0o666)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def link(path: Path, target: str) -> None:
    """Points a link at what has the name `target` beside it, in one step that cannot leave it dangling."""
    partial = partial_of(path)
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(path)


def sha256_of(path: Path) -> str:
    """The hash of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, key: str) -> None:
    """Raises UserError, naming the key, unless the folder is there then and can be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".lock").open("a").close()
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be written: {error.strerror}") from error


def check_folder(path: Path, key: str) -> None:
    """Raises UserError, naming the key, unless the folder is there or can be made, and can be written to.

    It leaves nothing, as what is asked for may still be refused for other reasons.
    """
    try:
        there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
        TemporaryFile(dir=there).close()
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be written: {error.strerror}") from error


@contextmanager
def lock(folder: Path, waits: bool = False) -> Iterator[None]:
    """Holds a folder, made if it is not there; raises UserError if another process does, or `waits` for it.

    The system frees it when a process dies.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / ".lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(f"{folder}: another run is writing here; wait for it or choose another folder") from None
        except OSError as error:
            raise UserError(f"{folder}: cannot be locked: {error}") from error
        yield
