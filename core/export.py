"""Examples as files that `datasets.load_dataset` reads: Parquet or JSON lines, with a card that says what they are."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from tqdm import tqdm

from core.batch import Batch
from core.config import Config, home
from core.errors import UserError
from core.files import flush, lock, partial_of, sha256_of, write_json, write_whole
from core.show import View

PLAN = "export.json"  # what is being written; there before the first row
CARD = "README.md"  # written last: a folder with it is complete
AT_ONCE = 1024  # rows drawn at a time
TYPES = {"input_ids": "int32", "loss_mask": "int8", "labels": "int32"}  # items of the lists


class ExportConfig(Config):
    """The keys of every `export`."""

    out: str = Field(min_length=1, description="folder to write to; an export that was cut off there is continued")
    format: Literal["parquet", "jsonl"] = Field("parquet", description="kind of the files")
    train: int = Field(10_000, ge=0, description="examples of the train split, the first ones that training sees")
    validation: int = Field(1000, ge=0, description="examples of the validation split")
    test: int = Field(1000, ge=0, description="examples of the test split")
    rows_per_file: int = Field(50_000, ge=1, description="examples in a file")

    @property
    def sizes(self) -> dict[str, int]:
        return {split: getattr(self, split) for split in ("train", "validation", "test") if getattr(self, split)}


def export(view: View, identity: dict[str, Any], config: ExportConfig) -> Path:
    """Writes the examples, a file at a time under a name of its own, and the card at the end; returns the folder.

    An export that was cut off goes on after its last whole file, and ends with the same bytes as one that was not.
    `identity` says what the examples are (task, parameters, seed, fingerprint); it stands in the card and in PLAN.
    Raises UserError for a folder that holds anything else.
    """
    folder = home(config.out)
    if not config.sizes:
        raise UserError("train, validation and test are all 0: there is nothing to write")
    has_text = view.text is not None
    plan = {**identity, "format": config.format, "sizes": config.sizes, "rows_per_file": config.rows_per_file}
    has_card = begin(folder, plan)
    files = list(_files(config))
    left = [file for file in files if not (folder / file[0]).exists()]
    done = has_card and not left  # somebody may have deleted a file of a complete one
    if not done:
        with lock(folder), tqdm(total=sum(stop - start for _, _, start, stop in left), unit="row", disable=None) as bar:
            for name, split, start, stop in left:
                _write(view, folder / name, config.format, split, start, stop, bar)
        write_whole(folder / CARD, card(folder, plan, [name for name, *_ in files], has_text))
    rows = sum(config.sizes.values())
    print(f"{'already complete: ' if done else ''}{rows:,} examples in {len(files)} files, {folder}")
    print(f"load them with datasets.load_dataset({str(folder)!r})")
    return folder


def begin(folder: Path, plan: dict[str, Any]) -> bool:
    """Makes the folder, or finds it as the same export left it; whether that got to the card. Raises UserError."""
    try:
        if (folder / PLAN).exists():
            found = _read_plan(folder)
            different = [key for key in {**found, **plan} if found.get(key) != json.loads(json.dumps(plan)).get(key)]
            if different:
                key = different[0]
                has = f"{key} {found.get(key)!r}, not {plan.get(key)!r}"
                raise UserError(f"out: {folder} holds another export, with {has}; use another folder")
            return (folder / CARD).exists()
        if folder.exists() and {path.name for path in folder.iterdir()} - {partial_of(folder / PLAN).name}:
            raise UserError(f"out: {folder} holds other files; use an empty folder or a new one")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PLAN, plan)
    except OSError as error:
        raise UserError(f"out: {folder} cannot be written: {error.strerror or error}") from error
    return False


def _read_plan(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / PLAN).read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"out: {folder / PLAN} does not say what was exported there; use another folder")
    return found


def _files(config: ExportConfig) -> Iterator[tuple[str, str, int, int]]:
    """Of each file its name, and the split and the examples start .. stop - 1 that are in it."""
    for split, size in config.sizes.items():
        count = -(-size // config.rows_per_file)
        for number in range(count):
            start = number * config.rows_per_file
            name = f"data/{split}-{number:05d}-of-{count:05d}.{config.format}"
            yield name, split, start, min(start + config.rows_per_file, size)


def _write(view: View, path: Path, kind: str, split: str, start: int, stop: int, bar: tqdm) -> None:
    """A file, complete or not there at all."""
    partial = partial_of(path)
    partial.parent.mkdir(exist_ok=True)
    batches = (view.batch(split, at, min(at + AT_ONCE, stop)) for at in range(start, stop, AT_ONCE))
    if kind == "parquet":
        _write_parquet(view, partial, batches, bar)
    else:
        with partial.open("w") as file:
            for batch in batches:
                for row in rows_of(view, batch):
                    file.write(json.dumps(row) + "\n")
                bar.update(len(batch.input_ids))
    flush(partial)
    os.replace(partial, path)


def rows_of(view: View, batch: Batch) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries: `input_ids`, `loss_mask`, `labels` (at the token itself), and `text` where there is one."""
    texts = view.text(batch) if view.text else None
    for number, (tokens, labels) in enumerate(view.rows(batch)):
        text = {} if texts is None else {"text": texts[number]}
        yield {**text, "input_ids": tokens, "loss_mask": [int(label >= 0) for label in labels], "labels": labels}


def _write_parquet(view: View, path: Path, batches: Iterator[Batch], bar: tqdm) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    lists = [(name, pa.list_(getattr(pa, kind)())) for name, kind in TYPES.items()]
    schema = pa.schema([*([("text", pa.string())] if view.text else []), *lists])
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            rows = list(rows_of(view, batch))
            columns = {name: [row[name] for row in rows] for name in schema.names}
            ends = np.cumsum([0, *map(len, columns["input_ids"])], dtype=np.int32)
            arrays = [
                pa.array(columns[name])
                if name == "text"
                else pa.ListArray.from_arrays(ends, np.concatenate(columns[name]).astype(TYPES[name]))
                for name in schema.names
            ]
            writer.write_table(pa.table(arrays, schema=schema))
            bar.update(len(rows))


def card(folder: Path, plan: dict[str, Any], files: list[str], has_text: bool) -> str:
    """The README that the hub and `load_dataset` read: where the splits lie, what the columns are, how it was made."""
    splits = "\n".join(
        f"      - split: {split}\n        path: data/{split}-*.{plan['format']}" for split in plan["sizes"]
    )
    hashes = "\n".join(f"| {name} | {sha256_of(folder / name)} |" for name in files)
    text = "- `text`: the example as text.\n" if has_text else ""
    made = json.dumps({key: value for key, value in plan.items() if key not in ("sizes", "rows_per_file")}, indent=2)
    sizes = ", ".join(f"{size:,} {split}" for split, size in plan["sizes"].items())
    return f"""---
configs:
  - config_name: default
    data_files:
{splits}
tags:
  - procedural-data
---
# {plan["task"]}

{sizes} examples of an algorithmic task, as training sees them under this seed, in the same order.

{text}- `input_ids`: tokens of the row, without pads.
- `loss_mask`: 1 where a token is to be predicted from those before it.
- `labels`: that token, at its own place (not the one before, as `transformers` expects it), -100 elsewhere.

Made by

```json
{made}
```

| file | sha256 |
|---|---|
{hashes}
"""
