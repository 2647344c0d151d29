"""Mathematics problems as characters, and files of them that give any problem by its number.

The documented vocabulary: a-z, A-Z, 0-9, punctuation and the space are ids 0 .. 94, then PAD, UNK, BOS and SEP. An end
token, which the documented form does not have, comes after them.
"""

import codecs
import hashlib
import json
import shutil
import string
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core import files, rng
from core.errors import UserError

CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " "
PAD, UNK, BOS, SEP, END = range(95, 100)
DOCUMENTED_SIZE = 99  # of the vocabulary without END
NAMES = [*CHARACTERS[:-1], "␣", "PAD", "UNK", "BOS", "SEP", "END"]
DIFFICULTIES = ("train-easy", "train-medium", "train-hard")
TESTS = ("interpolate", "extrapolate")

NEWLINE = 255  # in `_CODES` alone
_CODES = np.full(256, UNK, dtype=np.uint8)
_CODES[[ord(character) for character in CHARACTERS]] = np.arange(len(CHARACTERS))
_CODES[ord("\n")] = NEWLINE
_FORMAT = 1  # of prepared folders
HASHED_AT_ONCE = 65_536  # questions


def encode(text: str) -> list[int]:
    """The id of each character, UNK where it has none."""
    return [int(_CODES[ord(c)]) if c != "\n" and ord(c) < 256 else UNK for c in text]


@dataclass(frozen=True)
class Group:
    """The problems of one file: numbers first .. first + size - 1."""

    regime: str  # train-easy, train-medium, train-hard, interpolate or extrapolate
    module: str
    first: int
    size: int


