"""Ctrl-C and SIGTERM during a training: noted, acted on between two steps, then raised again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class HeldSignals:
    """The number of the signal that came, 0 while none has."""

    def __init__(self) -> None:
        self.number = 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal; the second one interrupts at once, as the user insists."""
        if self.number:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def held_signals() -> Iterator[HeldSignals]:
    """Note the first SIGINT or SIGTERM while active; on leaving, raise it again for its earlier handler.

    Outside the main thread, where Python handles no signals, nothing is held back.
    """
    held = HeldSignals()
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    before = {number: signal.signal(number, held.note) for number in _NUMBERS}
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held.number:
        signal.raise_signal(held.number)
