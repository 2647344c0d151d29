"""Whole scrapes of real servers on loopback addresses."""

import asyncio
import json
import os
import random
import re
import signal
import time
from dataclasses import asdict
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from scrape_process import start, texts
from small_pdfs import encrypted, pdf
from web_server import (
    Handler,
    Site,
    cut_off,
    dripping,
    endless,
    in_turn,
    redirect,
    serving,
    text,
)

from core import tokenizer
from core.config import check, parse_yaml, resolve, write_yaml
from core.documents import Document
from core.errors import UserError
from core.token_writer import write
from curriculum.scraping.cache import Cache
from curriculum.scraping.config import WebSources
from curriculum.scraping.manifest import JOURNAL, MANIFEST, Record, read_records
from curriculum.sources.web import WebPages

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "configs" / "web_sources.yaml"


def keys(urls: list, **more) -> dict:
    quick = {"delay_seconds": 0, "max_seconds": 60, "allow_private_addresses": True, "contact": "me@example.org"}
    return quick | {"urls": urls} | more


def manifest(folder: Path) -> list[Record]:
    return read_records(folder / MANIFEST)


@pytest.fixture(scope="module")
def page() -> bytes:
    sentences = "".join(f"<p>Sentence number {i} has enough words in it to be taken for text.</p>" for i in range(9))
    return f"<html><body><article>{sentences}</article></body></html>".encode()


def test_texts_come_in_the_order_of_the_list_and_the_manifest_says_all(tmp_path, page, capsys):
    def slow(handler: Handler) -> None:
        time.sleep(0.3)
        handler.answer(*text("first in the list, last to come"))

    other = Site({"/slow": slow}, "127.0.0.2")
    site = Site(
        {
            "/page": (200, {"Content-Type": "text/html"}, page),
            "/to": redirect("/book.pdf"),
            "/book.pdf": (200, {"Content-Type": "application/pdf"}, pdf([["In a book"], ["there are pages"]])),
            "/secret": (200, {"Content-Type": "application/pdf"}, encrypted(pdf([["x"]]), "secret")),
            "/evil": (404, {"Content-Type": "\x1b[31mred"}, b""),
            "/empty": text("\x07 \x1b \n"),
        }
    )
    with serving(site, other):
        urls = [other.url("/slow"), {"url": site.url("/page#part"), "licence": "CC0"}]
        urls += [site.url(path) for path in ("/to", "/secret", "/evil", "/empty", "/page")]
        found = texts(keys(urls), tmp_path)
    assert [one.partition("\n")[0][:20] for one in found] == [
        "first in the list, l",
        "Sentence number 0 ha",
        "In a book",
    ]
    records = manifest(tmp_path)
    assert [record.url for record in records] == [other.url("/slow"), site.url("/page"), *urls[2:6]]
    assert [record.failure for record in records] == ["", "", "", "PDF", "HTTP 404", "no text"]
    assert records[1].licence == "CC0"
    assert records[2].final_url == site.url("/book.pdf")
    assert [record.characters for record in records[:3]] == [len(one) for one in found]
    assert [record.status for record in records] == [200, 200, 200, 200, 404, 200]
    assert all(len(record.sha256) == 64 and record.bytes for record in records if record.status == 200)
    assert not (tmp_path / JOURNAL).exists()
    said = capsys.readouterr().out
    assert "1 URLs of the list stand there already" in said
    assert "fetched   3 of 6 pages (0 from the cache)" in said
    assert "left out  1: PDF, such as" in said
    assert str(tmp_path / MANIFEST) in said
    for printed in (said, (tmp_path / MANIFEST).read_text()):
        assert all(character.isprintable() or character == "\n" for character in printed)


def test_a_second_scrape_asks_for_nothing_that_it_has_and_again_for_what_failed(tmp_path):
    site = Site({"/a": text("a"), "/b": in_turn((404, {}, b""), text("b"))})
    with serving(site):
        config = keys([site.url("/b"), site.url("/a")])
        assert texts(config, tmp_path) == ["a"]
        assert texts(config, tmp_path) == ["b", "a"]
    assert site.paths() == ["/b", "/a", "/b"]
    assert [record.from_cache for record in manifest(tmp_path)] == [False, True]


