"""Streams of text documents, always the same ones in the same order: local files, and data sets of the hub."""

import codecs
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from core.config import home
from core.errors import UserError
from core.files import sha256_of

TEXT = (".txt", ".md", ".py")
TABLES = (".jsonl", ".parquet")
SUFFIXES = TEXT + TABLES


class Document(NamedTuple):
    text: str
    where: str  # file and line, address or number: for messages
    problem: str = ""  # why there is no text; such a document is dropped, and counted under this name


class Documents(ABC):
    """Where documents come from. Writers of token files go through one once, and on from any number."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What was asked for, JSON values: two sources with the same identity are meant to hold the same documents."""

    def version(self) -> str:
        """What is there at present, so that a change of it can be seen; empty where that cannot be known."""
        return ""

    @abstractmethod
    def documents(self, start: int = 0) -> Iterator[Document]:
        """All documents from number `start` on. Raises UserError if they cannot be had at all."""


class LocalFiles(Documents):
    """The files that are named, and those of SUFFIXES in folders that are named, in the order of their names.

    Text is UTF-8. A `.txt`, `.md` or `.py` file is one document; with a `separator`, its parts between lines that hold
    nothing else (`""`: between empty lines). A line of `.jsonl` and a row of `.parquet` are documents, whose text is
    in `text_column`. Raises UserError for a path without such files.
    """

    def __init__(self, paths: Sequence[str], text_column: str = "text", separator: str | None = None):
        self.paths, self.text_column, self.separator = list(paths), text_column, separator
        self.files = [file for path in paths for file in _files_of(home(path))]
        doubles = sorted({str(file) for file in self.files if self.files.count(file) > 1}) if len(paths) > 1 else []
        if doubles:
            raise UserError(f"{doubles[0]}: is named twice, by the paths {', '.join(paths)}")

    def identity(self) -> dict[str, Any]:
        asked = {"paths": self.paths, "text_column": self.text_column, "separator": self.separator}
        return {"kind": "local-files", **asked}

    def version(self) -> str:
        """A hash of the names and contents of all files."""
        total = hashlib.sha256()
        for path in self.files:
            total.update(os.fsencode(f"{path.name}\0{sha256_of(path)}\n"))
        return total.hexdigest()

    def documents(self, start: int = 0) -> Iterator[Document]:
        number = 0
        for path in self.files:
            is_whole = path.suffix in TEXT and self.separator is None
            if is_whole and number < start:
                number += 1  # without reading it
                continue
            for document in iter([_decoded(path.read_bytes(), str(path))]) if is_whole else self._inside(path):
                if number >= start:
                    yield document
                number += 1

    def _inside(self, path: Path) -> Iterator[Document]:
        if path.suffix == ".jsonl":
            return self._lines(path)
        return self._rows(path) if path.suffix == ".parquet" else self._parts(path)

    def _parts(self, path: Path) -> Iterator[Document]:
        """The parts of a text file between separators, blank ones left out."""
        part: list[bytes] = []
        first = 1
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                bare = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if bare.strip() == str(self.separator).encode():
                    if any(map(bytes.strip, part)):
                        yield _decoded(b"".join(part), f"{path}:{first}")
                    part, first = [], number + 1
                else:
                    part.append(line)
        if any(map(bytes.strip, part)):
            yield _decoded(b"".join(part), f"{path}:{first}")

    def _lines(self, path: Path) -> Iterator[Document]:
        """The objects of a `.jsonl` file; lines without any are none."""
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield self._line(line, f"{path}:{number}")

    def _line(self, line: bytes, where: str) -> Document:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # the latter for brackets within brackets
            return Document("", where, "not JSON")
        return of_row(row if isinstance(row, dict) else {}, self.text_column, where)

    def _rows(self, path: Path) -> Iterator[Document]:
        from pyarrow import ArrowException, parquet

        try:
            with parquet.ParquetFile(path) as file:
                if self.text_column not in file.schema_arrow.names:
                    has = ", ".join(file.schema_arrow.names)
                    raise UserError(f"{path}: there is no column {self.text_column!r}; it has {has}")
                batches = file.iter_batches(batch_size=256, columns=[self.text_column])
                values = (value for batch in batches for value in batch.column(0))
                for number, value in enumerate(values):
                    yield self._cell(value, f"{path}:{number}")
        except ArrowException as error:
            raise UserError(f"{path}: is no intact Parquet file: {str(error).splitlines()[0]}") from error

    def _cell(self, value: Any, where: str) -> Document:
        try:
            return of_row({self.text_column: value.as_py()}, self.text_column, where)
        except UnicodeDecodeError:  # Parquet takes any bytes for a text
            return Document("", where, "not UTF-8")


