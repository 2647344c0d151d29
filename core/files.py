"""Files that are whole or not there, and whose failures are the system's own words."""

import os
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def write_whole(path: Path, text: str) -> None:
    """Writes a file that holds all of `text`, or what it held before, whatever happens meanwhile."""
    partial = partial_of(path)
    try:
        partial.write_text(text)
        flush(partial)  # or a power cut might leave the new name with nothing in it
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def partial_of(path: Path) -> Path:
    """The name of a file while it is written."""
    return path.with_name(f".{path.name}.partial")


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
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


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
