"""A dated Markdown table of results, and the machine they were made on."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Nothing; prints the table, the first column to the left and the others to the right, under date and hardware."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    print(f"\n{today}, {hardware()}\n")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    marks = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for row in (head, marks, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def hardware() -> str:
    """The processor and how many of its cores there are, the system, the version of Python."""
    information = Path("/proc/cpuinfo")
    name = platform.processor() or platform.machine()
    if information.exists():
        models = [
            line.partition(":")[2] for line in information.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0].strip() if models else name
    return f"{os.cpu_count()} cores of {name}, {platform.system()}, Python {platform.python_version()}"
