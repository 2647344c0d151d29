"""A set of digests that takes little more memory than they do."""

from collections.abc import Sequence

import numpy as np


class Digests:
    """Digests of 16 bytes: most of them sorted in arrays, the newest in a set, which would take five times as much."""

    SIZE = 16
    NEW = 2**16  # that are kept in the set before they are sorted in

    def __init__(self, arrays: Sequence[np.ndarray] = ()):
        """Begins with those in arrays of dtype S16, which compares as bytes do."""
        self._sorted = [np.sort(np.concatenate(arrays))] if arrays else []
        self._new: set[bytes] = set()

    def add(self, digest: bytes) -> bool:
        """Whether it was not there yet."""
        if digest in self._new or any(self._holds(array, digest) for array in self._sorted):
            return False
        self._new.add(digest)
        if len(self._new) >= self.NEW:
            self._sort_in()
        return True

    @staticmethod
    def _holds(array: np.ndarray, digest: bytes) -> bool:
        place = int(np.searchsorted(array, np.bytes_(digest)))
        return place < len(array) and array[place] == digest.rstrip(b"\0")

    def _sort_in(self) -> None:
        """Arrays of a size are merged, so that there are few of them."""
        array = np.sort(np.array(list(self._new), dtype=f"S{self.SIZE}"))
        self._new = set()
        while self._sorted and len(self._sorted[-1]) <= len(array):
            array = np.sort(np.concatenate([self._sorted.pop(), array]), kind="stable")
        self._sorted.append(array)
