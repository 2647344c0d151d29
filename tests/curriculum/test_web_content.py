"""From bodies to texts, in the sandbox that a scrape uses."""

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_pdfs import encrypted, pdf

from curriculum.scraping import sandbox
from curriculum.scraping.config import WebSources
from curriculum.scraping.content import decode, kind_of
from curriculum.scraping.failure import Failure, printable
from curriculum.scraping.sandbox import Extract, Sandbox

GERMAN = "Größe und Übermaß: äöü, „Anführung“ – 5 €."
RUSSIAN = "Широкая электрификация южных губерний даст мощный толчок подъёму сельского хозяйства."
JAPANESE = "いろはにほへと ちりぬるを わかよたれそ つねならむ うゐのおくやま けふこえて"


@pytest.mark.parametrize(
    ("text", "written_in", "content_type", "meta"),
    [
        (GERMAN, "utf-8", "text/html", ""),
        (GERMAN, "utf-8", "text/html; charset=iso-8859-1", ""),  # declared wrongly
        (GERMAN, "cp1252", "text/html; charset=utf-8", ""),  # declared wrongly, and nothing else to go by
        (GERMAN, "cp1252", "text/html; charset=ISO-8859-1", ""),  # as browsers read it
        (GERMAN, "cp1252", "text/html", "<meta charset='windows-1252'>"),
        (GERMAN, "cp1252", 'text/html; charset="nonsense-8"', "<meta charset=latin1>"),
        (GERMAN, "utf-8-sig", "text/html; charset=koi8-r", "<meta charset=big5>"),
        (GERMAN, "utf-16", "text/html; charset=utf-8", ""),
        (RUSSIAN, "koi8-r", "text/html; charset=utf-8", '<meta http-equiv="x" content="text/html; charset=koi8-r">'),
        (RUSSIAN, "cp1251", "text/html; charset=windows-1251", ""),
        (RUSSIAN, "cp1251", "text/html", ""),
        (JAPANESE, "shift_jis", "text/html; charset=Shift_JIS", ""),
        (JAPANESE, "iso2022_jp", "text/html; charset=iso-2022-jp", ""),
        (JAPANESE, "euc_jp", "application/xhtml+xml", '<?xml version="1.0" encoding="EUC-JP"?>'),
    ],
)
def test_encodings_are_found_out_also_where_they_are_declared_wrongly(text, written_in, content_type, meta):
    body = f"{meta}<p>{text}</p>".encode(written_in)
    assert text in decode(body, content_type, is_html=True)


def test_one_broken_character_does_not_change_the_encoding():
    body = (GERMAN * 5).encode()[:-1]
    assert decode(body, "text/plain; charset=utf-8", is_html=False).startswith(GERMAN * 4)


CHARSETS = (
    "utf-8 utf-16 utf-7 idna punycode unicode_escape base64 rot13 hex zip undefined mbcs big5 \x00 é " + "x" * 500
)


@given(st.binary(), st.sampled_from(CHARSETS.split(" ")), st.booleans())
def test_no_body_and_no_charset_is_an_error(body, charset, is_html):
    assert isinstance(decode(body, f"text/html; charset={charset}", is_html), str)


@pytest.mark.parametrize(
    ("body", "content_type", "kind"),
    [
        (b"%PDF-1.4 ...", "application/pdf", "pdf"),
        (b"\n\n%PDF-1.4 ...", "text/html", "pdf"),
        (b"%PDF-1.4 ...", "", "pdf"),
        (b"<p>a page", "text/html; charset=utf-8", "html"),
        (b"<!DOCTYPE HTML>\n<html>", "", "html"),
        (b"<!DOCTYPE HTML>\n<html>", "text/plain", "text"),
        (b"for <html> see below", "text/markdown", "text"),
        (b"words", "application/octet-stream", "text"),
        ("wörter".encode("utf-16"), "text/plain", "text"),
        (b"", "text/html", "html"),
    ],
)
def test_what_a_body_is_is_seen(body, content_type, kind):
    assert kind_of(body, content_type) == kind


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"<html>Please log in", "application/pdf"), (b"\x7fELF\0\0", "text/plain"), (b"PK\3\4\0\0", "")],
)
def test_what_is_none_of_these_is_refused(body, content_type):
    with pytest.raises(Failure, match="not what it says"):
        kind_of(body, content_type)


@given(st.text())
def test_nothing_that_is_printed_moves_the_cursor(text):
    assert all(character.isprintable() for character in printable("\x1b[2J\x9b31m\r\n\u202e" + text))


# --- In the sandbox


def extract(folder: Path, *bodies: tuple[bytes, str], box: Sandbox | None = None, **keys) -> list[Extract | Failure]:
    async def run() -> list[Extract | Failure]:
        own, found = box or Sandbox(WebSources(**keys)), []
        for number, (body, content_type) in enumerate(bodies):
            (folder / f"{number}").write_bytes(body)
            try:
                found.append(await own.extract(folder / f"{number}", content_type))
            except Failure as failure:
                found.append(failure)
        await own.close()
        return found

    return asyncio.run(run())


