"""Manners towards one host: what its robots.txt allows, one request at a time, and not too soon after the last."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
from protego import Protego

from curriculum.scraping.config import PRODUCT, WebSources
from curriculum.scraping.failure import Failure

ROBOTS_BYTES = 512 * 1024  # RFC 9309 asks for at least 500 KiB
OUT_OF_REACH = {"no such host", "address not public", "connection failed"}  # for its pages as for its robots.txt

GIVEN_UP = "host given up"

Read = Callable[[httpx.URL], Awaitable[bytes]]  # the body at a URL; raises Failure


def name_of(url: httpx.URL) -> str:
    """What has one host's turns."""
    return url.raw_host.decode("ascii").rstrip(".")


def origin(url: httpx.URL) -> str:
    """What has one robots.txt."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


class Host:
    """The server of one name. Its ports and schemes share the turns; the rules may differ."""

    def __init__(self, config: WebSources):
        self.config = config
        self.delay = config.delay_seconds
        self.failures = 0  # for the host's sake, one after the other
        self._next = 0.0  # earliest time of the next request
        self._turn = asyncio.Lock()
        self._rules: dict[str, Rules] = {}

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until it is polite to ask."""
        clock = asyncio.get_running_loop().time
        async with self._turn:
            while (left := self._next - clock()) > 0:  # a pause may come while one waits
                await asyncio.sleep(left)
            try:
                yield
            finally:
                self._next = max(self._next, clock() + self.delay)

    def pause(self, seconds: float) -> None:
        """Asks nothing for so long."""
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)

    def check_reachable(self) -> None:
        """Raises Failure for a host that has failed too often to go on asking."""
        if self.failures >= self.config.max_failures:
            raise Failure(GIVEN_UP, f"{self.failures} of its pages had failed in a row")

    async def check_robots(self, url: httpx.URL, read: Read) -> None:
        """Raises Failure if robots.txt, read once in a scrape, forbids the URL."""
        rules = self._rules.setdefault(origin(url), Rules())
        await rules.obtain(url, read)
        if rules.delay > self.config.max_wait_seconds:
            raise Failure("robots.txt", f"asks for {rules.delay:g} s between requests, more than max_wait_seconds")
        self.delay = max(self.delay, rules.delay)
        if rules.problem is not None:
            raise rules.problem
        if not rules.parsed.can_fetch(str(url), PRODUCT):
            raise Failure("robots.txt", "forbids it")


class Rules:
    """A robots.txt. A status of 4xx allows everything; what cannot be read (5xx, too slow) allows nothing: RFC 9309."""

    def __init__(self) -> None:
        self.parsed = Protego.parse("")
        self.delay = 0.0
        self.problem: Failure | None = None
        self._is_read = False
        self._lock = asyncio.Lock()

    async def obtain(self, url: httpx.URL, read: Read) -> None:
        async with self._lock:
            if self._is_read:
                return
            try:
                text = (await read(url.copy_with(raw_path=b"/robots.txt"))).decode("utf-8-sig", "replace")
                self.parsed = Protego.parse(text)
                self.delay = self.parsed.crawl_delay(PRODUCT) or 0.0
            except Failure as failure:
                if not failure.kind.startswith("HTTP 4") or failure.is_passing:
                    kind = failure.kind if failure.kind in OUT_OF_REACH else "robots.txt"
                    self.problem = Failure(kind, f"robots.txt cannot be read: {failure}")
            self._is_read = True
