"""Token files written as a stream that may be cut off at any moment, and divided by whole documents."""

import hashlib
import json
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from core.digests import Digests
from core.documents import Document, Documents
from core.files import flush, partial_of, sha256_of, write_json, write_whole
from core.token_files import DOCUMENT, FORMAT, PARTS, TokenFile, dtype_of, part
from core.tokenizer import Tokenizer

AT_ONCE = 2**17  # characters, about, that are read before they are encoded
DURABLE_EVERY = 2**23  # characters between moments that a kill cannot take back
COPIED_AT_ONCE = 2**22  # tokens
NAMED = 3  # dropped documents of each kind that are named

Say = Callable[[str], None]


@dataclass
class Progress:
    """How far a file is: what of it is on the disk for good, and how much of its source that took."""

    consumed: int = 0  # documents of the source, with those that were dropped
    documents: int = 0
    tokens: int = 0
    characters: int = 0  # of the texts, without ends of text
    bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # by reason
    is_complete: bool = False


class Writer:
    """Appends documents to NAME.* under hidden names, and gives them their own at the end.

    What was durable when an earlier process died is kept, if it was written from the same `about`; then `progress` says
    where to go on, and the result is the same byte for byte.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, about: dict[str, Any], say: Say, ends: bool = True):
        self.path, self.tokenizer = path, tokenizer
        self.ends = [tokenizer.end_of_text] if ends else []
        self.dtype = dtype_of(tokenizer.num_tokens)
        self.about = json.loads(json.dumps({"tokenizer": tokenizer.identity, **about}))
        self._record = _record_of(path)
        self.progress = self._restored(say)
        self._files = {} if self.progress.is_complete else {suffix: self._opened(suffix) for suffix in PARTS}

    def _sizes(self, progress: Progress) -> dict[str, int]:
        documents = progress.documents
        return {
            ".bin": progress.tokens * self.dtype.itemsize,
            ".idx": documents * 8,
            ".doc": documents * DOCUMENT.itemsize,
        }

    def _restored(self, say: Say) -> Progress:
        """Where a process that was cut off had come to, if its partial files hold as much as it said."""
        try:
            record = json.loads(self._record.read_text())
            found = Progress(**record["progress"])
            if record["about"] != self.about:
                say(f"{self.path}: what was begun is of another source, settings or tokenizer; starting over")
                return Progress()
            for suffix, size in {} if found.is_complete else self._sizes(found).items():
                if _partial(self.path, suffix).stat().st_size < size:
                    raise ValueError(f"{_partial(self.path, suffix)} is too short")
        except FileNotFoundError:
            return Progress()
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"{self.path}: what was begun cannot be used ({error}); starting over")
            return Progress()
        say(f"{self.path}: going on after {found.documents:,} documents, {found.tokens:,} tokens")
        return found

    def _opened(self, suffix: str) -> IO[bytes]:
        """The partial file, cut to what is durable: what came after it was written by a process that died."""
        path = _partial(self.path, suffix)
        file = path.open("r+b" if path.exists() else "w+b")
        file.truncate(self._sizes(self.progress)[suffix])
        file.seek(0, 2)
        return file

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def digests(self) -> np.ndarray:
        """Those of the documents that are durable."""
        return np.fromfile(_partial(self.path, ".doc"), DOCUMENT)["digest"]

    def append(self, texts: Sequence[str], digests: Sequence[bytes]) -> None:
        progress, ends = self.progress, np.array(self.ends, dtype=np.uint32)
        for text, ids, digest in zip(texts, self.tokenizer.encode(texts), digests, strict=True):
            row = np.array([(digest, len(text), len(text.encode()))], DOCUMENT)
            self._files[".idx"].write(progress.tokens.to_bytes(8, "little"))
            self._files[".bin"].write(np.concatenate([ids, ends]).astype(self.dtype).tobytes())
            self._files[".doc"].write(row.tobytes())
            progress.documents += 1
            progress.tokens += len(ids) + len(ends)
            progress.characters += int(row["characters"][0])
            progress.bytes += int(row["bytes"][0])

    def make_durable(self) -> None:
        for suffix, file in self._files.items():
            file.flush()
            flush(_partial(self.path, suffix))
        write_whole(self._record, json.dumps({"about": self.about, "progress": asdict(self.progress)}) + "\n")

    def finish(self) -> dict[str, Any]:
        """Publishes the file and returns its meta. May be cut off and done again."""
        if not self.progress.is_complete:
            self.progress.is_complete = True
            self.make_durable()
        progress = asdict(self.progress)
        del progress["is_complete"]
        placement = "after each document" if self.ends else "nowhere"
        about = {"end_of_text_placement": placement, **progress, **self.about}
        meta = publish(self.path, self.dtype, self.tokenizer.end_of_text, about)
        self._record.unlink(missing_ok=True)
        return meta


def _record_of(path: Path) -> Path:
    return path.with_name(f".{path.stem}.progress.json")


def _partial(path: Path, suffix: str) -> Path:
    return partial_of(part(path, suffix))


def publish(path: Path, dtype: np.dtype, end_of_text: int, about: dict[str, Any]) -> dict[str, Any]:
    """Gives the flushed partial files their names, then writes what they are; returns it."""
    part(path, ".meta.json").unlink(missing_ok=True)  # of an earlier file, which goes now
    for suffix in PARTS:
        if _partial(path, suffix).exists():
            _partial(path, suffix).replace(part(path, suffix))
    flush(path.parent)
    meta = {
        "format": FORMAT,
        "dtype": dtype.name,
        "byte_order": "little",
        "end_of_text": end_of_text,
        **about,
        "sha256": {suffix[1:]: sha256_of(part(path, suffix)) for suffix in PARTS},
    }
    write_json(part(path, ".meta.json"), meta)
    flush(path.parent)
    return meta


def remove(path: Path) -> None:
    """Removes a token file, with the record that its writer leaves if it is killed at the very end."""
    for file in (_record_of(path), *(part(path, suffix) for suffix in (".meta.json", *reversed(PARTS)))):
        file.unlink(missing_ok=True)


# --- From a source


def write(
    path: Path,
    source: Documents,
    tokenizer: Tokenizer,
    *,
    limit: int | None = None,
    most_tokens: int | None = None,
    exclude: Sequence[TokenFile] = (),
    settings: dict[str, Any] | None = None,
    ends: bool = True,
    say: Say = tqdm.write,
) -> dict[str, Any]:
    """Writes the documents of a source, or its first `limit`, to `path`, a NAME.bin, and returns the meta.

    With `most_tokens` it ends soon after so many tokens. `ends`: the end-of-text token stands after each document.

    Texts are brought into Unicode's NFC. Blank ones, those that equal an earlier one but for white space, and those
    that stand in one of the files `exclude` are dropped, counted and said. Goes on where an earlier call was cut off.
    Memory does not grow with the source, but for 16 bytes a document. `settings` are kept in the meta.
    """
    chosen = {**(settings or {}), "limit": limit, "excluded": [file.digest for file in exclude]}
    chosen |= {"most_tokens": most_tokens} if most_tokens is not None else {}
    chosen |= {} if ends else {"ends": False}
    about = {"source": source.identity(), "version": source.version(), "settings": chosen}
    path.parent.mkdir(parents=True, exist_ok=True)
    with Writer(path, tokenizer, about, say, ends) as writer:
        if not writer.progress.is_complete:
            seen = Digests([writer.digests(), *(file.documents["digest"] for file in exclude)])
            stream(writer, source, limit, seen, say, most_tokens)
        for reason, count in writer.progress.dropped.items():
            say(f"{path.stem}: {count:,} of {writer.progress.consumed:,} documents dropped: {reason}")
        return writer.finish()


def stream(
    writer: Writer, source: Documents, limit: int | None, seen: Digests, say: Say, most_tokens: int | None = None
) -> None:
    """Takes documents until the source ends, `limit` are taken or `most_tokens` reached, making them durable now and
    then."""
    progress, waiting = writer.progress, 0
    left = None if limit is None else limit - progress.consumed
    name, often = writer.path.stem.lstrip("."), 0.2 if sys.stderr.isatty() else 15  # seconds
    with tqdm(desc=name, unit="tok", unit_scale=True, initial=progress.tokens, mininterval=often) as bar:
        for some in by_size(source.documents(progress.consumed), left):
            if most_tokens is not None and progress.tokens >= most_tokens:
                break
            before = progress.tokens
            writer.append(*chosen(some, seen, progress, say))
            progress.consumed += len(some)
            waiting += sum(len(document.text) for document in some)
            bar.update(progress.tokens - before)
            bar.set_postfix(documents=f"{progress.documents:,}", dropped=sum(progress.dropped.values()), refresh=False)
            if waiting >= DURABLE_EVERY:
                writer.make_durable()
                waiting = 0


def by_size(documents: Iterator[Document], limit: int | None) -> Iterator[list[Document]]:
    """Consecutive documents, as many at a time as have about AT_ONCE characters together, up to `limit` in all."""
    some: list[Document] = []
    size = 0
    for document in islice(documents, limit):
        some.append(document)
        size += len(document.text) + 100  # for what a document takes beside its text
        if size >= AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def chosen(some: list[Document], seen: Digests, progress: Progress, say: Say) -> tuple[list[str], list[bytes]]:
    """The texts that are to be written, and their digests; of the others `progress` counts why not."""
    texts, digests = [], []
    for document in some:
        text = unicodedata.normalize("NFC", document.text)
        digest = digest_of(text)
        reason = document.problem or ("blank" if not text.strip() else "" if seen.add(digest) else "duplicate")
        if not reason:
            texts.append(text)
            digests.append(digest)
            continue
        progress.dropped[reason] = progress.dropped.get(reason, 0) + 1
        if document.problem and progress.dropped[reason] <= NAMED:
            say(f"{document.where}: dropped: {reason}")
    return texts, digests


def digest_of(text: str) -> bytes:
    """Equal for texts that differ in white space only."""
    return hashlib.blake2b(" ".join(text.split()).encode(), digest_size=Digests.SIZE).digest()


# --- From another file


def divide(whole: TokenFile, parts: dict[Path, np.ndarray]) -> None:
    """Writes token files that hold the documents of `whole` with the given numbers, ascending.

    Cut off, it leaves none of `parts` complete that it has not written: an earlier one could overlap with a new one.
    """
    assert whole.meta is not None
    for path in parts:
        part(path, ".meta.json").unlink(missing_ok=True)
    for path, numbers in parts.items():
        kept = ("end_of_text_placement", "tokenizer", "source", "version", "settings", "consumed", "dropped")
        about = {key: whole.meta[key] for key in kept}
        rows = whole.documents[numbers]
        counts = {name: int(rows[name].sum(dtype=np.uint64)) for name in ("characters", "bytes")}
        tokens = copy_documents(whole, numbers, path)
        rows.tofile(_partial(path, ".doc"))
        for suffix in PARTS:
            flush(_partial(path, suffix))
        counts |= {"documents": len(numbers), "tokens": tokens}
        publish(path, whole.tokens.dtype, whole.meta["end_of_text"], {**counts, **about})


def copy_documents(whole: TokenFile, numbers: np.ndarray, path: Path) -> int:
    """Copies documents and their index, runs of neighbours at once; returns their tokens."""
    assert whole.starts is not None
    ends = np.append(whole.starts[1:], np.uint64(len(whole)))
    lengths = ends[numbers] - whole.starts[numbers]
    starts = np.cumsum(lengths, dtype=np.uint64) - lengths
    starts.astype("<u8").tofile(_partial(path, ".idx"))
    is_first = np.append(True, np.diff(numbers) > 1)[: len(numbers)]
    is_last = np.append(is_first[1:], True)[: len(numbers)]
    size = whole.tokens.dtype.itemsize
    with whole.path.open("rb") as source, _partial(path, ".bin").open("wb") as file:  # mapped, all of it would stay
        for first, last in zip(whole.starts[numbers[is_first]], ends[numbers[is_last]], strict=True):
            source.seek(int(first) * size)
            for at in range(int(first), int(last), COPIED_AT_ONCE):
                file.write(source.read((min(at + COPIED_AT_ONCE, int(last)) - at) * size))
    return int(lengths.sum())
