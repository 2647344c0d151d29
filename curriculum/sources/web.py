"""`custom-scrape`: the texts of a list of pages, PDFs and blog posts, fetched with manners and within limits."""

import asyncio
import hashlib
import os
import signal
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from core.config import home, resolve
from core.documents import Document, Documents
from core.errors import UserError
from core.files import lock
from curriculum.scraping.cache import Cache, Entry
from curriculum.scraping.config import WebPage, WebSources
from curriculum.scraping.failure import Failure, printable
from curriculum.scraping.fetcher import Fetcher, Visit
from curriculum.scraping.hosts import name_of
from curriculum.scraping.manifest import MANIFEST, Journal, Record
from curriculum.scraping.sandbox import TEXT_OPTIONS, Extract, Sandbox, fingerprint

PACKAGES = ("trafilatura", "lxml_html_clean", "pypdf")  # of the processes that extract text


class WebPages(Documents):
    """The pages listed in `sources_file` (`configs/web_sources.yaml` explains its keys), in its order.

    `version` and `documents` fetch what is missing, once for an object, and report; killed, the next one goes on. The
    cache and `manifest.jsonl`, a line for each page, lie in `folder`/NAME for a NAME.yaml. A page that fails is a
    document with that problem; the next object tries it again. Raises UserError for a file with mistakes or no pages.
    """

    def __init__(self, sources_file: str, folder: str = "data/web"):
        self.config: WebSources = resolve(lambda _: WebSources, sources_file, {})
        self.folder = home(folder) / Path(sources_file).stem
        if not self.config.urls:
            raise UserError(f"{sources_file}: urls: is empty; list pages as configs/web_sources.yaml shows")
        if missing := [name for name in PACKAGES if find_spec(name) is None]:
            raise UserError(f"{sources_file}: packages are missing; pip install {' '.join(missing)}")
        self.pages = distinct(self.config.urls)
        self.cache = Cache(self.folder / "pages", fingerprint(self.config))

    def identity(self) -> dict[str, Any]:
        """The list, as a hash, and the options that decide on texts."""
        urls = "\n".join(page.url for page in self.pages)
        options = self.config.model_dump(include=TEXT_OPTIONS)
        return {"kind": "custom-scrape", "pages": len(self.pages), "urls": _hash(urls), **options}

    def version(self) -> str:
        """A hash of all that came, which it fetches. How the rest failed changes from time to time, and no text."""
        states = (f"{record.url} {'' if record.failure else record.sha256}" for record in self.records)
        return _hash("\n".join([self.cache.fingerprint, *states]))

    def documents(self, start: int = 0) -> Iterator[Document]:
        for record in self.records[start:]:
            text = None if record.failure else self.cache.text(record.url, record.sha256)
            problem = record.failure or ("gone from the cache since" if text is None else "")
            yield Document(text.text if text else "", record.url, problem)

    @cached_property
    def records(self) -> list[Record]:
        """A line of the manifest for each page; those without a failure have their text in the cache."""
        if doubles := len(self.config.urls) - len(self.pages):
            print(f"{doubles} URLs of the list stand there already; they are fetched once")
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock(self.folder):
            records = fetch(self.config, self.pages, self.cache, self.folder)
        report(records, self.folder / MANIFEST)
        return records


def distinct(pages: Sequence[WebPage]) -> list[WebPage]:
    """Each page once, where it stands first."""
    first: dict[str, WebPage] = {}
    for page in pages:
        first.setdefault(page.url, page)
    return list(first.values())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def fetch(config: WebSources, pages: Sequence[WebPage], cache: Cache, folder: Path) -> list[Record]:
    """Does what an earlier call with this configuration did not come to, and writes the manifest; returns its lines.

    Raises OSError if the folder cannot be written.
    """
    journal = Journal(folder, identity=_hash(config.model_dump_json(exclude={"urls"})))
    try:
        _run(Scrape(config, cache, journal).run(pages))
    except* OSError as group:  # of one page or of all, such as a full disk
        raise group.exceptions[0] from None
    finally:
        journal.close()
    return journal.finish(pages)


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with _ctrl_c_cancels():
            return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:  # in a notebook a loop runs already, and a thread can have one only
        return pool.submit(asyncio.run, work).result()


