"""Who watches a training started on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.cli.console import Console

if TYPE_CHECKING:
    from viscera.training.monitor import Monitor


def run_monitor(run: Path, console: Console, *, tensorboard: bool = False) -> Monitor:
    """The monitors of a training in the folder `run`: its picture, a line on a terminal unless quiet, TensorBoard.

    Raises:
        MissingExtraError: If TensorBoard is asked for and not installed.
    """
    from viscera.training.curves import CurvesMonitor
    from viscera.training.monitor import Tee, TensorBoardMonitor, TerminalMonitor

    monitors: list[Monitor] = [CurvesMonitor(run)]
    if not console.quiet:
        monitors.append(TerminalMonitor(sys.stderr))
    if tensorboard:
        monitors.append(TensorBoardMonitor(run / "tensorboard"))
    return Tee(monitors)
