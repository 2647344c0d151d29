"""What a body is, whatever its server says: a PDF, HTML or plain text, and in which encoding."""

import codecs
import re

from charset_normalizer import from_bytes

from curriculum.scraping.failure import Failure

HEAD = 1024  # bytes in which a PDF, a page and its encoding say what they are
TAG = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|meta|div|p|h[1-6]|article|section)\b[^>]*>", re.I)
META = re.compile(rb"""<(?:meta[^>]*charset\s*=|\?xml[^>]*encoding\s*=)\s*["']?\s*([\w:.\-]+)""", re.I)
CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([\w:.\-]+)""", re.I)
MARKS = {
    codecs.BOM_UTF8: "utf_8_sig",
    codecs.BOM_UTF32_LE: "utf_32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf_32",
    codecs.BOM_UTF16_LE: "utf_16",
    codecs.BOM_UTF16_BE: "utf_16",
}
WIDE = ("utf_16", "utf_32")
NO_CHARSET = {"unicode_escape", "raw_unicode_escape", "punycode", "idna", "utf_7", "undefined"}  # codecs of Python's
LATIN = {"ascii", "latin_1", "iso8859_1"}  # pages that say so are in windows-1252, which holds them: WHATWG Encoding
MOST_DAMAGE = 0.1  # share of what is not ASCII that may be unreadable in an encoding that is believed


def kind_of(body: bytes, content_type: str) -> str:
    """`pdf`, `html` or `text`. Raises Failure for anything else."""
    declared = content_type.partition(";")[0].strip().lower()
    if b"%PDF-" in body[:HEAD]:
        return "pdf"
    if "pdf" in declared:
        raise Failure("not what it says", "is called a PDF and does not begin like one")
    if "html" in declared or (not declared.startswith("text/") and TAG.search(body[:HEAD])):
        return "html"
    if b"\0" in body and not any(encoding.startswith(WIDE) for encoding in _declared(body, content_type, False)):
        raise Failure("not what it says", "holds bytes that are no text")
    return "text"


def decode(body: bytes, content_type: str, is_html: bool) -> str:
    """The text of a body: by its byte order mark; as UTF-8 if it is that; as the server or the page says; as it seems.

    Never raises: what no encoding can read becomes U+FFFD.
    """
    for encoding in _declared(body, content_type, is_html):
        text = body.decode(encoding, "replace")
        if _damage(text) <= MOST_DAMAGE:
            return text
    best = from_bytes(body[: 1 << 18]).best()
    return body.decode(best.encoding if best else "cp1252", "replace")


def _declared(body: bytes, content_type: str, is_html: bool) -> list[str]:
    """Python's names of the encodings that are to be believed, in this order."""
    for mark, encoding in MARKS.items():
        if body.startswith(mark):
            return [encoding]
    found = CHARSET.findall(content_type)[:1]
    if is_html:
        found += [name.decode("ascii", "replace") for name in META.findall(body[:HEAD])[:1]]
    named = [encoding for encoding in map(_codec, found) if encoding]
    if body.isascii():  # which is in ISO-2022-JP what it is in no other
        return [*named, "utf_8"]
    return ["utf_8", *named]  # as nothing else looks like it


def _codec(name: str) -> str | None:
    """Python's name for a charset, or None for what is none."""
    try:
        python = codecs.lookup(name).name.replace("-", "_")
        b"0".decode(name, "replace")  # not every codec makes text of bytes
    except (LookupError, ValueError):
        return None
    return None if python in NO_CHARSET else "cp1252" if python in LATIN else python


def _damage(text: str) -> float:
    """The share of U+FFFD among what is not ASCII."""
    unusual = len(text) - len(text.encode("ascii", "ignore"))
    return text.count("\ufffd") / unusual if unusual else 0.0
