"""What every benchmark prints and writes beside its figures: the machine they hold for, aligned lines, JSON."""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from core.distributed import pick_device


def device_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> torch.device:
    """What `--device` names. Ends the program in words if that is not there, or cannot compile as `--compile` asks."""
    try:
        device = pick_device(options.device)
    except ValueError as error:
        parser.error(str(error))
    if getattr(options, "compile", False) == "reduce-overhead" and device.type != "cuda":
        parser.error("--compile reduce-overhead replays CUDA graphs, which takes a GPU")
    return device


def machine(*packages: str) -> dict[str, Any]:
    """The processor, the GPU if there is one, and the versions of Python and of `packages`."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def sentence(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line of a table that is printed as it grows: names on the left, figures on the right of their columns."""
    first, *others = (
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others])


def write(path: Path, facts: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)  # or the work of minutes would be lost to a name
    path.write_text(json.dumps({**facts, "results": results}, indent=2) + "\n")


def conclude(facts: dict[str, Any], result: dict[str, Any], path: Path | None) -> int:
    """Prints a result of one line a figure, writes it if there is a `path`, and returns the exit status."""
    print(sentence(facts))
    for name, value in result.items():
        print(f"{name:<30}{value}")
    if path:
        write(path, facts, [result])
    return 0 if result["within the bar"] else 1
