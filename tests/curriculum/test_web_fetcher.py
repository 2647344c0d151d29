"""What is asked of servers, against real ones on loopback addresses."""

import asyncio
import gzip
import socket
import ssl
import subprocess
import tracemalloc
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from itertools import pairwise

import pytest
from web_server import (
    Site,
    cut_off,
    dripping,
    dripping_head,
    endless,
    endless_head,
    in_turn,
    redirect,
    serving,
    silent,
    text,
)

from curriculum.scraping import address, exchange
from curriculum.scraping.config import WebSources
from curriculum.scraping.exchange import Answer, Inflater
from curriculum.scraping.failure import Failure
from curriculum.scraping.fetcher import Fetcher, Visit


def config(**keys) -> WebSources:
    quick = {"delay_seconds": 0, "max_seconds": 60, "allow_private_addresses": True, "contact": "me@example.org"}
    return WebSources(**quick | keys)


def get(*urls: str, **keys) -> list[Answer | Failure]:
    """What a scrape gets for URLs that it asks for one after the other."""
    settings = config(**keys)

    async def run() -> list[Answer | Failure]:
        fetcher, found = Fetcher(settings), []
        for url in urls:
            try:
                found.append(await fetcher.page(Visit(url, settings.max_seconds, settings.max_bytes)))
            except Failure as failure:
                found.append(failure)
        await fetcher.close()
        return found

    return asyncio.run(run())


def failure_of(page, path: str = "/page", more: dict | None = None, **keys) -> Failure:
    site = Site({path: page, **(more or {})})
    with serving(site):
        (failure,) = get(site.url(path), **keys)
    assert isinstance(failure, Failure)
    return failure


@pytest.fixture
def names(monkeypatch):
    """A dict from names to the addresses that the system finds for them, one list after the other."""
    known: dict[str, list[list[str]]] = {}
    original = socket.getaddrinfo

    def look_up(host, port, *arguments, **keywords):
        if host not in known:
            return original(host, port, *arguments, **keywords)
        addresses = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


@pytest.fixture
def only_one_is_public(monkeypatch):
    """127.0.0.1 counts as public, so that a server there can be reached while the others are refused."""
    original = address.is_public
    monkeypatch.setattr(address, "is_public", lambda found: str(found) == "127.0.0.1" or original(found))


# --- Addresses


NOT_PUBLIC = """
    127.0.0.1 localhost 127.1 2130706433 0x7f000001 0x7f.1 017700000001 0 0.0.0.0 10.0.0.1 172.16.0.1 192.168.1.1
    169.254.169.254 100.64.0.1 224.0.0.1 255.255.255.255 [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1]
    [64:ff9b::7f00:1] [2002:7f00:1::] [fe80::1] [fc00::1] [ff02::1] [fec0::1] [2001:db8::1]
"""


@pytest.mark.parametrize("host", NOT_PUBLIC.split())
def test_no_host_is_asked_that_is_not_public_whatever_its_form(host):
    site = Site({"/": text("secret")})
    with serving(site):
        (failure,) = get(f"http://{host}:{site.port}/", allow_private_addresses=False)
    assert failure.kind == "address not public"
    assert site.seen == []


