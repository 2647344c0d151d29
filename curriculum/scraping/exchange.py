"""One request and its answer, with a connection of its own to an address that was checked, within limits."""

import ssl
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache

import httpx

from curriculum.scraping.address import resolve
from curriculum.scraping.config import WebSources
from curriculum.scraping.failure import Failure

ACCEPT = "text/html, application/xhtml+xml, application/pdf, text/plain;q=0.9, */*;q=0.1"
PASSING = {408, 425, 429}  # and all from 500 up
TYPES = frozenset(  # that may hold a page; "" for none given. What the body is then, is seen when it is there.
    {"text/html", "application/xhtml+xml", "text/plain", "text/markdown", "text/x-markdown", ""}
    | {"application/pdf", "application/x-pdf", "application/octet-stream", "binary/octet-stream"}
)


@dataclass
class Answer:
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def location(self) -> str | None:
        """Where a redirect leads to."""
        return self.headers.get("location") if self.status in (301, 302, 303, 307, 308) else None


class Connector:
    """Makes requests. No cookie is kept, no proxy of the environment used, no connection used twice."""

    def __init__(self, config: WebSources):
        self.config = config
        # Connections are kept apart by address and port only, so that one kept for a host would serve another.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self.transport = httpx.AsyncHTTPTransport(verify=trusted(), trust_env=False, limits=limits)

    async def get(
        self, url: httpx.URL, headers: dict[str, str], max_bytes: int, types: frozenset[str] | None
    ) -> Answer:
        """The answer to GET, with its body if the status is 200. Raises Failure, also for a type not in `types`."""
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await resolve(url.raw_host.decode("ascii"), port, self.config.allow_private_addresses)
        problem: Exception = Failure("connection failed")
        for address in addresses:
            try:
                return await self._get_from(address, url, headers, max_bytes, types)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                problem = error
            except (httpx.HTTPError, OSError, ValueError) as error:
                problem = error
                break  # it was there, and another address is the same server
        detail = str(problem) or type(problem).__name__
        raise Failure("connection failed", detail, is_passing=True) from problem

    async def _get_from(
        self, address: str, url: httpx.URL, headers: dict[str, str], max_bytes: int, types: frozenset[str] | None
    ) -> Answer:
        own = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": self.config.user_agent,
            "Accept": ACCEPT,
            "Accept-Encoding": "gzip, deflate",
            "Connection": "close",
        }
        only = {"connect": self.config.connect_seconds}  # all else the caller limits, by the time it takes together
        timeout = dict.fromkeys(["read", "write", "pool"]) | only
        # The certificate has to be that of the host, though the connection goes to an address.
        extensions = {"sni_hostname": url.raw_host.decode("ascii"), "timeout": timeout}
        request = httpx.Request("GET", url.copy_with(host=address), headers=own | headers, extensions=extensions)
        response = await self.transport.handle_async_request(request)
        try:
            body = await _read(response, max_bytes, types) if response.status_code == 200 else b""
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers, body)

    async def close(self) -> None:
        await self.transport.aclose()


@cache
def trusted() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


async def _read(response: httpx.Response, max_bytes: int, types: frozenset[str] | None) -> bytes:
    kind = media_type(response.headers)
    if types is not None and kind not in types:
        raise Failure("type not supported", kind)
    too_large = Failure("too large", f"more than {max_bytes:,} bytes")
    length = response.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 20 or int(length) > max_bytes):
        raise too_large
    inflater = Inflater(response.headers.get("content-encoding", ""))
    body, received = bytearray(), 0
    async for chunk in response.aiter_raw():
        received += len(chunk)
        body += inflater.feed(chunk, max_bytes + 1 - len(body))
        if max(received, len(body)) > max_bytes:
            raise too_large
    inflater.finish()
    return bytes(body)


def media_type(headers: httpx.Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's names for the two containers


class Inflater:
    """Undoes one Content-Encoding, never making more bytes than there is room for: 1 kB can stand for 1 MB."""

    def __init__(self, encoding: str):
        name = encoding.strip().lower()
        if name not in {"", "identity", *WINDOWS}:
            raise Failure("encoding not supported", f"Content-Encoding: {encoding}")
        self.window = WINDOWS.get(name, 0)  # 0: there is nothing to undo
        self.stream = zlib.decompressobj(self.window)
        self.is_first = True

    def feed(self, data: bytes, room: int) -> bytes:
        """What `data` stands for, or the first `room` bytes of it."""
        if not self.window:
            return data
        made = bytearray()
        while data and len(made) < room:
            made += self._inflate(data, room - len(made))
            data = self.stream.unused_data
        return bytes(made)

    def _inflate(self, data: bytes, room: int) -> bytes:
        if self.stream.eof:
            if self.window != WINDOWS["gzip"]:
                raise Failure("broken compression", "there is data after its end")
            self.stream = zlib.decompressobj(self.window)  # gzip may have several members: RFC 1952, 2.2
        try:
            made = self.stream.decompress(data, room)
        except zlib.error as error:
            if not (self.is_first and self.window == WINDOWS["deflate"]):
                raise Failure("broken compression", str(error)) from None
            self.window = -15  # some servers send deflate without its container
            self.stream, self.is_first = zlib.decompressobj(self.window), False
            return self._inflate(data, room)
        self.is_first = False
        return made

    def finish(self) -> None:
        if not (self.is_first or self.stream.eof):
            raise Failure("connection failed", "the compressed body ends early", is_passing=True)


def seconds_to_wait(headers: httpx.Headers) -> float | None:
    """What Retry-After asks for, as seconds or as a date; None if it says nothing that can be understood."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text[:20])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def check_status(answer: Answer, allowed: tuple[int, ...]) -> None:
    """Raises Failure for a status that brings no page."""
    if answer.status in allowed:
        return
    is_passing = answer.status in PASSING or answer.status >= 500
    wait = seconds_to_wait(answer.headers) if is_passing else None
    raise Failure(f"HTTP {answer.status}", is_passing=is_passing, wait=wait)
