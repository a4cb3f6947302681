"""Scans that change while a process reads them: it is stopped amid reading, the scan is changed, and it goes on."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from runs import ATTEMPTS, Runs, SkippedError, WrongError, ended, labels_in, large_scan, stopped_while_reading


def changed_while_read(change: Callable[[Path], None], outcome: str, runs: Runs) -> str:
    """`outcome` is "" if the labels must be those of the scan as it was, else what the error must say."""
    reference = runs.fresh()
    runs.run("segment", reference, inputs=[runs.large]).require(0)
    for _ in range(ATTEMPTS):
        scan = runs.fresh() / "large.nii.gz"
        scan.parent.mkdir()
        shutil.copy(runs.large, scan)
        output = runs.fresh()
        process = runs.start("segment", output, inputs=[scan])
        if not stopped_while_reading(process, scan):
            ended(process)
            continue
        change(scan)
        process.send_signal(signal.SIGCONT)
        done = ended(process)
        if outcome:
            done.require(1, lines=1, about=outcome)
            if labels_in(output):
                raise WrongError("there are labels")
            return "refused in one line"
        done.require(0)
        if labels_in(output) != labels_in(reference):
            raise WrongError("other labels")
        return "labels of the scan as it was"
    raise SkippedError("reading was too quick to be caught")


def cut(scan: Path) -> None:
    os.truncate(scan, int(0.8 * scan.stat().st_size))


def overwritten(scan: Path) -> None:
    with scan.open("r+b") as file:
        file.seek(int(0.75 * scan.stat().st_size))
        file.write(bytes(1000))


def replaced(scan: Path) -> None:
    large_scan(scan.parent / "new" / scan.name, seed=2).replace(scan)


def gone_before_its_turn(runs: Runs) -> str:
    """The second of two scans is removed while the first is read."""
    for _ in range(ATTEMPTS):
        scan, output = runs.fresh(), runs.fresh()
        scan = scan.with_name(f"{scan.name}.nii.gz")
        shutil.copy(next(runs.scans.iterdir()), scan)
        process = runs.start("segment", output, inputs=[runs.large, scan])
        if not stopped_while_reading(process, runs.large):
            ended(process)
            continue
        scan.unlink()
        process.send_signal(signal.SIGCONT)
        ended(process).require(1, lines=1, about=f"reading {scan}: expected a file")
        if set(labels_in(output)) != {runs.large.name}:
            raise WrongError("the first is not done")
        return "one line, the first is done"
    raise SkippedError("reading was too quick to be caught")


def replaced_amid_a_batch(runs: Runs) -> str:
    """Another scan takes the place of one that a batch reads: the next run must see to it that its labels are there."""
    for _ in range(ATTEMPTS):
        folder, output, reference = runs.fresh(), runs.fresh(), runs.fresh()
        folder.mkdir()
        scan = Path(shutil.copy(runs.large, folder))
        process = runs.start("batch", output, inputs=[folder])
        if not stopped_while_reading(process, scan):
            ended(process)
            continue
        replaced(scan)
        shutil.rmtree(folder / "new")
        process.send_signal(signal.SIGCONT)
        ended(process).require(0)
        runs.run("batch", output, inputs=[folder]).require(0)
        runs.run("segment", reference, inputs=[folder]).require(0)
        if labels_in(output) != labels_in(reference):
            raise WrongError("labels of another scan")
        return "the next run has the new one's labels"
    raise SkippedError("reading was too quick to be caught")


SCAN_FAULTS: dict[str, Callable[[Runs], str]] = {
    "segment: scan cut off while it is read": partial(changed_while_read, cut, "cut off"),
    "segment: scan overwritten while it is read": partial(changed_while_read, overwritten, "damaged"),
    "segment: scan removed while it is read": partial(changed_while_read, Path.unlink, ""),
    "segment: scan replaced while it is read": partial(changed_while_read, replaced, ""),
    "batch: scan replaced while it is read": replaced_amid_a_batch,
    "segment: scan removed before its turn": gone_before_its_turn,
}
