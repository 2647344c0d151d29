"""Files of tokens: raw ids as NumPy maps them, and beside them what they are.

    NAME.bin        ids, little-endian uint16 (uint32 above 65,535 ids), an end of text after each document
    NAME.idx        uint64: where in it each document begins
    NAME.doc        24 bytes for each document: a digest of its text, its characters, its bytes of UTF-8
    NAME.meta.json  counts, tokenizer, source, settings, hashes; written last: what has it is complete

`core.token_writer` writes them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from core.errors import UserError
from core.files import sha256_of
from core.tokenizer import Tokenizer

FORMAT = 1
LARGEST_SHORT = 65_535  # ids that uint16 is used for
PARTS = (".idx", ".doc", ".bin")  # in the order of their coming: a .bin by itself is somebody else's
DOCUMENT = np.dtype([("digest", "S16"), ("characters", "<u4"), ("bytes", "<u4")])
SHAPE = {  # of what is read of a meta.json, by examples
    **dict.fromkeys(("format", "documents", "tokens", "characters", "bytes"), 0),
    "dtype": "uint16",
    "tokenizer": {"name": "", "digest": ""},
    "source": {},
    "settings": {},
    "sha256": dict.fromkeys((suffix[1:] for suffix in PARTS), ""),
}
SCANNED_AT_ONCE = 2**24  # tokens


def part(path: Path, suffix: str) -> Path:
    """The file beside NAME.bin that ends in `suffix`."""
    return path.with_suffix(suffix)


def is_bare(path: Path) -> bool:
    """Whether NAME.bin is by itself, as no file of ours is, complete or not."""
    return path.exists() and not any(part(path, suffix).exists() for suffix in (".meta.json", ".idx", ".doc"))


def meta_of(path: Path) -> dict[str, Any] | None:
    """What NAME.meta.json says; None without it. Raises ValueError for one that is damaged or of another format."""
    file = part(path, ".meta.json")
    if not file.exists():
        return None
    try:
        meta = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error
    if (wrong := _unlike(SHAPE, meta, "object")) is not None:
        raise ValueError(f"{file.name} has no {wrong} of the right type")
    if meta["format"] != FORMAT or meta["dtype"] not in ("uint16", "uint32"):
        raise ValueError(f"{file.name} is of format {meta['format']} and dtype {meta['dtype']}")
    return meta


def _unlike(shape: Any, found: Any, key: str) -> str | None:
    """`key`, or the first key within, at which something of another type stands than in the shape."""
    if type(found) is not type(shape):
        return key
    within = shape.items() if isinstance(shape, dict) else ()
    return next((wrong for name, value in within if (wrong := _unlike(value, found.get(name), name))), None)


def dtype_of(num_tokens: int) -> np.dtype:
    return np.dtype("<u2" if num_tokens <= LARGEST_SHORT else "<u4")


class TokenFile:
    """A token file that is read where it lies, by any number of threads.

    Raises UserError, which ends with `advice`, if it is missing, incomplete, damaged, or of another tokenizer than is
    given. A bare NAME.bin of somebody else's is taken for what one of that tokenizer would be, uint16 without any, and
    that is said. `verify` compares hashes, or looks at all ids of a bare file: a second or so for a gigabyte.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: Tokenizer | None = None,
        *,
        verify: bool = True,
        advice: str = "",
        say: Callable[[str], None] = print,
    ):
        self.path, self._advice = path, advice
        if not path.is_file():
            self._fail("does not exist")
        try:
            self.meta = meta_of(path)
        except ValueError as error:
            self._fail(f"is damaged: {error}")
        if self.meta is None and (part(path, ".idx").exists() or part(path, ".doc").exists()):
            self._fail(f"is incomplete: {part(path, '.meta.json').name} is missing")
        dtype = np.dtype(self.meta["dtype"]) if self.meta else dtype_of(tokenizer.num_tokens if tokenizer else 0)
        self.tokens = self._mapped(".bin", dtype, "tokens")
        self.starts: np.ndarray | None = None  # where each document begins; None in a bare file
        if self.meta:
            self.starts = self._mapped(".idx", np.dtype("<u8"), "documents")
            self._check_against_meta(tokenizer, verify)
        else:
            say(f"{path}: without {part(path, '.meta.json').name}: taken for {dtype} ids of the tokenizer in use")
            if verify and tokenizer is not None:
                self._check_ids(tokenizer)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def digest(self) -> str:
        """A hash of the ids."""
        return self.meta["sha256"]["bin"] if self.meta else sha256_of(self.path)

    @property
    def documents(self) -> np.ndarray:
        """A row of DOCUMENT for each document."""
        return self._mapped(".doc", DOCUMENT, "documents")

    def _fail(self, what: str) -> NoReturn:
        raise UserError(f"{self.path}: {what}" + (f"; {self._advice}" if self._advice else ""))

    def _mapped(self, suffix: str, dtype: np.dtype, count: str) -> np.ndarray:
        path = part(self.path, suffix)
        size = path.stat().st_size if path.is_file() else 0
        if size % dtype.itemsize or (self.meta and size != self.meta[count] * dtype.itemsize):
            wanted = f"{self.meta[count] * dtype.itemsize:,}" if self.meta else f"a multiple of {dtype.itemsize}"
            self._fail(f"is damaged: {path.name} has {size:,} bytes, not {wanted}")
        return np.memmap(path, dtype, mode="r") if size else np.empty(0, dtype)

    def _check_against_meta(self, tokenizer: Tokenizer | None, verify: bool) -> None:
        assert self.meta is not None
        found = self.meta["tokenizer"]
        if tokenizer is not None and found["digest"] != tokenizer.digest:
            self._fail(f"was made with the tokenizer {found['name']}, not with {tokenizer.name}")
        for suffix in PARTS if verify else ():
            path = part(self.path, suffix)
            if not path.is_file() or sha256_of(path) != self.meta["sha256"][suffix[1:]]:
                self._fail(f"is damaged: {path.name} does not match its hash")

    def _check_ids(self, tokenizer: Tokenizer) -> None:
        for start in range(0, len(self), SCANNED_AT_ONCE):
            largest = int(self.tokens[start : start + SCANNED_AT_ONCE].max())
            if largest >= tokenizer.num_tokens:
                self._fail(f"holds the id {largest}, but {tokenizer.name} has {tokenizer.num_tokens:,} tokens")