REVISIONS = {  # commits of the data sets that configurations here name, so that a run can be repeated
    "allenai/c4": "1588ec454efa1a09f29cd18ddd04fe05fc8653a2",
    "codeparrot/codeparrot-clean-train": "3e6ab65f2864931e041f6a82db9b5a6ec2b71ab4",
    "codeparrot/codeparrot-clean-valid": "4db92d2ec0c1b4c41eeb439cfae16854511d9dcd",
    "roneneldan/TinyStories": "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64",
}


class HubDataset(Documents):
    """A data set of the Hugging Face hub, or a folder that `datasets` loads, as a stream that is not stored first.

    `revision` is a commit, branch or tag; null takes that of REVISIONS, or what is the main branch at present. With
    `shuffle_buffer`, the order is that of the library's shuffle with a buffer of so many documents, under `seed`.
    """

    def __init__(
        self,
        dataset: str,
        subset: str | None = None,
        split: str = "train",
        text_column: str = "text",
        revision: str | None = None,
        shuffle_buffer: int = 0,
        seed: int = 42,
    ):
        self.dataset, self.subset, self.split, self.text_column = dataset, subset, split, text_column
        self.revision = revision or REVISIONS.get(dataset)
        self.shuffle_buffer, self.seed = shuffle_buffer, seed
        self._version = ""

    @property
    def is_local(self) -> bool:
        return home(self.dataset).is_dir()

    def identity(self) -> dict[str, Any]:
        keys = ("dataset", "subset", "split", "text_column", "revision", "shuffle_buffer", "seed")
        return {"kind": "hub", **{key: getattr(self, key) for key in keys}}

    def version(self) -> str:
        """The commit, or of a folder a hash of its contents. Raises UserError where the hub cannot be reached."""
        if not self._version:
            self._version = _hash_of_folder(home(self.dataset)) if self.is_local else self._commit()
        return self._version

    def _commit(self) -> str:
        try:
            from huggingface_hub import HfApi

            return str(HfApi().dataset_info(self.dataset, revision=self.revision).sha)
        except Exception as error:  # no network, no such data set, no access: each has a type of its own
            reason = f"is no folder, and the hub gave no such data set: {_first_line(error)}"
            raise UserError(f"{self.dataset}: {reason}") from error

    def documents(self, start: int = 0) -> Iterator[Document]:
        try:
            import datasets
        except ImportError:
            raise UserError(f"{self.dataset}: the package datasets is missing; pip install datasets") from None
        revision = None if self.is_local else self.version()
        dataset = str(home(self.dataset)) if self.is_local else self.dataset
        try:
            stream = datasets.load_dataset(dataset, self.subset, split=self.split, revision=revision, streaming=True)
            if self.shuffle_buffer:
                stream = stream.shuffle(seed=self.seed, buffer_size=self.shuffle_buffer)
            for number, row in enumerate(stream.skip(start), start=start):
                if self.text_column not in row:
                    has = ", ".join(row)
                    raise UserError(f"{self.dataset}: there is no column {self.text_column!r}; it has {has}")
                yield of_row(row, self.text_column, f"{self.dataset}:{number}")
        except UserError:
            raise
        except Exception as error:  # of the library, of Arrow, of the network: each has types of its own
            raise UserError(f"{self.dataset}: {_first_line(error)}") from error


def of_row(row: dict[str, Any], column: str, where: str) -> Document:
    """The text in a column of a row."""
    text = row.get(column)
    if not isinstance(text, str):
        return Document("", where, f"no text in column {column!r}")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write
        return Document("", where, "not Unicode")
    return Document(text, where)


def _decoded(content: bytes, where: str) -> Document:
    try:
        return Document(content.decode("utf-8-sig").replace("\r\n", "\n"), where)
    except UnicodeDecodeError as error:
        return Document("", f"{where}, byte {error.start}", "not UTF-8")


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path}: cannot be read as text; it takes files of {', '.join(SUFFIXES)}")
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} does not exist")
    inside = (file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    files = sorted(file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts))
    if not files:
        raise UserError(f"{path}: holds no files of {', '.join(SUFFIXES)}")
    return files


def _hash_of_folder(path: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        total.update(os.fsencode(f"{file.relative_to(path)}\0{sha256_of(file)}\n"))
    return total.hexdigest()


def _first_line(error: Exception) -> str:
    return next(islice((line for line in str(error).splitlines() if line.strip()), 1), type(error).__name__)
