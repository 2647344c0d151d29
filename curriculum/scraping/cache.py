"""Bodies and texts on the disk, by URL. Whatever a crash or somebody else left there is found out and not used."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.files import partial_of, sha256_of
from curriculum.scraping.sandbox import Extract


@dataclass
class Entry:
    """A body and where it came from; `checked` is when the server last said that it is the page, in ISO 8601, UTC."""

    url: str
    final_url: str
    status: int
    content_type: str
    etag: str
    last_modified: str
    checked: str
    sha256: str
    bytes: int

    @property
    def validators(self) -> dict[str, str]:
        """What asks a server whether it has anything newer; a header it would not understand is left out."""
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value.isascii() and value.isprintable() and value}


class Cache:
    """A folder with, for each URL, KEY.body, KEY.json (its Entry, written after it) and KEY.text.json."""

    def __init__(self, folder: Path, fingerprint: str):
        self.folder, self.fingerprint = folder, fingerprint

    def body_path(self, url: str) -> Path:
        key = hashlib.sha256(url.encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.body"

    def entry(self, url: str) -> Entry | None:
        """The entry of a URL whose body is there and whole."""
        path = self.body_path(url)
        try:
            entry = Entry(**_read(path.with_suffix(".json")))
            intact = sha256_of(path) == entry.sha256 and entry.url == url
        except (OSError, TypeError):
            return None
        return entry if intact else None

    def put(self, entry: Entry, body: bytes | None = None) -> None:
        """Keeps an entry, with a new body if there is one."""
        path = self.body_path(entry.url)
        path.parent.mkdir(parents=True, exist_ok=True)
        if body is not None:
            _write(path, body)
        _write(path.with_suffix(".json"), json.dumps(asdict(entry)).encode())

    def text(self, url: str, sha256: str | None) -> Extract | None:
        """What was made of the body with that hash, if it would be made in the same way today."""
        found = _read(self.body_path(url).with_suffix(".text.json"))
        if not sha256 or found.get("sha256") != sha256 or found.get("fingerprint") != self.fingerprint:
            return None
        return Extract(found["text"], found["note"])

    def put_text(self, entry: Entry, extract: Extract) -> None:
        whole = {"sha256": entry.sha256, "fingerprint": self.fingerprint, **extract._asdict()}
        _write(self.body_path(entry.url).with_suffix(".text.json"), json.dumps(whole).encode())


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is none or it is spoiled."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, data: bytes) -> None:
    """All of it or what was there. It need not outlive a power cut: what is spoiled then is fetched again."""
    partial = partial_of(path)
    partial.write_bytes(data)
    partial.replace(path)
