"""What came from where and what did not come: a line for each URL, and the journal of the scrape that is under way."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from core.files import write_whole
from curriculum.scraping.config import WebPage

MANIFEST = "manifest.jsonl"
JOURNAL = "manifest.unfinished.jsonl"  # appended to as pages are done; there as long as a scrape is not finished


@dataclass
class Record:
    """A line of the manifest. Without a `failure` the page's text is a document."""

    url: str
    licence: str = ""  # the user's note
    final_url: str = ""  # after redirects
    status: int | None = None  # of the last answer
    content_type: str = ""
    sha256: str | None = None  # of the body
    bytes: int | None = None  # of the body
    characters: int | None = None  # of the text
    when: str = ""  # ISO 8601, UTC: when the server last answered for it, or failed to
    from_cache: bool = False
    failure: str = ""  # a few words that are counted ...
    detail: str = ""  # ... and what else there is to know of it
    note: str = ""  # what is missing from the text


def read_records(path: Path) -> list[Record]:
    """The lines of a manifest or journal that are whole. Raises OSError."""
    rows = [_row(line) for line in path.read_bytes().split(b"\n")[:-1]]
    return [Record(**row) for row in rows if row.keys() == Record.__dataclass_fields__.keys()]


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


class Journal:
    """Notes each page as soon as it is done, so that a scrape that was killed goes on after those."""

    def __init__(self, folder: Path, identity: str):
        """Goes on with the journal in `folder` if it is of a scrape with the same `identity`."""
        self.folder, self.path = folder, folder / JOURNAL
        self.done: dict[str, Record] = {}
        if self.path.exists() and _row(self.path.read_bytes().partition(b"\n")[0]) == {"scrape": identity}:
            self.done = {record.url: record for record in read_records(self.path)}
        lines = [{"scrape": identity}, *map(asdict, self.done.values())]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in lines))  # without one that was cut off
        self._file = self.path.open("a")

    def write(self, record: Record) -> None:
        self.done[record.url] = record
        self._file.write(json.dumps(asdict(record)) + "\n")
        self._file.flush()

    def finish(self, pages: Sequence[WebPage]) -> list[Record]:
        """Writes the manifest, with a line for each page of the list, in its order; returns these."""
        records = [replace(self.done[page.url], licence=page.licence) for page in pages]
        write_whole(self.folder / MANIFEST, "".join(json.dumps(asdict(record)) + "\n" for record in records))
        self.close()
        self.path.unlink()
        return records

    def close(self) -> None:
        self._file.close()
