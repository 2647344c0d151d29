"""Text as a model should read it: case, punctuation and line breaks stay; what printing and coding left behind goes.

Nothing in here knows where a text comes from. The pages of a document are separated by form feeds.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from typing import NamedTuple

EDGE = 3  # lines at the top and at the bottom of a page that can be its header and footer
LEAST_PAGES = 3  # on which a line has to stand for that ...
LEAST_SHARE = 0.2  # ... and on this share of all: left and right pages differ, and so do chapters

BREAKS = re.compile("\r\n|[\r\x0b\x85\u2028\u2029]")
CONTROLS = {*range(0x20), *range(0x7F, 0xA0)} - set(map(ord, "\t\n\f"))
# Soft hyphen, marks without width, marks of direction. Joiners (200C, 200D) stay: some scripts are spelled with them.
INVISIBLE = {0xAD, 0x200B, 0x2060, 0xFEFF, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
SURROGATES = range(0xD800, 0xE000)  # halves of characters, which no file can hold
REMOVED = dict.fromkeys([*CONTROLS, *INVISIBLE, *SURROGATES])
# Where a run can be as long as the text, each is looked at once, from its beginning (?<!) and never in part (++).
LINE_ENDS = re.compile(r"(?<![^\S\n\f])[^\S\n\f]++(?=[\n\f]|\Z)")
WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
DIVIDED = re.compile(r"(?<![^\W\d_])([^\W\d_]++)-\n([^\W\d_]+)(\S*)[ \t]*(\n?)")
NUMBER = re.compile(r"\d{1,9}")


class Cleaned(NamedTuple):
    text: str
    header_lines: int  # removed


def clean(text: str, *, page_headers: bool = True, dehyphenated: bool = True) -> Cleaned:
    """All of the following in turn. With `page_headers`, those are removed; cleaning twice changes nothing."""
    pages = normalise(text).split("\f")
    header_lines = remove_page_headers(pages) if page_headers else 0
    joined = "\n".join(page for page in pages if page)
    return Cleaned((dehyphenate(joined) if dehyphenated else joined).strip("\n"), header_lines)


def normalise(text: str) -> str:
    """NFC, "\\n" as line break; no control characters, soft hyphens, other invisible marks, spaces at line ends.

    Tabs and form feeds stay.
    """
    text = BREAKS.sub("\n", text).translate(REMOVED)
    return LINE_ENDS.sub("", unicodedata.normalize("NFC", text)).strip("\n")


def dehyphenate(text: str) -> str:
    """Joins the words that were divided at line ends; the line then breaks after the word.

    The hyphen stays in a word that the text also has with a hyphen and not without, and before a capital.
    """
    words = set(WORD.findall(text))

    def join(match: re.Match[str]) -> str:
        left, right, rest, line_break = match.groups()
        if not right[0].islower():
            return match[0]
        is_compound = f"{left}-{right}" in words and left + right not in words
        is_last = match.end() == len(text) and not line_break
        return left + "-" * is_compound + right + rest + "\n" * (not is_last)

    while (joined := DIVIDED.sub(join, text)) != text:  # again, as a word can be divided twice
        text = joined
    return text


def remove_page_headers(pages: list[str]) -> int:
    """Removes, in place, lines that repeat at the edges of pages, whatever numbers are in them; returns how many."""
    split = [page.strip("\n").split("\n") for page in pages]
    repeated = _repeated_forms(split)
    removed = 0
    for number, lines in enumerate(split):
        for end in (0, -1):
            for _ in range(EDGE):
                while lines and not lines[end]:
                    lines.pop(end)
                if lines and _form(lines[end]) in repeated:
                    lines.pop(end)
                    removed += 1
        pages[number] = "\n".join(lines).strip("\n")
    return removed


def _repeated_forms(pages: list[list[str]]) -> set[str]:
    seen: dict[str, list[int | None]] = defaultdict(list)  # by form: for each page the first number less the page's
    for page, lines in enumerate(pages):
        filled = [line for line in lines if line]
        for form, line in {_form(line): line for line in filled[:EDGE] + filled[-EDGE:]}.items():
            number = NUMBER.search(line)
            seen[form].append(int(number[0]) - page if number else None)
    least = max(LEAST_PAGES, LEAST_SHARE * len(pages))
    return {form for form, offsets in seen.items() if len(offsets) >= least and _is_header(form, offsets)}


def _form(line: str) -> str:
    return NUMBER.sub("#", line.strip().casefold())


def _is_header(form: str, offsets: list[int | None]) -> bool:
    """Words that repeat are; numbers alone only if they count the pages, as those of a table do not."""
    if any(character.isalpha() for character in form):
        return True
    offset, times = Counter(offsets).most_common(1)[0]
    return offset is not None and 2 * times > len(offsets)


def unwanted(
    text: str, *, min_characters: int = 1, min_letters: float = 0, max_repeated_lines: float = 1
) -> str | None:
    """The name of the first filter that a text does not pass, with its figure; None if it passes all."""
    if not text.strip():
        return "empty"
    if len(text) < min_characters:
        return f"min_characters: has {len(text)}"
    if min_letters and (share := _letters(text)) < min_letters:
        return f"min_letters: has {share:.2f}"
    if max_repeated_lines < 1 and (share := _repeated_lines(text)) > max_repeated_lines:
        return f"max_repeated_lines: has {share:.2f}"
    return None


def _letters(text: str) -> float:
    return sum(map(str.isalpha, text)) / (len(text) - sum(map(str.isspace, text)))


def _repeated_lines(text: str) -> float:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return 1 - len(set(lines)) / len(lines)
