"""How many processor cores this process may use, which in a container or a cluster's job is less than there are."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def allowed_cores() -> int:
    """The cores this process may run on, at least 1: by its affinity, and by the quota of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min(_quotas(), default=math.inf)
    return max(1, min(cores, math.ceil(quota)) if math.isfinite(quota) else cores)


def _quotas() -> Iterator[float]:
    """The cores that each control group above this process may use, where it has a limit (Linux, versions 1 and 2)."""
    for folder in _folders():
        limit = _numbers(folder / "cpu.max")
        if len(limit) == 2 and limit[1] > 0:
            yield limit[0] / limit[1]
        old = [*_numbers(folder / "cpu.cfs_quota_us"), *_numbers(folder / "cpu.cfs_period_us")]
        if len(old) == 2 and old[0] > 0 and old[1] > 0:
            yield old[0] / old[1]


def _folders() -> Iterator[Path]:
    try:
        lines = _OWN_CGROUPS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUPS / controllers if controllers else _CGROUPS
        own = root / group.lstrip("/")
        # In a container the path may be that of the host, whose root is the container's own group.
        yield from [own, *(one for one in own.parents if one.is_relative_to(root))]


def _numbers(path: Path) -> list[float]:
    try:
        words = path.read_text(encoding="ascii").split()
        return [math.inf if word == "max" else float(word) for word in words]
    except (OSError, ValueError):
        return []
