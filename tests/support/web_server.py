"""A real HTTP server on a loopback address whose pages are functions: they may answer in any way, or never end."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

Page = Callable[["Handler"], None]  # writes the answer to handler.wfile
Answer = tuple[int, dict[str, str], bytes]


class Seen(NamedTuple):
    """A request that came in."""

    path: str
    headers: dict[str, str]
    when: float  # seconds, of a monotonic clock


class Site:
    """What is at which path: an answer, or a function of the handler. Without a robots.txt it answers 404 there."""

    def __init__(self, pages: dict[str, Answer | Page], address: str = "127.0.0.1", tls: ssl.SSLContext | None = None):
        self.pages, self.seen, self.default = pages, list[Seen](), (404, {}, b"")
        server_class = type("Server", (ThreadingHTTPServer,), {"address_family": family(address)})
        self.server = server_class((address, 0), type("OfSite", (Handler,), {"site": self}))
        self.server.handle_error = lambda *_: None  # clients that leave are no news
        self.port = self.server.server_address[1]
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.base = f"http{'s' if tls else ''}://{f'[{address}]' if ':' in address else address}:{self.port}"

    def url(self, path: str, host: str | None = None) -> str:
        return self.base + path if host is None else f"{self.base.partition(':')[0]}://{host}:{self.port}{path}"

    def paths(self) -> list[str]:
        """Of all requests but those for robots.txt."""
        return [seen.path for seen in self.seen if seen.path != "/robots.txt"]


class Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.site.seen.append(Seen(self.path, dict(self.headers), time.monotonic()))
        page = self.site.pages.get(self.path, self.site.default)
        self.close_connection = True
        if callable(page):
            page(self)
        else:
            self.answer(*page)

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        lines = {"Content-Length": str(len(body)), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.wfile.write(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode("latin-1") + body)

    def log_message(self, *_: object) -> None:
        pass


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextmanager
def serving(*sites: Site) -> Iterator[None]:
    """Answers while the block runs; then every connection is left to itself."""
    threads = [threading.Thread(target=site.server.serve_forever, args=(0.01,), daemon=True) for site in sites]
    for site, thread in zip(sites, threads, strict=True):
        site.server.daemon_threads = True
        site.server.block_on_close = False
        thread.start()
    try:
        yield
    finally:
        for site, thread in zip(sites, threads, strict=True):
            site.server.shutdown()
            site.server.server_close()
            thread.join()


def text(body: str, **headers: str) -> Answer:
    return 200, {"Content-Type": "text/plain; charset=utf-8", **headers}, body.encode()


def redirect(location: str, status: int = 302, **headers: str) -> Answer:
    return status, {"Location": location, **headers}, b""


def endless(handler: Handler) -> None:
    """A body without an end, as fast as it goes."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        handler.wfile.write(b"again and again\n" * 4096)


def dripping(handler: Handler) -> None:
    """A body whose bytes come too slowly to ever end, and fast enough for no timeout of a single read."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n")
    while True:
        handler.wfile.write(b".")
        time.sleep(0.02)


def dripping_head(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        handler.wfile.write(b".")
        time.sleep(0.02)


def endless_head(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-More: " + b"y" * 1000 + b"\r\n")


def silent(handler: Handler) -> None:
    time.sleep(30)


def cut_off(handler: Handler) -> None:
    """Less than was promised."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\nshort")


def in_turn(*answers: Answer | Page) -> Page:
    """A page that answers differently each time; the last answer stays."""
    left = list(answers)

    def page(handler: Handler) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        answer(handler) if callable(answer) else handler.answer(*answer)

    return page
