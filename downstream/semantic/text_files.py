"""Documents made ready for training: a tokenizer and two token files in a folder of their own, made once."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from core.config import home
from core.documents import Documents
from core.errors import UserError
from core.files import lock, make_folder
from core.token_files import TokenFile
from core.token_writer import write
from core.tokenizer import Tokenizer
from downstream.semantic.config import TextConfig
from downstream.semantic.text_sources import Sources, sources, tokenizer_of


class Ready(NamedTuple):
    tokenizer: Tokenizer
    train: TokenFile
    validation: TokenFile
    held_out: str  # what was, in words


class Limits(NamedTuple):
    """How much is read; None is all. Of the hub no more than a run needs; files are read whole, for their order is no
    random one."""

    documents: int | None
    tokens: int | None
    validation_documents: int | None


def make_ready(config: TextConfig, rows: int) -> Ready:
    """Makes what is not ready yet, for a run of so many rows. One of several processes does it, the others wait.

    Training documents that are also in the validation file are left out. Raises UserError.
    """
    found, limits = sources(config), limits_of(config, rows)
    folder = folder_of(config, found, limits)
    make_folder(folder, "prepared_dir")
    with lock(folder, waits=True):
        tokenizer = tokenizer_of(config, found, limits.validation_documents, folder)
        path = folder / "validation.bin"
        if not is_whole(path):
            write(path, found.validation, tokenizer, limit=limits.validation_documents, ends=config.separate_documents)
        validation = opened(path, tokenizer, found.validation)
        path = folder / "train.bin"
        if not is_whole(path):
            write(
                path,
                found.train,
                tokenizer,
                limit=limits.documents,
                most_tokens=limits.tokens,
                exclude=[validation],
                ends=config.separate_documents,
            )
        return Ready(tokenizer, opened(path, tokenizer, found.train), validation, found.held_out)


def limits_of(config: TextConfig, rows: int) -> Limits:
    if config.data is not None:
        return Limits(config.max_documents, None, None)
    tokens = -(-rows // (config.passes or 1)) * config.seq_length + 1
    validation = config.validation_documents if config.validation_data is None else None
    return Limits(config.max_documents, tokens, validation)


def folder_of(config: TextConfig, found: Sources, limits: Limits) -> Path:
    """Named by all that decides on what is in it."""
    settings: list[Any] = [config.text_column, config.tokenizer, *limits]
    settings += [config.vocab_size] if config.tokenizer == "train" else []
    settings += [] if config.separate_documents else ["not separated"]
    key = hashlib.blake2b(json.dumps([found.key, settings]).encode(), digest_size=8).hexdigest()
    return home(config.prepared_dir) / f"{config.name}-{key}"


def is_ready(config: TextConfig, rows: int) -> bool:
    """Whether `make_ready` would find everything made."""
    folder = folder_of(config, sources(config), limits_of(config, rows))
    return is_whole(folder / "train.bin")  # which comes last


def is_whole(path: Path) -> bool:
    return path.with_suffix(".meta.json").exists()


def opened(path: Path, tokenizer: Tokenizer, source: Documents) -> TokenFile:
    file = TokenFile(path, tokenizer, advice="delete its folder to have it made anew")
    if not len(file):
        key = "data" if source.identity()["kind"] == "local-files" else "dataset"
        raise UserError(f"{key}: there are no documents for {path.stem}")
    return file
