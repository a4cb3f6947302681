"""What a fork leaves of an engine: no lock that a thread of the parent holds, and one line where nothing can go on.

A forked child has the parent's memory but none of its threads. A lock that one of them held stays locked, and the
threads a library computes with are gone. So OpenVINO compiles no network in a child whose parent compiled one, whether
with the same engine or a new one, and waits for ever when such a network is deleted there; and CUDA does not work in a
child of a process that used it.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import Any

from viscera.core.errors import ConfigError

# Held while a library is imported and while networks are read: a fork waits for that, as it takes less than a second.
# There is one for all engines since the libraries' own locks are the process's, too. Python's `logging` does the same.
loading = threading.RLock()
_engines: weakref.WeakSet[Any] = weakref.WeakSet()


def keep_in_forks(engine: Any) -> None:
    """Have no forked child ever delete `engine` and what it holds, not even as it ends."""
    with loading:
        _engines.add(engine)


def require_process(process: int | None, *, has: str) -> None:
    """Raise ConfigError if `process`, the number of the one that has done what `has` says, is another one.

    It takes no lock, so that it can be asked first in a child.
    """
    if process is not None and process != os.getpid():
        raise ConfigError(
            "running the networks in a forked process",
            expected=f"a fork before its parent {has}",
            got="a fork after that, in which they would wait for ever",
            remedy="Load the Segmenter in each worker, and start workers by multiprocessing's method spawn",
        )


def _in_child() -> None:
    for engine in _engines:
        # A list would be emptied as the interpreter ends; a count too many is not.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
    loading.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=loading.acquire, after_in_parent=loading.release, after_in_child=_in_child)
