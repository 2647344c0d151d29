"""The keys of `configs/web_sources.yaml`: which pages, how politely, how much at most, and how they are cleaned."""

import re
from typing import Any

import httpx
from pydantic import Field, field_validator, model_validator

from core.config import Config

PRODUCT = "procedural-curriculum"  # the name that a robots.txt can address


def parse_url(text: str) -> httpx.URL:
    """The URL without its fragment. Raises ValueError for what is no address of a public page."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise ValueError(f"{text!r} is no URL: {error}") from None
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{text!r} is not allowed; a URL begins with http:// or https://")
    if not re.fullmatch(rb"[0-9a-z._:\-]+", url.raw_host) or (url.port or 1) not in range(1, 65536):
        raise ValueError(f"{text!r} names no host")
    if url.userinfo:
        raise ValueError(f"a URL at {url.host} holds a user's name or password, which is not allowed")
    return url.copy_with(fragment=None)


class WebPage(Config):
    """A page of the list. A bare URL in the file is a page without a licence note."""

    url: str = Field(description="address of a page, a PDF or a text")
    licence: str = Field("", description="what allows its use; copied to the manifest")

    @model_validator(mode="before")
    @classmethod
    def _of_bare_url(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _is_public(cls, url: str) -> str:
        return str(parse_url(url))


class WebSources(Config):
    """What `custom-scrape` fetches."""

    urls: list[WebPage] = Field(
        [], description="pages, in the order in which their texts are used: a URL each, or {url: ..., licence: ...}"
    )
    contact: str | None = Field(
        None, description="e-mail address or page of yours, sent with each request; nothing is fetched without it"
    )

    delay_seconds: float = Field(1.0, ge=0, description="least time between two requests to a host")
    connections: int = Field(8, ge=1, le=64, description="requests under way at a time, to different hosts")
    retries: int = Field(2, ge=0, le=10, description="further attempts after 429, 5xx and broken connections")
    max_wait_seconds: float = Field(
        120, ge=0, description="longest Retry-After or Crawl-delay that is obeyed; what asks for more is left out"
    )
    max_failures: int = Field(
        10, ge=1, description="pages of a host that may fail in a row for its sake before the rest of it is left out"
    )

    max_bytes: int = Field(20_000_000, ge=1, description="largest body, also when decompressed")
    max_seconds: float = Field(
        60, gt=0, description="time on the network for a URL, all attempts and redirects together"
    )
    connect_seconds: float = Field(10, gt=0, description="time until a connection stands")
    max_redirects: int = Field(5, ge=0, le=20, description="redirects that are followed from a URL")
    allow_private_addresses: bool = Field(
        False, description="whether hosts may lie in private networks, such as a server of one's own"
    )
    max_age_days: float | None = Field(
        None, ge=0, description="age from which the server is asked whether a cached page has changed; null for never"
    )

    tables: bool = Field(True, description="whether tables of HTML pages belong to the text")
    extract_seconds: float = Field(60, gt=0, description="time for turning a body into text")
    extract_megabytes: int = Field(
        1024, ge=64, description="memory for turning a body into text, on Linux; elsewhere it has no limit"
    )
    page_headers: bool = Field(True, description="whether headers and footers repeated across PDF pages are removed")
    dehyphenate: bool = Field(True, description="whether words divided at line ends are joined")
    min_characters: int = Field(1, ge=1, description="shorter texts are left out")
    min_letters: float = Field(0, ge=0, le=1, description="least share of letters among what is not white space")
    max_repeated_lines: float = Field(1, ge=0, le=1, description="largest share of lines that stood before in the text")

    @model_validator(mode="after")
    def _has_contact(self) -> "WebSources":
        if self.urls and not self.contact:
            raise ValueError("contact: is missing; it takes an e-mail address or a page where you can be reached")
        if self.contact and not re.fullmatch(r"[!-'*-~]{3,200}", self.contact):
            raise ValueError(f"contact: {self.contact!r} is not allowed; it takes ASCII without spaces or brackets")
        return self

    @property
    def user_agent(self) -> str:
        return f"{PRODUCT} (+{self.contact})"
