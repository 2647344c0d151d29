"""The token files of a curriculum: made, found, and divided into training and validation."""

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from core import files, rng, tokenizer
from core.config import home
from core.documents import Documents, HubDataset, LocalFiles
from core.errors import UserError
from core.report import table
from core.token_files import TokenFile, is_bare, meta_of
from core.token_writer import divide, remove, write
from core.tokenizer import Tokenizer
from curriculum.stages import LOCAL, SCRAPE, SENTENCES, CurriculumStage, DataConfig, InitializeConfig, Text

VALIDATION_WINDOWS = 8  # at least so many fit into what is kept for validation
Say = Callable[[str], None]


def path_of(config: DataConfig, text: Text, side: Literal["train", "val"]) -> Path:
    return home(config.data_dir) / f"{side}_{text.stem}.bin"


def addresses_of(config: DataConfig, text: Text) -> str:
    return (text.source_path or [config.web_sources])[0]


def source_of(config: DataConfig, text: Text) -> Documents:
    """Where a stage's documents come from. Raises UserError for paths and files that are not there."""
    if text.dataset_key == LOCAL:
        return LocalFiles(text.source_path or [config.local_files], text.text_column, text.document_separator)
    if text.dataset_key == SCRAPE:
        from curriculum.sources.web import WebPages

        return WebPages(addresses_of(config, text), folder=f"{config.data_dir}/web")
    if text.dataset_key == SENTENCES:
        from curriculum.sources.sentences import SimpleSentences

        return SimpleSentences(config.data_seed)
    return HubDataset(
        text.dataset_key,
        subset=text.subset,
        split=text.split,
        text_column=text.text_column,
        revision=text.revision,
        shuffle_buffer=text.shuffle_buffer,
        seed=config.data_seed,
    )


def sources_of(config: DataConfig) -> list[Documents]:
    """One for each text. Raises UserError with a line for each that is not there, reads a file of an earlier one, or
    would keep its pages in the folder of an earlier one."""
    sources: list[Documents] = []
    problems: list[str] = []
    readers: dict[Path, str] = {}
    lists: dict[str, str] = {}  # of addresses: whose pages are kept under the name
    for text in config.texts:
        try:
            sources.append(source := source_of(config, text))
        except UserError as error:
            problems += [f"{text.name}: {problem}" for problem in error.problems]
            continue
        own = [file.resolve() for file in source.files] if isinstance(source, LocalFiles) else []
        if again := [file for file in own if file in readers]:
            reader = readers[again[0]]
            problems.append(f"{text.name}: reads {again[0]}, as {reader} does; give one of them another source_path")
        readers |= dict.fromkeys(own, text.name)
        name = Path(addresses_of(config, text)).stem
        if text.dataset_key == SCRAPE and lists.setdefault(name, text.name) != text.name:
            other = (
                f"{text.name}: source_path has the name of that of {lists[name]}, {name}, under which pages are kept"
            )
            problems.append(f"{other}; take another list, or rename one of them")
    if problems:
        raise UserError(*problems)
    return sources


