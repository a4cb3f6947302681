"""Ctrl-C (SIGINT) and the system's request to end (SIGTERM): raised, held back for a while, or left to another process.

Outside the main thread, where Python handles no signals, nothing of this has an effect.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Handler = Callable[[int, FrameType | None], Any]


class Terminated(KeyboardInterrupt):
    """The system asked the process to end; a KeyboardInterrupt, so that everything open is cleaned up alike."""


@contextmanager
def clean_end() -> Iterator[None]:
    """While active, SIGTERM raises `Terminated`, as Ctrl-C raises KeyboardInterrupt."""

    def raise_terminated(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with _handling({signal.SIGTERM: raise_terminated}):
        yield


class HeldSignals:
    """The number of the first signal that came, 0 while none has."""

    def __init__(self, *, insist: bool) -> None:
        self.number = 0
        self._insist = insist

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; raise KeyboardInterrupt on the second one, if the user may insist."""
        if self.number and self._insist:
            raise KeyboardInterrupt
        self.number = self.number or number


@contextmanager
def held_signals(*, insist: bool = True) -> Iterator[HeldSignals]:
    """While active, the first SIGINT or SIGTERM is only noted; on leaving it is raised again for its usual handler.

    Args:
        insist: Whether a second one interrupts at once.
    """
    held = HeldSignals(insist=insist)
    with _handling(dict.fromkeys(SIGNALS, held.note)):
        yield held
    if held.number:
        signal.raise_signal(held.number)


@contextmanager
def hidden_from_children() -> Iterator[None]:
    """While active, signals are held back, and processes begun meanwhile never see SIGINT or SIGTERM.

    A terminal sends Ctrl-C to all processes of a command, and a cluster's queue SIGTERM: worker processes are to be
    ended by this one, which lets them finish, and are not to speak of it themselves.
    """
    with held_signals(insist=False):
        if not hasattr(signal, "pthread_sigmask"):
            yield
            return
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # its start would let them through again
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C in a worker process: the process that began it decides what is still finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _handling(handlers: dict[signal.Signals, _Handler]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # None stands for a handler that Python did not install and cannot install again.
    before = {number: known for number in handlers if (known := signal.getsignal(number)) is not None}
    for number in before:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