def test_pages_that_are_too_old_are_asked_for_again_and_kept_if_the_server_fails(tmp_path):
    def page(handler: Handler) -> None:
        is_known = handler.headers["If-None-Match"] == '"1"' and handler.headers["If-Modified-Since"] == "yesterday"
        handler.answer(*((304, {}, b"") if is_known else text("old", ETag='"1"', **{"Last-Modified": "yesterday"})))

    new = text("new", ETag='"2\udcff"'.encode("utf-8", "surrogateescape").decode("latin-1"))
    site = Site({"/": in_turn(page, page, new, (503, {}, b""), (410, {}, b""))})
    found, notes = [], []
    with serving(site):
        for _ in range(5):
            found.append(texts(keys([site.url("/")], max_age_days=0, retries=0), tmp_path))
            (record,) = manifest(tmp_path)
            notes.append((record.from_cache, record.note or record.failure))
    assert found == [["old"], ["old"], ["new"], ["new"], []]
    stale = "could not be asked for again: HTTP 503"
    assert notes == [(False, ""), (True, ""), (False, ""), (True, stale), (False, "HTTP 410")]


def test_other_options_make_other_texts_of_the_same_bodies(tmp_path):
    site = Site({"/": text("one exam-\nple of it.")})
    with serving(site):
        urls = [site.url("/")]
        assert texts(keys(urls), tmp_path) == ["one example\nof it."]
        assert texts(keys(urls, dehyphenate=False), tmp_path) == ["one exam-\nple of it."]
        assert texts(keys(urls, min_letters=0.99), tmp_path) == []
    assert manifest(tmp_path)[0].failure == "filter min_letters"
    assert site.paths() == ["/"]


def test_a_damaged_cache_is_made_anew(tmp_path):
    site = Site({"/": text("as it is")})
    with serving(site):
        config, asked = keys([site.url("/")]), 1
        assert texts(config, tmp_path) == ["as it is"]
        for suffix in (".body", ".json", ".text.json"):
            for damage in (b"", b"{}", b"null", b"\xff\x00"):
                Cache(tmp_path / "pages", "").body_path(site.url("/")).with_suffix(suffix).write_bytes(damage)
                assert texts(config, tmp_path) == ["as it is"]
                asked += suffix != ".text.json"
                assert len(site.paths()) == asked


# --- Many pages, most of which fail


