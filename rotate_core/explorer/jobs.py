"""One piece of work at a time, in a thread, that can be followed and stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

HEARTBEAT = 5.0
"""Seconds between signs of life while a job has no progress to tell."""

Send = Callable[[dict[str, Any]], None]
_log = logging.getLogger(__name__)


class Cancelled(Exception):
    """The job was stopped: nobody waits for its result."""


class Job:
    """Handed to a piece of work, to tell how far it is, which also stops it."""

    def __init__(self, id_: str, send: Send) -> None:
        self.id = id_
        self.fraction = 0.0
        self._send = send
        self._cancelled = threading.Event()
        self._finished = threading.Event()

    def cancel(self) -> None:
        """Stop the work at its next call of :meth:`progress`, and send nothing any more."""
        self._cancelled.set()

    def progress(self, fraction: float) -> None:
        """Tell how much is done, from 0 to 1.

        Raises:
            Cancelled: the job is to stop.
        """
        if self._cancelled.is_set():
            raise Cancelled
        self.fraction = fraction
        self.tell({"type": "progress", "fraction": fraction})

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message of this job, unless it was stopped."""
        if not self._cancelled.is_set():
            self._send({**message, "id": self.id})

    def run(self, work: Callable[[Job], dict[str, Any]]) -> None:
        """Do the work and send its result, or one sentence on why there is none."""
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            self.tell({"type": "result", **work(self)})
        except Cancelled:
            pass
        except (ValueError, TypeError, IndexError, OSError) as error:
            self.tell({"type": "error", "text": str(error)})
        except Exception as error:
            _log.exception("the explorer's work failed")
            self.tell({"type": "error", "text": f"Python failed: {type(error).__name__}: {error}"})
        finally:
            self._finished.set()

    def wait(self) -> None:
        """Until the work has stopped."""
        self._finished.wait()

    def _beat(self) -> None:
        while not self._finished.wait(HEARTBEAT):
            self.tell({"type": "progress", "fraction": self.fraction})


class Jobs:
    """Runs the latest job; a newer one stops it first."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._current: Job | None = None

    def start(self, id_: str, work: Callable[[Job], dict[str, Any]]) -> Job:
        """Stop what runs, then do the work in a thread."""
        previous, job = self._current, Job(id_, self._send)
        if previous is not None:
            previous.cancel()
        self._current = job

        def run() -> None:
            if previous is not None:
                previous.wait()
            job.run(work)

        threading.Thread(target=run, daemon=True).start()
        return job

    def cancel(self, id_: str) -> None:
        """Stop the job of that id, if it is the one that runs."""
        if self._current is not None and self._current.id == id_:
            self._current.cancel()
