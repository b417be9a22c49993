"""Work in few, large pieces, a piece per thread: no thread ever waits for another's operation.

PyTorch divides every single operation among its threads. An iteration is thousands of operations of
some 50 microseconds, and each ends when its slowest thread does: beside one busy process a thread
waits milliseconds for a core, every time. Here a piece is a part of the vocabulary, worked through
by one thread; the next free thread takes the next piece.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")
_POOL: ContextVar[ThreadPoolExecutor | None] = ContextVar("pool", default=None)
_COMPILE: ContextVar[bool] = ContextVar("compile", default=False)


@contextmanager
def team(device: torch.device, *, compile: bool = False) -> Iterator[None]:
    """Let :func:`each` work on as many threads as PyTorch has, and its own operations on one each.

    PyTorch's number of threads is as before afterwards. On a GPU, there is one. With ``compile``,
    what is :func:`fused` is compiled.
    """
    if compile:
        importlib.import_module("torch._inductor.compile_fx")  # not by two threads at once
    n_threads = torch.get_num_threads()
    with ExitStack() as stack:
        stack.callback(_COMPILE.reset, _COMPILE.set(compile))
        if device.type == "cpu" and n_threads > 1:
            torch.set_num_threads(1)  # of this thread, and of those that begin from here on
            stack.callback(torch.set_num_threads, n_threads)
            pool = ThreadPoolExecutor(n_threads, initializer=_COMPILE.set, initargs=(compile,))
            stack.enter_context(pool)
            stack.callback(_POOL.reset, _POOL.set(pool))
        yield


def each(work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]:
    """``[work(piece) for piece in pieces]``, side by side within :func:`team`."""
    pool = _POOL.get()
    return list(map(work, pieces) if pool is None else pool.map(work, pieces))


def fused(function: Callable[..., Result]) -> Callable[..., Result]:
    """Within ``team(compile=True)``, the same by one kernel of ``torch.compile``, for any shape."""
    compiled = functools.cache(lambda: torch.compile(function, dynamic=True))

    @functools.wraps(function)
    def either(*arguments: Any) -> Result:
        return (compiled() if _COMPILE.get() else function)(*arguments)

    return either
