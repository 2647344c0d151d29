"""The text of a PDF, page by page."""

from io import BytesIO

from pypdf import PdfReader

from curriculum.scraping.failure import Failure


def pages(body: bytes) -> tuple[list[str], int]:
    """The text of each page, and how many could not be read, which are left out.

    Raises Failure for a PDF that is broken or encrypted, also if its password is empty. For untrusted bodies call it
    in a process of its own only (see `sandbox`): a small file can keep a parser busy for ever.
    """
    try:
        reader = PdfReader(BytesIO(body))
        if reader.is_encrypted:
            raise Failure("PDF", "is encrypted")
        count = len(reader.pages)
    except (Failure, MemoryError):
        raise
    except Exception as error:  # whatever the parser stumbles over, it is the document's fault
        raise Failure("PDF", f"cannot be read: {error}") from error
    texts = [text for text in (_text(reader, number) for number in range(count)) if text is not None]
    if count and not texts:
        raise Failure("PDF", f"none of its {count} pages can be read")
    return texts, count - len(texts)


def _text(reader: PdfReader, number: int) -> str | None:
    try:
        return reader.pages[number].extract_text()
    except MemoryError:
        raise
    except Exception:  # as above; the other pages may be sound
        return None