@pytest.mark.parametrize(
    "found", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_what_the_internet_reaches_is_public(found):
    assert address.is_public(ip_address(found))


@pytest.mark.parametrize(
    "target", ["http://10.0.0.1/", "http://[::1]:{port}/", "//0x7f.2:{port}/", "http://evil.test:{port}/"]
)
def test_a_redirect_to_a_private_address_is_not_followed(target, names, only_one_is_public):
    names["evil.test"] = [["127.0.0.3"]]
    site = Site({})
    site.pages["/"] = redirect(target.format(port=site.port))
    with serving(site):
        (failure,) = get(site.url("/"), allow_private_addresses=False)
    assert failure.kind == "address not public"
    assert site.paths() == ["/"]


def test_a_host_with_one_private_address_among_others_is_not_asked(names, only_one_is_public):
    names["mixed.test"] = [["127.0.0.1", "10.0.0.1"]]
    site = Site({"/": text("x")})
    with serving(site):
        (failure,) = get(site.url("/", "mixed.test"), allow_private_addresses=False)
    assert (failure.kind, site.seen) == ("address not public", [])


def test_the_connection_goes_to_the_address_that_was_checked(names, only_one_is_public):
    names["rebind.test"] = [["127.0.0.1"], ["127.0.0.1"], ["127.0.0.2"]]  # for robots.txt, the page, any further look
    site = Site({"/": text("x")})
    with serving(site):
        answer, failure = get(
            site.url("/", "rebind.test"), site.url("/b", "rebind.test"), allow_private_addresses=False
        )
    assert answer.body == b"x"
    assert failure.kind == "address not public"
    assert [seen.headers["Host"] for seen in site.seen] == [f"rebind.test:{site.port}"] * 2


def test_the_next_address_is_tried_if_one_refuses(names):
    names["two.test"] = [["127.0.0.9", "127.0.0.1"]]
    site = Site({"/": text("x")})
    with serving(site):
        (answer,) = get(site.url("/", "two.test"))
    assert answer.body == b"x"


def test_ipv6_is_spoken():
    site = Site({"/": text("six")}, "::1")
    with serving(site):
        (answer,) = get(site.url("/"))
    assert answer.body == b"six"
    assert site.seen[0].headers["Host"] == f"[::1]:{site.port}"


def test_a_certificate_has_to_be_the_hosts_though_the_connection_goes_to_an_address(tmp_path, names, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=tls.test", "-addext", "subjectAltName=DNS:tls.test"]
    making = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    subprocess.run([*making, *subject], check=True, capture_output=True)
    asked: list[str] = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    tls.sni_callback = lambda socket, name, context: asked.append(name)
    monkeypatch.setattr(exchange, "trusted", lambda: ssl.create_default_context(cafile=certificate))
    names["tls.test"] = names["other.test"] = [["127.0.0.1"]]
    site = Site({"/": text("x")}, tls=tls)
    with serving(site):
        answer, failure = get(site.url("/", "tls.test"), site.url("/", "other.test"), retries=0)
    assert answer.body == b"x"
    assert asked == ["tls.test", "tls.test", "other.test"]
    assert failure.kind == "connection failed"
    assert "certificate" in failure.detail.lower()
    assert {seen.headers["Host"] for seen in site.seen} == {f"tls.test:{site.port}"}


# --- Redirects, cookies, headers


def test_redirects_are_followed_to_the_page():
    site = Site({"/a": redirect("b/c", 301), "/b/c": redirect("/d?q=ä#part", 307), "/d?q=%C3%A4": text("found")})
    with serving(site):
        (answer,) = get(site.url("/a"))
    assert answer.body == b"found"


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ({"/0": redirect("/0")}, "back to where"),
        ({"/0": redirect("/1"), "/1": redirect("/0")}, "back to where"),
        ({f"/{i}": redirect(f"/{i + 1}") for i in range(30)}, "more than 5"),
        ({"/0": redirect("file:///etc/passwd")}, "http://"),
        ({"/0": redirect("ftp://127.0.0.1/")}, "http://"),
        ({"/0": redirect("http://user:word@127.0.0.1/")}, "user's name"),
        ({"/0": redirect("http://trusted.example@127.0.0.1/")}, "user's name"),
        ({"/0": redirect("http://[broken/")}, "cannot be fetched"),
        ({"/0": redirect("http://127.0.0.1:99999/")}, "no host"),
    ],
)
def test_redirects_that_lead_nowhere_end(pages, words):
    site = Site(pages)
    with serving(site):
        (failure,) = get(site.url("/0"))
    assert failure.kind == "redirects"
    assert words in failure.detail
    assert len(site.paths()) <= 6


def test_no_cookie_password_or_referer_is_sent_anywhere():
    other = Site({"/": text("x", **{"Set-Cookie": "b=2"})}, "127.0.0.2")
    site = Site({"/again": text("y")})
    site.pages["/"] = redirect(other.url("/"), **{"Set-Cookie": "a=1"})
    with serving(site, other):
        get(site.url("/"), site.url("/again"))
    for seen in [*site.seen, *other.seen]:
        assert not {"Cookie", "Authorization", "Referer"} & seen.headers.keys()
        assert seen.headers["User-Agent"] == "procedural-curriculum (+me@example.org)"


# --- Limits


@pytest.mark.parametrize(
    ("page", "kind", "keys"),
    [
        (endless, "too large", {"max_bytes": 1_000_000}),
        ((200, {"Content-Length": "9" * 15}, b"x"), "too large", {}),
        (text("x" * 1001), "too large", {"max_bytes": 1000}),
        (dripping, "too slow", {"max_seconds": 0.5}),
        (dripping_head, "too slow", {"max_seconds": 0.5}),
        (silent, "too slow", {"max_seconds": 0.5}),
        (endless_head, "connection failed", {"retries": 0}),
        (cut_off, "connection failed", {"retries": 0}),
        ((200, {"Content-Type": "image/png"}, b"\x89PNG"), "type not supported", {}),
        ((200, {"Content-Encoding": "br"}, b"x"), "encoding not supported", {}),
        ((200, {"Content-Encoding": "gzip, gzip"}, b"x"), "encoding not supported", {}),
        ((200, {"Content-Encoding": "gzip"}, b"no gzip"), "broken compression", {}),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(b"x") + b"more"), "broken compression", {}),
        ((200, {"Content-Encoding": "deflate"}, zlib.compress(b"x") + b"more"), "broken compression", {}),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(b"x" * 100)[:20]), "connection failed", {"retries": 0}),
        ((204, {}, b""), "HTTP 204", {}),
        ((304, {}, b""), "HTTP 304", {}),
        ((302, {}, b""), "HTTP 302", {}),
        ((404, {}, b""), "HTTP 404", {}),
        ((418, {"X": "\x1b[31mred"}, b""), "HTTP 418", {}),
        (
            lambda handler: handler.wfile.write(b"\x1b]0;pwned\x07 nonsense\r\n\r\n"),
            "connection failed",
            {"retries": 0},
        ),
        (lambda handler: None, "connection failed", {"retries": 0}),
    ],
)
def test_a_server_that_misbehaves_is_left_within_limits(page, kind, keys):
    failure = failure_of(page, **keys)
    assert failure.kind == kind
    assert failure.detail.isprintable()


def test_a_body_of_just_the_largest_size_is_taken():
    site = Site({"/": text("x" * 1000)})
    with serving(site):
        (answer,) = get(site.url("/"), max_bytes=1000)
    assert len(answer.body) == 1000