def hostile_sites(count: int) -> tuple[list[Site], list[str], dict[str, str]]:
    """Servers on eight addresses, `count` URLs of theirs in random order, and for each how it has to fail."""
    answers = {
        "/text": (text("some words"), ""),
        "/gone": ((404, {}, b""), "HTTP 404"),
        "/broken": ((500, {}, b""), "HTTP 500"),
        "/image": ((200, {"Content-Type": "image/png"}, b"\x89PNG"), "type not supported"),
        "/loop": (redirect("/loop2"), "redirects"),
        "/forbidden": (text("x"), "robots.txt"),
        "/large": ((200, {"Content-Length": "999999999"}, b""), "too large"),
        "/cut": (cut_off, "connection failed"),
        "/nonsense": (lambda handler: handler.wfile.write(b"\x1b[2J\r\n\r\n"), "connection failed"),
        "/close": (lambda handler: None, "connection failed"),
        "/file": (redirect("file:///etc/passwd"), "redirects"),
    }
    sites, urls, expected = [], [], {}
    for number in range(8):
        site = Site({"/robots.txt": text("User-agent: *\nDisallow: /forbidden")}, f"127.0.0.{number + 1}")
        sites.append(site)
    for number in range(count):
        site, kind = sites[number % 8], list(answers)[number // 8 % len(answers)]
        site.pages[f"{kind}/{number}"], failure = answers[kind]
        urls.append(site.url(f"{kind}/{number}"))
        expected[urls[-1]] = failure
    for site in sites:
        site.pages["/loop2"] = redirect("/loop2")
    random.Random(0).shuffle(urls)
    return sites, urls, expected


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_urls_with_failures_end_in_a_complete_manifest(tmp_path, count):
    sites, urls, expected = hostile_sites(count)
    with serving(*sites):
        config = keys(urls, retries=1, max_failures=1_000_000, max_bytes=10_000, connections=8)
        found = texts(config, tmp_path)
    assert found == ["some words"] * list(expected.values()).count("")
    assert [(record.url, record.failure) for record in manifest(tmp_path)] == [(url, expected[url]) for url in urls]


def test_slow_and_endless_pages_do_not_hold_up_the_others(tmp_path):
    slow, fast = (
        Site({"/drip": dripping, "/endless": endless}),
        Site({f"/{i}": text(f"{i}") for i in range(20)}, "127.0.0.2"),
    )
    with serving(slow, fast):
        urls = [slow.url("/drip"), slow.url("/endless"), *(fast.url(f"/{i}") for i in range(20))]
        found = texts(keys(urls, max_seconds=2, max_bytes=100_000, connections=2), tmp_path)
    assert found == [f"{i}" for i in range(20)]
    assert [record.failure for record in manifest(tmp_path)][:2] == ["too slow", "too large"]


# --- Killed


def wait_for_lines(path: Path, lines: int, process: BaseProcess) -> None:
    while process.is_alive() and (not path.exists() or path.read_bytes().count(b"\n") < lines):
        time.sleep(0.002)


def without_times(folder: Path) -> list[dict]:
    return [{**asdict(record), "when": "", "from_cache": False} for record in manifest(folder)]


def test_a_scrape_that_is_killed_goes_on_where_it_was(tmp_path):
    sites, urls, _ = hostile_sites(200)
    killed, whole, output = tmp_path / "killed", tmp_path / "whole", tmp_path / "output"
    with serving(*sites):
        settings = keys(urls, retries=0, max_failures=1_000_000, max_bytes=10_000, connections=4)
        for lines in (20, 60, 120):
            process = start(settings, killed, output)
            wait_for_lines(killed / JOURNAL, lines, process)
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            assert not (killed / MANIFEST).exists()
        with (killed / JOURNAL).open("a") as journal:
            journal.write('{"url": "http://cut.off')  # as a kill in a write leaves it
        process = start(settings, killed, output)
        process.join()
        assert process.exitcode == 0
        asked = sum(len(site.paths()) for site in sites)
        found = texts(settings, whole)
        asked_at_once = sum(len(site.paths()) for site in sites) - asked
        assert texts(settings, killed) == found
    assert without_times(killed) == without_times(whole)
    assert [record.url for record in manifest(killed)] == urls
    assert asked <= asked_at_once + 3 * 2 * len(sites)  # a page of each host that was under way, with its redirect


def is_running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes() != b""  # which it is for one that nobody has waited for
    except OSError:
        return False


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_a_signal_ends_it_at_once_and_leaves_no_process(tmp_path, number, status):
    site = Site({"/page": text("x"), "/drip": dripping})
    with serving(site):
        settings = keys([site.url("/page"), site.url("/drip")], max_seconds=600)
        process = start(settings, tmp_path / "folder", tmp_path / "output")
        wait_for_lines(tmp_path / "folder" / JOURNAL, 2, process)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(process.pid, number)
        process.join()
    assert process.exitcode == status
    last = time.monotonic() + 60
    while is_running(child) and time.monotonic() < last:
        time.sleep(0.01)
    assert not is_running(child)
    assert "Traceback" not in (tmp_path / "output").read_text()


def test_a_journal_of_other_settings_is_not_gone_on_with(tmp_path):
    site = Site({"/": text("x" * 100)})
    with serving(site):
        assert texts(keys([site.url("/")], max_bytes=50), tmp_path) == []
        lines = [{"scrape": "of other settings"}, *map(asdict, manifest(tmp_path))]
        (tmp_path / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert texts(keys([site.url("/")]), tmp_path) == ["x" * 100]


def test_a_full_disk_is_told_of_in_the_systems_words_and_nothing_is_lost(tmp_path, monkeypatch):
    site = Site({"/a": text("a"), "/b": text("b")})
    original = Cache.put

    def put(self, entry, body=None):
        if entry.url.endswith("/b"):
            raise OSError(28, os.strerror(28))
        original(self, entry, body)

    with serving(site):
        config = keys([site.url("/a"), site.url("/b")])
        monkeypatch.setattr(Cache, "put", put)
        with pytest.raises(OSError, match="No space left"):
            texts(config, tmp_path)
        monkeypatch.undo()
        assert texts(config, tmp_path) == ["a", "b"]
    assert site.paths() == ["/a", "/b", "/b"]


# --- The file


def test_the_shipped_file_is_empty_and_shows_the_defaults():
    shipped = resolve(lambda _: WebSources, str(SHIPPED), {})
    assert shipped == WebSources()
    assert parse_yaml(SHIPPED.read_text()).keys() == WebSources.model_fields.keys()


def test_its_examples_can_be_uncommented():
    lines = SHIPPED.read_text().replace("urls: []", "urls:").replace("contact: null", "contact: me@example.org")
    config = check(lambda _: WebSources, parse_yaml(re.sub("(?m)^#  ", "  ", lines)), {})
    assert len(config.urls) == 4
    assert config.urls[0].licence.startswith("public domain")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.org/x", "begins with http:// or https://"),
        ("file:///etc/passwd", "begins with http:// or https://"),
        ("example.org", "begins with http:// or https://"),
        ("http://", "names no host"),
        ("http://exa mple.org/", "names no host"),
        ("http://example.org:70000/", "names no host"),
        ("http://me:secret@example.org/", "user's name"),
        ("http://a\nb/", "is no URL"),
        ("http://[::1/", "is no URL"),
        (7, "takes list of {url, licence}"),
    ],
)
def test_a_url_that_cannot_be_one_is_named_before_anything_is_fetched(url, words):
    given = {"urls": ["http://example.org/", url], "contact": "me@example.org"}
    with pytest.raises(UserError) as caught:
        check(lambda _: WebSources, given, {}, "sources.yaml")
    (problem,) = caught.value.problems
    assert problem.startswith("sources.yaml: urls[1]" if isinstance(url, str) else "sources.yaml: urls")
    assert words in problem
    assert "\n" not in problem


