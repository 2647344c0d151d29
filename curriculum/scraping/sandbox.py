"""Bodies to texts in processes that may crash, hang or run out of memory without harm to the scrape.

A server process imports the parsers once and forks for each body: `python -m curriculum.scraping.sandbox`. It reads
a JSON object a line, {path, content_type, options of WebSources}, and answers with one, {text, note} or {kind, detail}.
"""

import asyncio
import hashlib
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from curriculum.scraping import content, pdf
from curriculum.scraping.failure import Failure
from curriculum.sources import clean

if TYPE_CHECKING:  # what else it imports is of no use in the server process
    from curriculum.scraping.config import WebSources

ROOT = Path(__file__).parents[2]
FILTERS = {"min_characters", "min_letters", "max_repeated_lines"}
TEXT_OPTIONS = FILTERS | {"tables", "page_headers", "dehyphenate"}  # that decide on a text
OPTIONS = TEXT_OPTIONS | {"extract_seconds", "extract_megabytes"}
LONGEST_TEXT = 100_000_000  # characters
IN_USE = Path("/proc/self/statm")  # pages of memory, first of several numbers; Linux has it


class Extract(NamedTuple):
    text: str
    note: str  # what is missing from it


def fingerprint(config: "WebSources") -> str:
    """Changes with everything that a text depends on, beside its body."""
    sources = [Path(module.__file__ or "").read_bytes() for module in (content, pdf, clean)]
    parts = [version("trafilatura"), version("pypdf"), config.model_dump_json(include=TEXT_OPTIONS)]
    return hashlib.sha256(b"".join([*sources, *(part.encode() for part in parts)])).hexdigest()


class Sandbox:
    """A server process; it is started when it is first needed."""

    def __init__(self, config: "WebSources"):
        self.options = config.model_dump(include=OPTIONS)
        self._process: asyncio.subprocess.Process | None = None

    async def extract(self, path: Path, content_type: str) -> Extract:
        """The text of the body in a file. Raises Failure."""
        process = self._process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        order = {"path": str(path.absolute()), "content_type": content_type, **self.options}
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            answer = json.loads(await process.stdout.readuntil(b"\n"))
        except (OSError, asyncio.IncompleteReadError):  # somebody has killed it
            await self.close()
            raise Failure("text extraction", "its process died") from None
        if "kind" in answer:
            raise Failure(answer["kind"], answer["detail"])
        return Extract(answer["text"], answer["note"])

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "curriculum.scraping.sandbox"),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # parsers quote what servers sent
            limit=16 * LONGEST_TEXT,  # bytes of a line: JSON spells a character in 12 at most
            start_new_session=True,  # Ctrl-C is for the scrape, which closes this
        )

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


# --- In the server process


def serve() -> None:
    """Answers lines until there are none. What is forked ends by itself, even if nobody is left to stop it."""
    import trafilatura  # noqa: F401  # here, for all the forks

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing else is written there
    for line in sys.stdin:
        answers.write(_in_a_fork(json.loads(line)) + b"\n")
        answers.flush()


def _in_a_fork(order: dict[str, Any]) -> bytes:
    """The answer as JSON, or in place of a fork that died, why."""
    output, own = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(output)
        _carry_out(order, own)
    os.close(own)
    with os.fdopen(output, "rb") as file:
        answer = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 0 and answer:
        return answer
    words = {-signal.SIGALRM: f"took longer than {order['extract_seconds']:g} s"}
    detail = words.get(status, f"ended with status {status}")
    return json.dumps({"kind": "text extraction", "detail": detail}).encode()


def _carry_out(order: dict[str, Any], output: int) -> None:
    """In the fork: never returns. The alarm ends the process, whatever it is doing."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # whatever it was for whoever started the scrape
        signal.setitimer(signal.ITIMER_REAL, order["extract_seconds"])
        limit_memory(order["extract_megabytes"] << 20)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            answer: dict[str, str] = extract(order)._asdict()
        except Failure as failure:
            answer = {"kind": failure.kind, "detail": failure.detail}
        except MemoryError:
            answer = {"kind": "text extraction", "detail": f"needs more than {order['extract_megabytes']} MB"}
        with os.fdopen(output, "wb") as file:
            file.write(json.dumps(answer).encode())
        os._exit(0)
    finally:
        os._exit(1)  # without memory nothing more can be said


def limit_memory(further: int) -> None:
    """Lets this process take so many bytes beside those it has. Only Linux can be asked for that: not macOS."""
    if IN_USE.exists():
        in_use = int(IN_USE.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + further,) * 2)


def extract(order: dict[str, Any]) -> Extract:
    """From a body to the text that a model reads. Raises Failure."""
    body, note = Path(order["path"]).read_bytes(), []
    kind = content.kind_of(body, order["content_type"])
    if kind == "pdf":
        pages, unread = pdf.pages(body)
        raw = "\f".join(page.replace("\f", "\n") for page in pages)
        if unread:
            note.append(f"{unread} of {len(pages) + unread} pages cannot be read")
    else:
        raw = content.decode(body, order["content_type"], kind == "html").replace("\f", "\n")
        raw = _main_text(raw, order["tables"]) if kind == "html" else raw
    text, lines = clean.clean(raw, page_headers=order["page_headers"], dehyphenated=order["dehyphenate"])
    if lines:
        note.append(f"{lines} lines of page headers and footers removed")
    if len(text) > LONGEST_TEXT:
        raise Failure("too large", f"more than {LONGEST_TEXT:,} characters of text")
    if problem := clean.unwanted(text, **{name: order[name] for name in FILTERS}):
        name, _, detail = problem.partition(": ")
        raise Failure("no text" if name == "empty" else f"filter {name}", detail)
    return Extract(text, "; ".join(note))


def _main_text(html: str, tables: bool) -> str:
    import trafilatura

    return trafilatura.extract(html, include_comments=False, include_tables=tables, output_format="txt") or ""


if __name__ == "__main__":
    serve()