SENTENCES = "".join(
    f"<p>Sentence number {i} has enough words in it to be taken for text, and a comma.</p>" for i in range(9)
)
PAGE = f"<html><head><title>No</title></head><body><nav>Home</nav><article>{SENTENCES}</article></body></html>".encode()
BOOK = [
    [
        "A Book",
        f"The text of page {'abcdef'[i]} goes",
        f"on and breaks {'uvwxyz'[i]} li-",
        f"nes {'opqrst'[i]}",
        str(i + 1),
    ]
    for i in range(6)
]


def test_texts_of_pages_books_and_files(tmp_path):
    page, book, plain, empty = extract(
        tmp_path,
        (PAGE, "text/html"),
        (pdf(BOOK), ""),
        ("Plain\r\ntéxt".encode(), "text/plain"),
        (b"<html></html>", "text/html"),
    )
    assert page.text.startswith("Sentence number 0 has enough words")
    assert page.text.count("\n") == 8
    assert book.text.startswith("The text of page a goes\non and breaks u lines\no\nThe text of page b goes")
    assert book.note == "12 lines of page headers and footers removed"
    assert plain.text == "Plain\ntéxt"
    assert empty.kind == "no text"


def broken_pdfs() -> list[bytes]:
    whole, choice = pdf(BOOK), random.Random(0)
    holes = [bytearray(whole) for _ in range(12)]
    for body in holes:
        for _ in range(20):
            body[choice.randrange(8, len(body))] = choice.randrange(256)
    loop = whole.replace(b"/Kids [5 0 R", b"/Kids [2 0 R")
    return [b"%PDF-", b"%PDF-1.4\n" + bytes(1000), whole[: len(whole) // 2], loop, *map(bytes, holes)]


def test_pdfs_that_are_broken_or_encrypted_are_failures_and_harm_no_other(tmp_path):
    secret = [encrypted(pdf(BOOK), "secret"), encrypted(pdf(BOOK), "")]
    bodies = [*secret, *broken_pdfs(), pdf(BOOK)]
    found = extract(tmp_path, *((body, "application/pdf") for body in bodies), extract_seconds=10)
    assert [(failure.kind, failure.detail) for failure in found[:2]] == [("PDF", "is encrypted")] * 2
    assert [failure.kind for failure in found[2:4]] == ["PDF", "PDF"]
    assert isinstance(found[-1], Extract)
    assert all(isinstance(one, Extract | Failure) for one in found)


def test_pages_that_cannot_be_read_are_counted_and_the_others_kept(tmp_path):
    whole = pdf([["page a"], ["page b"], ["page c"]])
    some = whole.replace(b"<< /Length", b"<< /Filter /Unknown /Length", 1)
    none = whole.replace(b"<< /Length", b"<< /Filter /Unknown /Length")
    found, failure = extract(tmp_path, (some, "application/pdf"), (none, "application/pdf"))
    assert found == Extract("page b\npage c", "1 of 3 pages cannot be read")
    assert (failure.kind, failure.detail) == ("PDF", "none of its 3 pages can be read")


def dying(monkeypatch, code: str) -> type[Sandbox]:
    """A sandbox whose server runs `code` in place of extraction, in each fork."""
    program = f"import os, signal, time; from curriculum.scraping import sandbox\ndef extract(order):\n    {code}\n"
    original = asyncio.create_subprocess_exec

    async def start(python, *_, **keywords):
        return await original(python, "-c", f"{program}sandbox.extract = extract\nsandbox.serve()", **keywords)

    monkeypatch.setattr(sandbox.asyncio, "create_subprocess_exec", start)
    return Sandbox


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("while True: pass", "took longer than 0.3 s"),
        ("time.sleep(60)", "took longer than 0.3 s"),
        ("return sandbox.Extract('x' * (1 << 30), '')", "needs more than 200 MB"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with status -11"),
        ("raise KeyError('of a parser')", "ended with status 1"),
        ("print('noise', flush=True); os.write(2, b'noise'); os._exit(0)", "ended"),
    ],
)
def test_a_parser_that_hangs_crashes_or_eats_memory_is_a_failure(tmp_path, monkeypatch, code, words):
    box = dying(monkeypatch, code)(WebSources(extract_seconds=0.3 if "longer" in words else 60, extract_megabytes=200))
    found = extract(tmp_path, (b"x", "text/plain"), (b"y", "text/plain"), box=box)
    assert [failure.kind for failure in found] == ["text extraction"] * 2
    assert all(words in failure.detail for failure in found)


def test_without_a_way_to_limit_memory_texts_are_extracted_all_the_same(tmp_path, monkeypatch):
    code = "sandbox.IN_USE = sandbox.Path('/not/there'); sandbox.limit_memory(0); return sandbox.Extract('text', '')"
    assert extract(tmp_path, (b"x", "text/plain"), box=dying(monkeypatch, code)(WebSources())) == [Extract("text", "")]


def test_a_server_process_that_was_killed_is_started_again(tmp_path):
    async def run() -> tuple[str, str]:
        box = Sandbox(WebSources())
        (tmp_path / "x").write_text("x")
        await box.extract(tmp_path / "x", "text/plain")
        os.kill(box._process.pid, signal.SIGKILL)
        with pytest.raises(Failure) as caught:
            await box.extract(tmp_path / "x", "text/plain")
        text = (await box.extract(tmp_path / "x", "text/plain")).text
        await box.close()
        return str(caught.value), text

    assert asyncio.run(run()) == ("text extraction: its process died", "x")
