"""Where the documents of a language model come from, which of them are held out, and how they become tokens."""

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from core import tokenizer as tokenizers
from core.config import home
from core.documents import Document, Documents, HubDataset, LocalFiles
from core.errors import UserError
from core.token_writer import digest_of
from core.tokenizer import Tokenizer
from downstream.semantic.config import TextConfig

TRAINED_ON = 10**8  # characters that a tokenizer is trained on at most
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Sources:
    """What a run trains on and what is held out."""

    train: Documents
    validation: Documents
    key: list[Any]  # JSON values that differ where the documents do
    held_out: str  # what was, in words


def sources(config: TextConfig) -> Sources:
    """What a configuration names. Raises UserError for what is not there."""
    if config.data is None:
        return of_hub(config)
    whole = LocalFiles(config.data, config.text_column)
    if config.validation_data is not None:
        validation = LocalFiles(config.validation_data, config.text_column)
        return Sources(whole, validation, [stats(whole), stats(validation)], "files of their own")
    return divided(config, whole)


def of_hub(config: TextConfig) -> Sources:
    """The training documents in the order of a shuffle; those of validation the same, whatever the seed."""
    column, revision = config.text_column, config.revision
    train = HubDataset(
        config.dataset, config.dataset_config, "train", column, revision, config.shuffle_buffer, config.seed
    )
    if config.validation_data is not None:
        files = LocalFiles(config.validation_data, column)
        return Sources(train, files, [train.identity(), stats(files)], "files of their own")
    if config.validation_dataset is None:
        validation = HubDataset(config.dataset, config.dataset_config, "validation", column, revision)
    else:
        validation = HubDataset(config.validation_dataset, None, "train", column)
    return Sources(train, validation, [train.identity(), validation.identity()], "a split of its own")


def stats(source: LocalFiles) -> list[list[Any]]:
    """What changes when a file does."""
    return [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in source.files]


# --- Held out


class Part(LocalFiles):
    """Some of the files of another source, or of each file the documents that a hash of their text chooses."""

    def __init__(self, whole: LocalFiles, files: list[Path], name: str, share: float | None = None):
        self.paths, self.text_column, self.separator = whole.paths, whole.text_column, whole.separator
        self.files, self.name, self.share = files, name, share

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "part": self.name, "share": self.share}

    def documents(self, start: int = 0) -> Iterator[Document]:
        if self.share is None:
            return super().documents(start)
        is_wanted = self.name == "validation"
        mine = (d for d in super().documents() if (fraction(digest_of(d.text)) < self.share) == is_wanted)
        return islice(mine, start, None)


def divided(config: TextConfig, whole: LocalFiles) -> Sources:
    """Whole packages, or else files, are held out; of a single file, documents."""
    filled = [file for file in whole.files if file.stat().st_size] or whole.files  # held out, others measure nothing
    packages = by_package([home(path) for path in config.data or []], filled)
    groups = packages if len(packages) > 1 else {str(file): [file] for file in filled}
    key = [stats(whole), config.validation_share]
    if len(groups) == 1:
        train, validation = (
            Part(whole, whole.files, name, config.validation_share) for name in ("train", "validation")
        )
        return Sources(train, validation, key, "documents of the one file")
    names = held_out({name: sum(file.stat().st_size for file in files) for name, files in groups.items()}, config)
    chosen = {file for name in names for file in groups[name]}
    train = Part(whole, [file for file in whole.files if file not in chosen], "train")
    validation = Part(whole, [file for file in whole.files if file in chosen], "validation")
    some = ", ".join(sorted(Path(name).name for name in names)[:10]) + (", ..." if len(names) > 10 else "")
    kind = "files" if all(Path(name).is_file() for name in groups) else "packages"
    return Sources(train, validation, key, f"{len(names)} of {len(groups)} {kind}: {some}")


def by_package(paths: list[Path], files: list[Path]) -> dict[str, list[Path]]:
    """The files below each of several paths, or below each folder or file of the first level of one."""
    found: dict[str, list[Path]] = {}
    for file in files:
        root = next(path for path in paths if path in (file, *file.parents))
        is_package = len(paths) > 1 or file == root
        package = root if is_package else root / file.relative_to(root).parts[0]
        found.setdefault(str(package), []).append(file)
    return found


def held_out(sizes: dict[str, int], config: TextConfig) -> list[str]:
    """Names whose sizes come to about a share of all, in the order of the hashes of their last parts; at least one, and
    never all."""
    wanted = config.validation_share * sum(sizes.values())
    order = sorted(sizes, key=lambda name: (hashed(Path(name).name), name))
    names: list[str] = []
    for name in order[:-1]:
        taken = sum(sizes[each] for each in names)
        if taken < wanted and taken + sizes[name] <= 1.5 * wanted:
            names.append(name)
    return names or [min(order, key=lambda name: sizes[name])]


def hashed(name: str) -> bytes:
    return hashlib.blake2b(os.fsencode(name), digest_size=8).digest()


def fraction(digest: bytes) -> float:
    """A digest as a number in [0, 1)."""
    return int.from_bytes(digest[:8], "big") / 2**64


# --- Tokens


def tokenizer_of(config: TextConfig, found: Sources, measured: int | None, folder: Path) -> Tokenizer:
    """The one that is asked for, or none. `measured`: how many documents validation has; null: all of its source.
    `folder`: where one that is trained is kept. Raises UserError."""
    name = config.tokenizer
    if name == "train":
        return trained(config.vocab_size, texts(found, config.max_documents, measured), folder / "trained.json")
    is_hub_name = name.count("/") == 1 and not name.startswith((".", "/", "~")) and not home(name).exists()
    return tokenizers.load(str(from_hub(name)) if is_hub_name else name)


def from_hub(repository: str) -> Path:
    """The tokenizer.json of a repository, from the hub or its cache. Raises UserError if there is none."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, "tokenizer.json"))
    except Exception as error:  # no network, no such repository, offline by choice: each has a type of its own
        raise UserError(
            f"tokenizer: {repository} is no path, and the hub does not give it ({type(error).__name__}); give the path "
            "of a tokenizer, gpt2, or train"
        ) from error


def trained(size: int, texts: Iterator[str], path: Path) -> Tokenizer:
    """A byte-level BPE of some texts, trained once and kept at `path`."""
    if not path.exists():
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, pre_tokenizers, trainers

        print(f"training a tokenizer of {size:,} tokens: {path}", flush=True)
        inner = Inner(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        teacher = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
        )
        inner.train_from_iterator(texts, teacher)
        partial = path.with_suffix(".partial")
        inner.save(str(partial))
        partial.replace(path)
    return tokenizers.from_path(path)


def texts(found: Sources, most: int | None, measured: int | None) -> Iterator[str]:
    """Those of the first `most` training documents, without what equals one of the `measured` validation documents."""
    kept_out = {_digest(document) for document in islice(found.validation.documents(), measured)}
    left = TRAINED_ON
    for document in islice(found.train.documents(), most):
        if _digest(document) in kept_out:
            continue
        yield document.text
        left -= len(document.text)
        if left <= 0:
            return


def _digest(document: Document) -> bytes:
    """As token files have it."""
    return digest_of(unicodedata.normalize("NFC", document.text))