def initialize(config: InitializeConfig) -> list[dict[str, Any]]:
    """Makes the token files of all stages, leaving those that are complete and unchanged; returns a row for each.

    May be killed at any moment and started again. Raises UserError, before any work, for what is missing or would be
    overwritten, and for a text that is too short.
    """
    sources = sources_of(config)
    if foreign := [path for text in config.texts for path in paths_of(config, text) if is_bare(path)]:
        words = "was not made here, and would be overwritten; move it away, or use another data_dir"
        raise UserError(*(f"data_dir: {path} {words}" for path in foreign))
    chosen = tokenizer.load(config.tokenizer)
    folder = home(config.data_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data_dir: {folder} cannot be made: {error.strerror}") from error
    rows = []
    with files.lock(folder):
        earlier: list[TokenFile] = []
        for text, source in zip(config.texts, sources, strict=True):
            introduce(config, text)
            made = make(config, text, source, chosen, earlier)
            earlier += made
            rows.append(row_of(text, made))
    print("\n" + table(rows, list(rows[0])))
    print(f"token files in {folder}; train with: python -m curriculum.cli start --type {shlex.quote(config.type)}")
    return rows


def introduce(config: DataConfig, text: Text) -> None:
    number = config.texts.index(text) + 1
    place = f"Stage {number}/{len(config.stages)}" if isinstance(text, CurriculumStage) else "Held out"
    print(f"\n[{place}] {text.name}\n  Dataset: {text.dataset_key}\n  Block size: {text.block_size}")
    if isinstance(text, CurriculumStage):
        print(f"  Epochs: {text.n_epochs}" if text.n_tokens is None else f"  Tokens: {text.n_tokens:,}")
    print("  Items: " + ("all" if text.n_items is None else f"{text.n_items:,}"), flush=True)


def make(
    config: DataConfig, text: Text, source: Documents, chosen: Tokenizer, earlier: Sequence[TokenFile]
) -> list[TokenFile]:
    """The token files of one stage, made now or found as they should be."""
    paths = paths_of(config, text)
    whole = home(config.data_dir) / f".whole_{text.stem}.bin"
    settings = {"val_share": config.val_share, "data_seed": config.data_seed, "block_size": text.block_size}
    asked = {
        "source": source.identity(),
        "settings": {**settings, "limit": text.n_items, "excluded": [file.digest for file in earlier]},
        "tokenizer": chosen.identity,
    }
    if is_current(paths, asked, source):
        print(f"  = Stage '{text.name}' is complete and unchanged; nothing to do")
    else:
        if not is_current([whole], asked, source):  # it is, if a kill came while it was being divided
            limit, say = text.n_items, lambda s: print(f"  {s}")
            write(whole, source, chosen, limit=limit, exclude=earlier, settings=settings, say=say)
        try:
            separate(config, text, TokenFile(whole, verify=False), paths)
        except UserError:  # it will be no longer the next time
            remove(whole)
            raise
        print(f"  ✓ Stage '{text.name}' dataset created successfully!")
    remove(whole)  # also what a kill after the separation left
    return [TokenFile(path, verify=False) for path in paths]


def paths_of(config: DataConfig, text: Text) -> list[Path]:
    """What is held out is all validation."""
    sides: tuple[Literal["train", "val"], ...] = ("train", "val") if isinstance(text, CurriculumStage) else ("val",)
    return [path_of(config, text, side) for side in sides]


def is_current(paths: Sequence[Path], asked: dict[str, Any], source: Documents) -> bool:
    """Whether the files are whole and were made from what is asked for now, of which the version has not changed.

    Nothing is asked of the network: what was made from the hub or from web pages stays until its list or keys change.
    """
    try:
        metas = [meta_of(path) for path in paths]
        if not all(meta is not None and all(meta[key] == asked[key] for key in asked) for meta in metas):
            return False
        for path in paths:
            TokenFile(path)
    except (UserError, ValueError) as error:
        print(f"  ! {error}: making it again")
        return False
    is_here = isinstance(source, LocalFiles) or (isinstance(source, HubDataset) and source.is_local)
    return not is_here or all(meta is not None and meta["version"] == source.version() for meta in metas)


def separate(config: DataConfig, text: Text, whole: TokenFile, paths: Sequence[Path]) -> None:
    """Divides the documents of a stage into training and validation. Raises UserError if there are too few."""
    assert whole.meta is not None
    if len(whole) == 0:
        raise UserError(f"{text.name}: no documents are left of {text.dataset_key}; see what was dropped above")
    validation = chosen_for_validation(config, text, whole)
    training = np.setdiff1d(np.arange(whole.meta["documents"]), validation)
    divide(whole, dict(zip(paths, (training, validation) if len(paths) == 2 else (validation,), strict=True)))
    if text.n_items is not None and whole.meta["consumed"] < text.n_items:
        print(f"  ! The source has {whole.meta['consumed']:,} items, fewer than the {text.n_items:,} asked for")


def chosen_for_validation(config: DataConfig, text: Text, whole: TokenFile) -> np.ndarray:
    """Numbers of documents drawn at random until `val_share` of the tokens and 8 windows are reached, ascending. One
    that would bring them above half of all tokens is passed over."""
    assert whole.starts is not None
    lengths = np.diff(np.append(whole.starts, np.uint64(len(whole)))).astype(np.int64)
    least = VALIDATION_WINDOWS * text.block_size + 1
    if not isinstance(text, CurriculumStage):
        return enough(text, np.arange(len(lengths)), lengths, least, len(whole))
    order = rng.generator("validation", config.data_seed, text.name, 0).permutation(len(lengths))
    wanted, most = max(config.val_share * len(whole), least), len(whole) // 2
    while (last := int(np.searchsorted(taken := np.cumsum(lengths[order]), wanted))) < len(order):
        if taken[last] <= most or wanted > most:
            break
        order = np.delete(order, last)
    return enough(text, np.sort(order[: last + 1]), lengths, least, most)


def enough(text: Text, numbers: np.ndarray, lengths: np.ndarray, least: int, most: int) -> np.ndarray:
    """`numbers`, the documents for validation. Raises UserError unless they have `least` to `most` tokens together."""
    taken = int(lengths[numbers].sum())
    if not least <= taken <= most:
        raise UserError(
            f"{text.name}: {len(lengths):,} documents with {int(lengths.sum()):,} tokens are too little text: whole "
            f"documents of at least {least:,} tokens ({VALIDATION_WINDOWS} windows of {text.block_size}) are kept for "
            f"validation, and at most half of all; add text, use a smaller block_size, or divide files into more "
            f"documents by document_separator"
        )
    return numbers


def row_of(text: Text, made: Sequence[TokenFile]) -> dict[str, Any]:
    metas = [file.meta or {} for file in made]
    counts = {name: sum(meta[name] for meta in metas) for name in ("documents", "tokens", "bytes")}
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in metas[0]["dropped"].items())
    validation = metas[-1]["tokens"]
    return {"stage": text.name, **counts, "validation": validation, "dropped": dropped or "none"}


