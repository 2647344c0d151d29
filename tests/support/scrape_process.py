"""Scrapes in processes of their own, which can be killed; they are forked from one that has imported everything."""

import json
import multiprocessing
import os
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from core.cli import status_of
from curriculum.scraping.config import WebSources
from curriculum.sources.web import scrape


def context() -> ForkServerContext:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    return server


def start(keys: dict[str, Any], folder: Path, output: Path) -> BaseProcess:
    """The process; its exit code is that of a command. What it says goes to `output`, its texts to texts.json."""
    process = context().Process(target=_scrape, args=(keys, folder, output))
    process.start()
    return process


def _scrape(keys: dict[str, Any], folder: Path, output: Path) -> None:
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

    def command() -> None:
        texts = list(scrape(WebSources.model_validate(keys), folder))
        (folder / "texts.json").write_text(json.dumps(texts))

    raise SystemExit(status_of(command))
