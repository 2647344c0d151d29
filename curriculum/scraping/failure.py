"""Why a page is left out."""

import unicodedata


class Failure(Exception):
    """`kind` is one of a few words of ours, for counting; `detail` may quote a server and is made harmless.

    `is_passing` says that another attempt may succeed, after `wait` seconds if the server named a time.
    """

    def __init__(self, kind: str, detail: str = "", *, is_passing: bool = False, wait: float | None = None):
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind, self.detail = kind, printable(detail)
        self.is_passing, self.wait = is_passing, wait


def printable(text: str, length: int = 300) -> str:
    """One line that moves no cursor and colours nothing, whatever a server put into it."""
    line = "".join(c if unicodedata.category(c)[0] not in "CZ" else " " for c in text[:length])
    return " ".join(line.split()) + ("..." if len(text) > length else "")