def open_files(config: DataConfig, chosen: Tokenizer) -> dict[str, dict[str, TokenFile]]:
    """The token files of each text by its name and side, verified. Raises UserError with a line for each problem."""
    advice = f"make it with: python -m curriculum.cli initialize --type {shlex.quote(config.type)}"
    found: dict[str, dict[str, TokenFile]] = {}
    problems: list[str] = []
    for text in config.texts:
        earlier = [file for sides in found.values() for file in sides.values()]
        for path in paths_of(config, text):
            try:
                file = TokenFile(path, chosen, advice=advice, say=tqdm.write)
                check_origin(config, text, file, advice)
                check_disjoint(file, earlier, advice)
                check_length(text, file)
                found.setdefault(text.name, {})[path.name.partition("_")[0]] = file
            except UserError as error:
                problems += error.problems
    if problems:
        raise UserError(*problems)
    return found


def check_origin(config: DataConfig, text: Text, file: TokenFile, advice: str) -> None:
    """Raises UserError for a file that was made with other keys than those of now. The source itself need not be here,
    as on a machine that token files were copied to."""
    if file.meta is None:
        return
    made = {**file.meta["settings"], "source": file.meta["source"]}
    now: dict[str, Any] = {"val_share": config.val_share, "data_seed": config.data_seed, "limit": text.n_items}
    with suppress(UserError):
        now["source"] = source_of(config, text).identity()
    for key, value in now.items():
        if key in made and made[key] != value:
            name = "n_items" if key == "limit" else key
            raise UserError(f"{file.path}: was made with {name} {made[key]}, which is now {value}; {advice}")


def check_disjoint(file: TokenFile, earlier: Sequence[TokenFile], advice: str) -> None:
    """Raises UserError for a file that may hold documents of an earlier stage, which was made anew without it."""

    def left_out(by: TokenFile) -> list[str]:
        return by.meta["settings"].get("excluded", []) if by.meta else []

    for other in earlier:
        if not (file.meta and other.meta):  # somebody else's, who has to know
            continue
        if other.digest not in left_out(by=file) and file.digest not in left_out(by=other):
            raise UserError(
                f"{file.path}: may share documents with {other.path.name}, which was made anew since; {advice}"
            )


def check_length(text: Text, file: TokenFile) -> None:
    """Raises UserError for a file with too few windows: one to train on, or VALIDATION_WINDOWS."""
    side = file.path.name.partition("_")[0]
    windows = 1 if side == "train" else VALIDATION_WINDOWS
    if (len(file) - 1) // text.block_size < windows:
        raise UserError(
            f"{file.path}: {len(file):,} tokens are fewer than {windows} window{'s' * (windows > 1)} of "
            f"{text.name}'s block_size {text.block_size} and the token after; add text or use a smaller block_size"
        )