@contextmanager
def _ctrl_c_cancels() -> Iterator[None]:
    """Lets asyncio answer Ctrl-C, which it does if Python would: an exception out of nowhere can be swallowed there."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Scrape:
    """Pages of different hosts are fetched side by side, those of a host one after the other."""

    def __init__(self, config: WebSources, cache: Cache, journal: Journal):
        self.config, self.cache, self.journal = config, cache, journal
        self.fetcher = Fetcher(config)
        self.sandboxes: asyncio.Queue[Sandbox] = asyncio.Queue()

    async def run(self, pages: Sequence[WebPage]) -> None:
        by_host: dict[str, list[WebPage]] = defaultdict(list)
        for page in pages:
            if not self._is_done(page):
                by_host[name_of(httpx.URL(page.url))].append(page)
        left = sum(map(len, by_host.values()))
        # Names are looked up in threads; with as many as connections, none waits for another's.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self.config.connections))
        sandboxes = [Sandbox(self.config) for _ in range(min(4, os.cpu_count() or 1))]
        for sandbox in sandboxes:
            self.sandboxes.put_nowait(sandbox)
        try:
            often = 0.2 if sys.stderr.isatty() else 15  # seconds
            with tqdm(total=len(pages), initial=len(pages) - left, unit="page", mininterval=often) as bar:
                async with asyncio.TaskGroup() as group:
                    for of_host in by_host.values():
                        group.create_task(self._fetch_in_turn(of_host, bar))
        finally:
            await self.fetcher.close()
            for sandbox in sandboxes:
                await sandbox.close()

    def _is_done(self, page: WebPage) -> bool:
        """Whether this scrape has dealt with a page before it was interrupted."""
        record = self.journal.done.get(page.url)
        return record is not None and bool(record.failure or self.cache.text(page.url, record.sha256))

    async def _fetch_in_turn(self, pages: Sequence[WebPage], bar: tqdm) -> None:
        for page in pages:
            self.journal.write(await self._record(page))
            bar.update()

    async def _record(self, page: WebPage) -> Record:
        visit = Visit(page.url, self.config.max_seconds, self.config.max_bytes)
        record = Record(page.url, page.licence, when=now())
        try:
            entry, record.from_cache, note = await self._entry(visit)
            record = replace(record, final_url=entry.final_url, status=entry.status, when=entry.checked)
            record = replace(record, content_type=entry.content_type, sha256=entry.sha256, bytes=entry.bytes)
            extract = await self._text(entry)
            notes = [text for text in (note, extract.note) if text]
            return replace(record, characters=len(extract.text), note="; ".join(notes))
        except Failure as failure:
            if record.sha256 is None:  # it is the last answer's, for want of a body
                record = replace(record, final_url=str(visit.url), status=visit.status, content_type=visit.content_type)
            return replace(record, failure=failure.kind, detail=failure.detail)

    async def _entry(self, visit: Visit) -> tuple[Entry, bool, str]:
        """The page as the cache or the server has it, whether it is the cache's, and a note. Raises Failure."""
        url = str(visit.first)
        entry = self.cache.entry(url)
        if entry is not None and self._is_fresh(entry):
            return entry, True, ""
        visit.headers = entry.validators if entry is not None else {}
        try:
            answer = await self.fetcher.page(visit)
        except Failure as failure:
            if entry is None or not (failure.is_passing or failure.kind == "too slow"):
                raise
            return entry, True, f"could not be asked for again: {failure}"
        if answer.status == 304 and entry is not None:
            entry = replace(entry, checked=now())
            self.cache.put(entry)
            return entry, True, ""
        entry = Entry(
            url=url,
            final_url=str(visit.url),
            status=answer.status,
            content_type=visit.content_type,
            etag=answer.headers.get("etag", ""),
            last_modified=answer.headers.get("last-modified", ""),
            checked=now(),
            sha256=hashlib.sha256(answer.body).hexdigest(),
            bytes=len(answer.body),
        )
        self.cache.put(entry, answer.body)
        return entry, False, ""

    def _is_fresh(self, entry: Entry) -> bool:
        days = self.config.max_age_days
        return days is None or datetime.now(UTC) - datetime.fromisoformat(entry.checked) < timedelta(days=days)

    async def _text(self, entry: Entry) -> Extract:
        if extract := self.cache.text(entry.url, entry.sha256):
            return extract
        sandbox = await self.sandboxes.get()
        try:
            extract = await sandbox.extract(self.cache.body_path(entry.url), entry.content_type)
        finally:
            self.sandboxes.put_nowait(sandbox)
        self.cache.put_text(entry, extract)
        return extract


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def report(records: Sequence[Record], manifest: Path) -> None:
    """Says what came, what did not and why, and where it is written down."""
    came = [record for record in records if not record.failure]
    cached = sum(record.from_cache for record in came)
    characters = sum(record.characters or 0 for record in came)
    print(f"fetched   {len(came):,} of {len(records):,} pages ({cached:,} from the cache), {characters:,} characters")
    for failure, times in Counter(record.failure for record in records if record.failure).most_common():
        example = next(record for record in records if record.failure == failure)
        print(f"left out  {times:,}: {printable(failure)}, such as {printable(example.url, 100)}")
    print(f"manifest  {manifest}")
