"""Work in few, large pieces, a piece per thread: no thread ever waits for another's operation.

PyTorch divides every single operation among its threads. An iteration is thousands of operations of
some 50 microseconds, and each ends when its slowest thread does: beside one busy process a thread
waits milliseconds for a core, every time. Here a piece is a part of the vocabulary, worked through
by one thread; the next free thread takes the next piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")
_POOL: ContextVar[ThreadPoolExecutor | None] = ContextVar("pool", default=None)


@contextmanager
def team(device: torch.device) -> Iterator[None]:
    """Let :func:`each` work on as many threads as PyTorch has, and its own operations on one each.

    PyTorch's number of threads is as before afterwards. On a GPU nothing changes.
    """
    n_threads = torch.get_num_threads()
    if device.type != "cpu" or n_threads == 1:
        yield
        return
    torch.set_num_threads(1)  # of this thread, and of the threads that begin from here on
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            token = _POOL.set(pool)
            try:
                yield
            finally:
                _POOL.reset(token)
    finally:
        torch.set_num_threads(n_threads)


def each(work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]:
    """``[work(piece) for piece in pieces]``, side by side within :func:`team`."""
    pool = _POOL.get()
    return list(map(work, pieces) if pool is None else pool.map(work, pieces))
