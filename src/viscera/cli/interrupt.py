"""Turns the system's request to end (SIGTERM) into an exception, as Python does with Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The system asked the process to end; a KeyboardInterrupt, so that everything open is cleaned up alike."""


@contextmanager
def clean_end() -> Iterator[None]:
    """While active, SIGTERM raises `Terminated` (in the main thread; elsewhere nothing changes)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated
