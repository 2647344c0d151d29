"""Batches made ahead of the step that needs them."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

AHEAD = 2  # updates made ahead by each worker

T = TypeVar("T")  # what an update needs: its micro-batches, on the CPU


class Prefetcher(Generic[T]):
    """Serves what update 0, 1, 2, ... of a run needs, made by `workers` threads, or by the caller if 0.

    What is served is `make(t)`, so the result does not depend on the number of workers. NumPy releases Python's global
    lock while it fills arrays, so threads are enough.
    """

    def __init__(self, make: Callable[[int], T], *, start: int, stop: int, workers: int):
        self._make, self._stop = make, stop
        self._next = start  # the first update that is not yet asked for
        self._pending: deque[Future[T]] = deque()
        self._depth = AHEAD * workers
        self.waited = 0.0  # seconds that `take` has kept its caller waiting
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch") if workers else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, t: int) -> T:
        """What is needed for update t: the one after the last taken, unless `restart` was called."""
        started = time.perf_counter()
        try:
            return self._take(t)
        finally:
            self.waited += time.perf_counter() - started

    def _take(self, t: int) -> T:
        if self._pool is None:
            return self._make(t)
        while len(self._pending) < self._depth and self._next < self._stop:
            self._pending.append(self._pool.submit(self._make, self._next))
            self._next += 1
        return self._pending.popleft().result()

    def restart(self, t: int) -> None:
        """Throws away what was made ahead, because the source has changed; update t comes next."""
        for future in self._pending:
            future.cancel()
        self._pending.clear()
        self._next = t
