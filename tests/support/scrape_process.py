"""Scrapes in processes of their own, which can be killed; they are forked from one that has imported everything."""

import multiprocessing
import os
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from core.cli import status_of
from core.config import write_yaml
from curriculum.sources.web import WebPages


def context() -> ForkServerContext:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    return server


def start(keys: dict[str, Any], folder: Path, output: Path) -> BaseProcess:
    """The process; its exit code is that of a command. What it says goes to `output`."""
    process = context().Process(target=_scrape, args=(keys, folder, output))
    process.start()
    return process


def _scrape(keys: dict[str, Any], folder: Path, output: Path) -> None:
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

    raise SystemExit(status_of(lambda: texts(keys, folder)))


def texts(keys: dict[str, Any], folder: Path) -> list[str]:
    """What is fetched under `keys`, with cache and manifest in `folder`."""
    file = folder.with_suffix(".yaml")
    file.write_text(write_yaml(keys))
    return [document.text for document in WebPages(str(file), str(folder.parent)).documents() if not document.problem]