class Problems:
    """Prepared problems. Problem p is `question[p]` characters and then its answer, all from `starts[p]` on."""

    def __init__(self, folder: Path):
        self.folder = folder
        meta = json.loads((folder / "meta.json").read_text())
        self.groups = [Group(**group) for group in meta["groups"]]
        self.digest: str = meta["sha256"]
        self.removed: int = meta["removed"]  # training problems that are test problems, too
        self.characters = np.memmap(folder / "characters.bin", dtype=np.uint8, mode="r")
        self.starts = np.load(folder / "starts.npy", mmap_mode="r")  # int64 (problems + 1,)
        self.question = np.load(folder / "question.npy", mmap_mode="r")  # uint16 (problems,)

    def of(self, *regimes: str) -> list[Group]:
        return [group for regime in regimes for group in self.groups if group.regime == regime and group.size]

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Characters of question and answer together, int64."""
        return self.starts[numbers + 1] - self.starts[numbers]

    def longest(self) -> int:
        return max(int(np.diff(self.starts[g.first : g.first + g.size + 1]).max()) for g in self.groups if g.size)

    def text(self, number: int) -> tuple[str, str]:
        """Question and answer as they stood in the file, � for characters that the vocabulary does not have."""
        codes = self.characters[self.starts[number] : self.starts[number + 1]]
        text = "".join(CHARACTERS[code] if code < len(CHARACTERS) else "�" for code in codes)
        return text[: self.question[number]], text[self.question[number] :]

    def hashes(self, group: Group) -> np.ndarray:
        """A hash of each question of a group, uint64."""
        numbers = np.arange(group.first, group.first + group.size)
        return hash_questions(self.characters, self.starts[numbers], self.question[numbers].astype(np.int64))


def prepare(folders: dict[str, Path], prepared: Path) -> Problems:
    """The problems of the files in `folders`, by regime, indexed once in a folder of `prepared`.

    A training problem whose question is also a test question is left out and counted. Raises UserError, naming the
    file, for what holds no problems.
    """
    folder = folder_of(folders, prepared)
    files.make_folder(prepared, "prepared_dir")
    with files.lock(prepared, waits=True):  # of several processes one does it
        if not (folder / "meta.json").exists():
            partial = prepared / f".{folder.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _write({regime: _files(source) for regime, source in folders.items()}, partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    return Problems(folder)


def folder_of(folders: dict[str, Path], prepared: Path) -> Path:
    """Named by the files that are indexed in it."""
    listed = [(regime, file) for regime, folder in folders.items() for file in _files(folder)]
    stats = [(regime, str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for regime, f in listed]
    key = hashlib.blake2b(json.dumps([_FORMAT, stats]).encode(), digest_size=8).hexdigest()
    return prepared / f"mathematics-{key}"


def is_ready(folders: dict[str, Path], prepared: Path) -> bool:
    """Whether `prepare` would find everything made."""
    return (folder_of(folders, prepared) / "meta.json").exists()


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.txt"))
    if not found:
        what = "holds no .txt files" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{folder} {what}; make problems with: python scripts/make_mathematics.py --out {folder.parent}, "
            "or extract the published archive"
        )
    return found


def _write(listed: dict[str, list[Path]], folder: Path) -> None:
    """Tests first, so that training problems can be compared with them."""
    order = sorted(listed, key=lambda regime: regime.startswith("train"))
    groups: list[Group] = []
    lengths, questions = [], []
    asked = np.zeros(0, dtype=np.uint64)  # hashes of all test questions
    digest, removed, total = hashlib.sha256(), 0, 0
    with (folder / "characters.bin").open("wb") as out:
        for regime, path in tqdm(
            [(r, path) for r in order for path in listed[r]], "indexing", unit="file", mininterval=1
        ):
            characters, question, answer = read(path)
            length = question + answer
            hashes = hash_questions(characters, np.cumsum(length) - length, question)
            if regime.startswith("train"):
                kept = ~np.isin(hashes, asked)
                removed += int((~kept).sum())
                characters, question, length = characters[np.repeat(kept, length)], question[kept], length[kept]
            else:
                asked = np.union1d(asked, hashes)
            groups.append(Group(regime, path.stem, total, len(question)))
            total += len(question)
            out.write(characters.tobytes())
            lengths.append(length)
            questions.append(question.astype(np.uint16))
            for part in (characters, question, length):
                digest.update(part.tobytes())
    np.save(folder / "starts.npy", np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64))
    np.save(folder / "question.npy", np.concatenate(questions))
    meta = {"groups": [asdict(group) for group in groups], "removed": removed, "sha256": digest.hexdigest()}
    files.write_whole(folder / "meta.json", json.dumps(meta) + "\n")


def read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A file of alternating lines: all characters without line ends, uint8, and the lengths of questions and answers,
    int64. Raises UserError naming file and line."""
    text = path.read_bytes().removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")
    if text.isascii():
        codes = _CODES[np.frombuffer(text, dtype=np.uint8)]
    else:
        try:
            points = np.frombuffer(text.decode().encode("utf-32-le"), dtype=np.uint32)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: is no text file: {error.reason} at byte {error.start}") from error
        codes = _CODES[np.minimum(points, 255)]
    if len(codes) and codes[-1] != NEWLINE:
        codes = np.append(codes, np.uint8(NEWLINE))
    is_end = codes == NEWLINE
    lengths = np.diff(np.flatnonzero(is_end), prepend=-1) - 1
    if len(lengths) % 2 or not len(lengths):
        what = f"{len(lengths)} lines, so that a question has no answer" if len(lengths) else "no lines"
        raise UserError(f"{path}: holds {what}; questions and answers are to stand on alternating lines")
    wrong = np.flatnonzero((lengths == 0) | (lengths > np.iinfo(np.uint16).max))
    if len(wrong):
        raise UserError(f"{path}: line {wrong[0] + 1} is {'too long' if lengths[wrong[0]] else 'empty'}")
    return codes[~is_end], lengths[0::2], lengths[1::2]


def hash_questions(characters: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """64 bits of each question's characters: multilinear in them, modulo 2^64, then mixed."""
    longest = int(lengths.max(initial=0))
    weights = rng.generator("mathematics questions", 0, "", 0).integers(2**64, size=longest, dtype=np.uint64)
    sums = [np.zeros(0, dtype=np.uint64)]
    for first in range(0, len(starts), HASHED_AT_ONCE):
        start, length = starts[first : first + HASHED_AT_ONCE], lengths[first : first + HASHED_AT_ONCE]
        before = np.cumsum(length) - length
        place = np.arange(length.sum()) - np.repeat(before, length)
        codes = characters[np.repeat(start, length) + place].astype(np.uint64) + np.uint64(1)
        sums.append(np.add.reduceat(codes * weights[place], before))
    return rng.mix(np.concatenate(sums))