@pytest.mark.parametrize("contact", [None, "", "me@example.org\r\nCookie: x", "a (b)", "ä@example.org"])
def test_nothing_is_fetched_without_a_contact_that_a_header_can_hold(contact):
    with pytest.raises(UserError, match="contact"):
        check(lambda _: WebSources, {"urls": ["http://example.org/"], "contact": contact}, {}, "sources.yaml")


def test_an_empty_list_is_said():
    with pytest.raises(UserError, match=r"web_sources.yaml: urls: is empty"):
        WebPages(str(SHIPPED))


def test_it_runs_in_a_notebook_where_a_loop_is_running_already(tmp_path):
    site = Site({"/": text("x")})

    async def cell() -> list[str]:
        return texts(keys([site.url("/")]), tmp_path)

    with serving(site):
        assert asyncio.run(cell()) == ["x"]


# --- As a source of documents


def test_it_is_a_source_of_documents_that_a_token_file_can_be_written_from(tmp_path):
    site = Site({"/a": text("A first text."), "/b": (404, {}, b""), "/c": text("A third one."), "/d": text("a")})
    file = tmp_path / "list.yaml"
    with serving(site):
        urls = [site.url(path) for path in ["/a", "/b", "/c"]]
        file.write_text(write_yaml(keys(urls)))
        pages = WebPages(str(file), str(tmp_path))
        version = pages.version()
        documents = [
            Document("A first text.", urls[0]),
            Document("", urls[1], "HTTP 404"),
            Document("A third one.", urls[2]),
        ]
        for start in range(4):
            assert list(pages.documents(start)) == documents[start:]
        assert site.paths() == ["/a", "/b", "/c"]
        meta = write(tmp_path / "train.bin", pages, tokenizer.load("bytes"))
        assert (meta["documents"], meta["consumed"], meta["dropped"]) == (2, 3, {"HTTP 404": 1})
        again = WebPages(str(file), str(tmp_path))
        assert (again.identity(), again.version()) == (pages.identity(), version)
        site.pages["/b"] = text("It is there now.")
        later = WebPages(str(file), str(tmp_path))
        assert later.identity() == pages.identity()
        assert later.version() != version
        file.write_text(write_yaml(keys([*urls, site.url("/d")])))
        assert WebPages(str(file), str(tmp_path)).identity() != pages.identity()
        file.write_text(write_yaml(keys(urls, min_letters=0.5)))
        assert WebPages(str(file), str(tmp_path)).identity() != pages.identity()
