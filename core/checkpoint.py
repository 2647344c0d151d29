"""Checkpoints: folders that appear whole or not at all, prove that they are intact, and that `transformers` loads."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from core import files, hf

MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.safetensors"
STATE = "trainer_state.json"


def list_steps(run_dir: Path) -> list[int]:
    """Steps of the checkpoint folders in `run_dir`, ascending, intact or not."""
    names = (path.name for path in run_dir.glob("checkpoint-*"))
    return sorted(int(m[1]) for name in names if (m := re.fullmatch(r"checkpoint-(\d+)", name)))


def folder(run_dir: Path, step: int) -> Path:
    return run_dir / f"checkpoint-{step}"


def run_dir_of(path: Path) -> Path:
    """The folder of the run that a checkpoint belongs to: where its name stands, or where a link leads."""
    parents = (path.absolute().parent, path.resolve().parent)
    return next((parent for parent in parents if (parent / "config.yaml").exists()), parents[-1])


def missing(path: Path) -> str | None:
    """Why `path` is not the folder of a model at all, with the one that may be meant; None if it is, intact or not."""
    if (path / "config.json").exists() or (path / MANIFEST).exists():
        return None
    if steps := list_steps(path):
        return f"{path} is a run's folder, take one of its checkpoints, such as {folder(path, steps[-1])}"
    if not path.exists():
        steps = list_steps(path.parent)
        return f"{path} does not exist" + (f"; the newest there is {folder(path.parent, steps[-1])}" if steps else "")
    what = "is a file" if path.is_file() else "holds no config.json"
    return f"{path} {what}; it takes a folder with config.json and model.safetensors"


def save(
    run_dir: Path,
    step: int,
    model: nn.Module,
    optimizer_state: dict[str, Tensor],
    state: dict[str, Any],
    pad_token: int | None,
) -> Path:
    """Writes `run_dir/checkpoint-{step}` and returns it.

    Files are written to a hidden folder, flushed to the disk and listed with sizes and hashes; then the folder is
    renamed. A folder that already has the name (damaged, or it would have been resumed) is kept under `.damaged`.
    """
    partial = run_dir / f".checkpoint-{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        hf.save(model, partial, pad_token=pad_token)
        files.write_tensors({k: v.contiguous() for k, v in optimizer_state.items()}, partial / OPTIMIZER)
        (partial / STATE).write_text(json.dumps(state, indent=2, allow_nan=False) + "\n")
        _write_manifest(partial)
        for path in [*partial.iterdir(), partial]:
            files.flush(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    final = folder(run_dir, step)
    if final.exists():
        _move_aside(final)
    partial.rename(final)
    files.flush(run_dir)
    return final


def optimizer_state(path: Path) -> dict[str, Tensor]:
    return load_file(path / OPTIMIZER)


def read_state(path: Path) -> dict[str, Any]:
    return json.loads((path / STATE).read_text())


def newest_intact(run_dir: Path, say: Callable[[str], None]) -> int | None:
    """Step of the newest checkpoint that is whole; every damaged one above it is named. None if there is none."""
    for step in reversed(list_steps(run_dir)):
        problem = damage(folder(run_dir, step))
        if problem is None:
            return step
        say(f"{folder(run_dir, step)} is damaged and skipped: {problem}")
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, compared byte for byte with its manifest; None if nothing is."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        listed = manifest["files"]
        if manifest["sha256"] != _hash_of_list(listed):
            return f"{MANIFEST} does not match its own hash"
        for name, expected in listed.items():
            size = (path / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size:,} bytes, not {expected['bytes']:,}"
            if files.sha256_of(path / name) != expected["sha256"]:
                return f"{name} does not match its hash"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def prune(run_dir: Path, newest: int, limit: int | None, keep: set[int]) -> None:
    """Deletes the oldest checkpoints until `limit` are left, but never `newest`, the best, or those in `keep`.

    Checkpoints later than `newest` belong to a damaged future that a resume has given up: they neither count nor go.
    """
    if limit is None:
        return
    counted = [step for step in list_steps(run_dir) if step <= newest and step not in keep]
    protected = {newest, best_step(run_dir)}
    surplus = max(0, len(counted) - limit)
    for step in [step for step in counted if step not in protected][:surplus]:
        path = folder(run_dir, step)
        if path.is_symlink():  # somebody keeps it elsewhere
            path.unlink()
        else:
            shutil.rmtree(path)


def best_step(run_dir: Path) -> int | None:
    """The step that `run_dir/best` points to; None without a link to a checkpoint."""
    link = run_dir / "best"
    match = re.fullmatch(r"checkpoint-(\d+)", link.readlink().name) if link.is_symlink() else None
    return int(match[1]) if match else None


def link_best(run_dir: Path, step: int) -> None:
    """Points `run_dir/best` at a checkpoint."""
    files.link(run_dir / "best", folder(run_dir, step).name)


def _write_manifest(path: Path) -> None:
    listed = {p.name: {"bytes": p.stat().st_size, "sha256": files.sha256_of(p)} for p in sorted(path.iterdir())}
    (path / MANIFEST).write_text(json.dumps({"files": listed, "sha256": _hash_of_list(listed)}, indent=2) + "\n")


def _hash_of_list(files: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _move_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged{number}")).exists():
        number += 1
    path.rename(aside)
