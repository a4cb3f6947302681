"""How much memory this process holds and may hold: sizes as users write them, and what is left of a limit."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from viscera.core.errors import ConfigError, MemoryBudgetError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmg]i?)?b?\s*", re.IGNORECASE)
_STATUS = Path("/proc/self/status")


def parse_bytes(text: str) -> int:
    """The number of bytes that `text` means: "500MB", "1.2 GB", "800MiB", "2g" or plain bytes; M is 10**6, Mi 2**20.

    Raises:
        ConfigError: If it means none, or 0.

    Example:
        >>> parse_bytes("1.2 GB"), parse_bytes("800MiB"), parse_bytes("4096")
        (1200000000, 838860800, 4096)
    """
    found = _SIZE.fullmatch(text)
    size = int(float(found[1]) * _UNITS[(found[2] or "").lower()]) if found else 0
    if size < 1:
        raise ConfigError(
            "reading a memory limit",
            expected="a size such as 500MB, 1.2GB or 800MiB",
            got=repr(text),
            remedy="Correct it",
        )
    return size


def resident_bytes() -> int | None:
    """The memory this process holds in RAM now; None where the system does not tell (it does on Linux)."""
    return _status_bytes("VmRSS")


def peak_bytes() -> int | None:
    """The most memory this process has held in RAM so far; None where the system does not tell."""
    if (peak := _status_bytes("VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def require_memory(doing: str, needed: int, limit: int, *, held: int = 0) -> None:
    """Raise MemoryBudgetError if `needed` bytes on top of the `held` ones exceed `limit`."""
    if held + needed > limit:
        already = f" in addition to the {in_megabytes(held)} the process holds" if held else ""
        raise MemoryBudgetError(
            doing,
            expected=f"a memory limit of at least {in_megabytes(held + needed)}",
            got=f"{in_megabytes(limit)}, where {in_megabytes(needed)} are needed{already}",
            remedy="Raise --memory-limit, or leave it out",
        )


def in_megabytes(size: int) -> str:
    """`size` bytes in whole MB, rounded up.

    Example:
        >>> in_megabytes(1_000_001)
        '2 MB'
    """
    return f"{-(-size // 10**6)} MB"


def _status_bytes(key: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    row = next((line for line in lines if line.startswith(f"{key}:")), None)
    return None if row is None else int(row.split()[1]) * 1024