@pytest.mark.parametrize(("encoding", "window"), [("gzip", 31), ("deflate", 15), ("deflate", -15)])
def test_bodies_are_decompressed_and_bombs_are_not(encoding, window):
    def compressed(data: bytes) -> bytes:
        stream = zlib.compressobj(9, wbits=window)
        return stream.compress(data) + stream.flush()

    bomb = compressed(bytes(200_000_000))
    assert len(bomb) < 250_000
    header = {"Content-Encoding": encoding, "Content-Type": "text/plain"}
    site = Site({"/page": (200, header, compressed(b"words " * 1000)), "/bomb": (200, header, bomb)})
    with serving(site):
        tracemalloc.start()
        answer, failure = get(site.url("/page"), site.url("/bomb"), max_bytes=300_000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert answer.body == b"words " * 1000
    assert failure.kind == "too large"
    assert peak < 10_000_000


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_gzip_of_several_members_is_one_body(size):
    data = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")
    inflater = Inflater("gzip")
    parts = [inflater.feed(data[start : start + size], room=100) for start in range(0, len(data), size)]
    inflater.finish()
    assert b"".join(parts) == b"one two"
    assert Inflater("gzip").feed(data, room=6) == b"one tw"


def test_gzip_whose_second_member_ends_early():
    inflater = Inflater("gzip")
    inflater.feed((gzip.compress(b"one ") + gzip.compress(b"two"))[:-3], room=100)
    with pytest.raises(Failure, match="ends early"):
        inflater.finish()


# --- Attempts


def test_passing_failures_are_tried_again_and_others_are_not():
    site = Site({"/busy": in_turn((503, {}, b""), cut_off, text("at last")), "/gone": (410, {}, b"")})
    with serving(site):
        answer, failure = get(site.url("/busy"), site.url("/gone"))
    assert answer.body == b"at last"
    assert failure.kind == "HTTP 410"
    assert site.paths() == ["/busy"] * 3 + ["/gone"]


def test_attempts_end():
    site = Site({"/busy": (500, {}, b"")})
    with serving(site):
        (failure,) = get(site.url("/busy"), retries=3)
    assert failure.kind == "HTTP 500"
    assert len(site.paths()) == 4


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed_in_both_forms(form):
    def busy(handler):
        later = datetime.now(UTC) + timedelta(seconds=2)  # dates have no fractions: at least one second is left
        value = "1" if form == "seconds" else format_datetime(later, usegmt=True)
        handler.answer(429, {"Retry-After": value}, b"")

    site = Site({"/": in_turn(busy, text("x"))})
    with serving(site):
        (answer,) = get(site.url("/"))
    assert answer.body == b"x"
    first, second = [seen.when for seen in site.seen if seen.path == "/"]
    assert second - first >= 0.95


@pytest.mark.parametrize("value", ["3600", "9" * 400, "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_a_server_that_wants_too_long_a_wait_is_left(value):
    failure = failure_of((429, {"Retry-After": value}, b""), max_wait_seconds=2)
    assert failure.kind == "HTTP 429"
    assert "max_wait_seconds" in failure.detail


LARGE = "9" * 20  # which no C integer holds


@pytest.mark.parametrize(
    "value",
    [
        *("soon", "-5", "Fri, 31 Dec 1999 23:59:59 GMT", "1e9", "٣", ""),
        f"Fri, 31 Dec {LARGE} 23:59:59 GMT",
        f"Fri, 31 Dec 1999 23:59:59 +{LARGE}",
    ],
)
def test_a_retry_after_that_says_nothing_changes_nothing(value):
    headers = {"Retry-After": value} if value.isascii() else {}
    site = Site({"/": in_turn((503, headers, b""), text("x"))})
    with serving(site):
        (answer,) = get(site.url("/"))
    assert answer.body == b"x"


def test_a_host_that_fails_again_and_again_is_given_up():
    site = Site({f"/{i}": (500, {}, b"") for i in range(10)})
    with serving(site):
        failures = get(*(site.url(f"/{i}") for i in range(10)), max_failures=3, retries=0)
    assert [failure.kind for failure in failures] == ["HTTP 500"] * 3 + ["host given up"] * 7
    assert len(site.paths()) == 3


# --- Manners


def test_robots_txt_is_read_once_and_obeyed():
    ours = "Disallow: /private\nDisallow: /*.pdf$\nAllow: /private/open"
    rules = f"User-agent: *\nDisallow: /\n\nUser-agent: Procedural-Curriculum\n{ours}"
    paths = ["/page", "/private/x", "/private/open", "/book.pdf", "/book.pdf.html"]
    site = Site({"/robots.txt": text(rules)} | {path: text("x") for path in paths})
    with serving(site):
        found = get(*map(site.url, paths))
    assert [isinstance(answer, Answer) for answer in found] == [True, False, True, False, True]
    assert found[1].kind == "robots.txt"
    assert [seen.path for seen in site.seen] == ["/robots.txt", "/page", "/private/open", "/book.pdf.html"]


@pytest.mark.parametrize(
    ("robots", "is_allowed"),
    [
        ((404, {}, b""), True),
        ((403, {}, b""), True),
        ((500, {}, b""), False),
        ((503, {}, b""), False),
        ((429, {}, b""), False),
        (silent, False),
        (endless, False),
        (redirect("/robots.txt"), False),
        (redirect("/other"), False),
        (text("\ufeffUser-agent: *\nDisallow: /"), False),
        ((200, {"Content-Type": "text/plain"}, bytes(range(256)) * 10), True),
        ((200, {"Content-Type": "image/png"}, b"User-agent: *\nDisallow: /"), False),
    ],
)
def test_robots_txt_that_is_missing_allows_and_one_that_cannot_be_read_forbids(robots, is_allowed):
    site = Site({"/robots.txt": robots, "/other": text("User-agent: *\nDisallow: /"), "/page": text("x")})
    with serving(site):
        (found,) = get(site.url("/page"), max_seconds=0.5 if robots is silent else 30, retries=1)
    assert isinstance(found, Answer) == is_allowed
    assert site.paths().count("/page") == is_allowed


def test_robots_txt_of_the_host_that_a_redirect_leads_to_is_obeyed():
    other = Site({"/robots.txt": text("User-agent: *\nDisallow: /"), "/": text("x")}, "127.0.0.2")
    site = Site({"/": redirect(other.url("/"))})
    with serving(site, other):
        (failure,) = get(site.url("/"))
    assert failure.kind == "robots.txt"
    assert other.paths() == []


@pytest.mark.parametrize(("crawl_delay", "delay"), [("", 0.2), ("Crawl-delay: 0.3", 0.3)])
def test_requests_to_a_host_keep_their_distance(crawl_delay, delay):
    site = Site(
        {"/robots.txt": text(f"User-agent: *\n{crawl_delay}\nDisallow: /x")} | {f"/{i}": text("x") for i in range(3)}
    )
    with serving(site):
        get(*(site.url(f"/{i}") for i in range(3)), delay_seconds=0.2)
    pages = [seen.when for seen in site.seen if seen.path != "/robots.txt"]
    assert len(pages) == 3
    assert all(later - earlier >= delay for earlier, later in pairwise(pages))


def test_a_crawl_delay_without_reason_is_not_waited_for():
    failure = failure_of(text("x"), more={"/robots.txt": text("User-agent: *\nCrawl-delay: 86400")})
    assert failure.kind == "robots.txt"
    assert "86400" in failure.detail
