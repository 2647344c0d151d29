"""From a URL to a body: redirects, robots.txt, turns, attempts, each within limits."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from curriculum.scraping.config import WebSources, parse_url
from curriculum.scraping.exchange import TYPES, Answer, Connector, check_status
from curriculum.scraping.failure import Failure, printable
from curriculum.scraping.hosts import GIVEN_UP, ROBOTS_BYTES, Host, name_of


class Visit:
    """A URL on its way: what is asked for, where it has led to, what was answered last, and how much time is left.

    Without `types` it is for a robots.txt, which may have any type and is under no rules itself.
    """

    def __init__(
        self,
        url: str | httpx.URL,
        seconds: float,
        max_bytes: int,
        headers: dict[str, str] | None = None,
        types: frozenset[str] | None = TYPES,
    ):
        self.first = self.url = httpx.URL(url)
        self.seconds, self._left = seconds, seconds
        self.max_bytes, self.headers, self.types = max_bytes, headers or {}, types
        self.status: int | None = None
        self.content_type = ""

    @asynccontextmanager
    async def on_the_network(self) -> AsyncIterator[None]:
        """Raises Failure when the time is up. Waiting for one's turn costs nothing of it."""
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            async with asyncio.timeout(self._left) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise Failure("too slow", f"took longer than {self.seconds:g} s") from None
        finally:
            self._left -= clock() - started


class Fetcher:
    """All that a scrape asks servers for."""

    def __init__(self, config: WebSources):
        self.config = config
        self.connector = Connector(config)
        self.connections = asyncio.Semaphore(config.connections)
        self.hosts: dict[str, Host] = defaultdict(lambda: Host(config))

    def host(self, url: httpx.URL) -> Host:
        return self.hosts[name_of(url)]

    async def page(self, visit: Visit) -> Answer:
        """The page at a URL; its status is 304 if the validators among the headers still hold. Raises Failure."""
        try:
            answer = await self._attempts(visit)
        except Failure as failure:
            if failure.kind != GIVEN_UP:
                host = self.host(visit.url)
                host.failures = host.failures + 1 if failure.is_passing or failure.kind == "too slow" else 0
            raise
        self.host(visit.url).failures = 0
        return answer

    async def close(self) -> None:
        await self.connector.close()

    async def robots(self, url: httpx.URL) -> bytes:
        """The body of a robots.txt. Raises Failure."""
        return (await self._attempts(Visit(url, self.config.max_seconds, ROBOTS_BYTES, types=None))).body

    async def _attempts(self, visit: Visit) -> Answer:
        for attempt in range(self.config.retries + 1):
            visit.url = visit.first
            try:
                return await self._follow(visit)
            except Failure as failure:
                if not failure.is_passing:
                    raise
                wait = failure.wait
                if wait is None:
                    wait = self.config.delay_seconds * 2**attempt * random.uniform(0.5, 1.5)
                if wait > self.config.max_wait_seconds:
                    detail = f"asks to wait {wait:.0f} s, more than max_wait_seconds"
                    raise Failure(failure.kind, detail, is_passing=True) from None
                self.host(visit.url).pause(wait)
                if attempt == self.config.retries:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _follow(self, visit: Visit) -> Answer:
        """One attempt: the last answer of a chain of redirects. Every hop is checked as the first was."""
        seen = {visit.url}
        while True:
            answer = await self._ask(visit)
            visit.status, visit.content_type = answer.status, printable(answer.headers.get("content-type", ""))
            if answer.location is None:
                check_status(answer, (200, 304) if visit.headers else (200,))
                return answer
            visit.url = _target(visit.url, answer.location)
            if visit.url in seen:
                raise Failure("redirects", "lead back to where they came from")
            if len(seen) > self.config.max_redirects:
                raise Failure("redirects", f"are more than {self.config.max_redirects}")
            seen.add(visit.url)

    async def _ask(self, visit: Visit) -> Answer:
        host = self.host(visit.url)
        if visit.types is not None:
            host.check_reachable()
            await host.check_robots(visit.url, self.robots)
        async with host.turn(), self.connections, visit.on_the_network():
            return await self.connector.get(visit.url, visit.headers, visit.max_bytes, visit.types)


def _target(url: httpx.URL, location: str) -> httpx.URL:
    """Where a redirect leads. Raises Failure for what may not be followed."""
    try:
        return parse_url(str(url.join(location)))
    except (ValueError, httpx.InvalidURL) as error:
        raise Failure("redirects", f"lead to what cannot be fetched: {error}") from None
