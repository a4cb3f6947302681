"""Faults around `viscera segment` and `viscera batch`: full disks, wrong clocks, scans that change, altered bundles.

Run `python tools/reliability/faults.py [--bundle B] [--only TEXT]`; it needs Linux, and for some rows root, or
`faketime`. Each fault is made around real processes. A run must end with the right exit code and in clear lines, every
file that it leaves must be whole and right, and once the fault is gone the same command must do the rest. The exit code
is 1 if a row is not as it should be; a row that cannot be made on a machine says why.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from altered_bundles import BUNDLE_FAULTS
from changing_scans import SCAN_FAULTS
from runs import (
    ATTEMPTS,
    PASSING,
    VERBS,
    Runs,
    SkippedError,
    Verb,
    WrongError,
    clock,
    ended,
    fill,
    labels_in,
    remount,
    small_disk,
    started,
    stopped_after_a_label,
    stopped_while_writing,
    unprivileged,
)
from tables import print_table

Fault = Callable[[Runs], str]
# Pages of the small disk that are left free: none, one, a few.
SPARE_KIB = (0, 4, 12)
AHEAD, LONG_AGO = "+5h", "-9000d"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="folder or name of a bundle (default: the one that ships)")
    parser.add_argument("--only", action="append", metavar="TEXT", help="faults with it in their names (repeatable)")
    options = parser.parse_args()
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as work:
        Path(work).chmod(0o755)  # for runs without rights
        runs = Runs(Path(work), options.bundle)
        for name, fault in FAULTS.items():
            if options.only and not any(text in name for text in options.only):
                continue
            begun = time.monotonic()
            try:
                told, verdict = fault(runs), "as it should"
            except SkippedError as reason:
                told, verdict = str(reason), "not made"
            except WrongError as error:
                told, verdict, failed = "see below", "WRONG", True
                print(f"{name}: {error}", file=sys.stderr)
            rows.append([name, told, f"{time.monotonic() - begun:.0f} s", verdict])
    print_table(["fault", "what came of it", "time", ""], rows)
    return int(failed)


def full_disk(verb: Verb, runs: Runs) -> str:
    """Each time a little more room; then the disk is freed."""
    counts = []
    with small_disk(runs.fresh()) as disk:
        for spare in SPARE_KIB:
            output = disk / "out"
            output.mkdir()
            filler = fill(disk, spare)
            runs.run(verb, output).require(1, about="No space left on device")
            counts.append(str(runs.require_whole(output)))
            filler.unlink()
            runs.finish(verb, output)
            shutil.rmtree(output)
    return f"{', '.join(counts)} of {len(runs.expected)} labels whole, rest after it was freed"


def disk_fills(verb: Verb, runs: Runs) -> str:
    """Nothing is left after the first label file."""
    with small_disk(runs.fresh()) as disk:
        process, output, _ = runs.caught(stopped_after_a_label, verb, output=disk / "out")
        filler = fill(disk)
        process.send_signal(signal.SIGCONT)
        ended(process).require(1, about="No space left on device")
        whole = runs.require_whole(output)
        filler.unlink()
        runs.finish(verb, output)
    return f"{whole} of {len(runs.expected)} labels whole, rest after it was freed"


def full_disk_for_the_report(runs: Runs) -> str:
    """The report alone has no room, from the beginning."""
    with small_disk(runs.fresh()) as disk:
        fill(disk)
        output = runs.fresh()
        command = [*runs.command("segment", output), "--report", str(disk / "report.json")]
        ended(started(command)).require(1, lines=1, about="No space left on device")
        if output.exists() or list(disk.glob("*.json")):
            raise WrongError("something was written")
    return "refused in one line before work"


def read_only(verb: Verb, runs: Runs) -> str:
    with small_disk(runs.fresh()) as disk:
        if not remount(disk, "ro"):
            raise SkippedError("cannot be mounted read-only")
        runs.run(verb, disk).require(1, about="Read-only file system")
        remount(disk, "rw")
        if any(disk.iterdir()):
            raise WrongError(f"there is {sorted(disk.iterdir())}")
        runs.finish(verb, disk)
    return "clear lines, all after it was writable"


def read_only_amid(verb: Verb, runs: Runs) -> str:
    """The disk becomes read-only after the first label file, as when the system finds it damaged."""
    with small_disk(runs.fresh()) as disk:
        process, output, _ = runs.caught(stopped_after_a_label, verb, output=disk / "out")
        frozen = remount(disk, "ro")  # refused while a file is being written
        process.send_signal(signal.SIGCONT)
        while not (frozen or remount(disk, "ro")):
            if process.poll() is not None:
                ended(process)
                raise SkippedError("the run was quicker")
        ended(process).require(1, about="Read-only file system")
        remount(disk, "rw")
        whole = runs.require_whole(output)
        runs.finish(verb, output)
    return f"{whole} of {len(runs.expected)} labels whole, rest after it was writable"


def without_rights(verb: Verb, runs: Runs) -> str:
    """A user who may read the scans and may not write the folder."""
    nobody = unprivileged()
    output = runs.fresh()
    output.mkdir(mode=0o755)
    ended(started([*nobody, *runs.command(verb, output), "--no-cache"])).require(1, about="Permission denied")
    if any(output.iterdir()):
        raise WrongError("something was written")
    runs.finish(verb, output)
    return "clear lines, all by one who may"


def clock_ahead_beside_a_writer(verb: Verb, runs: Runs) -> str:
    """A process whose clock is five hours ahead begins while another has a file half written."""
    environment = clock(AHEAD)
    slow, output, passing = runs.caught(stopped_while_writing, verb, inputs=[runs.large])
    ended(started(runs.command(verb, output), environment)).require(0)
    there = passing.exists()
    slow.send_signal(signal.SIGCONT)
    ended(slow).require(0)
    if not there or set(labels_in(output)) != {*runs.expected, runs.large.name}:
        raise WrongError(f"the file was {'kept' if there else 'removed'}, there are {sorted(labels_in(output))}")
    if any(output.rglob(PASSING)):
        raise WrongError("a temporary file is left")
    return "both have written all"


def clocks_apart(runs: Runs) -> str:
    """Two batches at once, five hours apart: no case may be done twice."""
    environment = clock(AHEAD)
    for _ in range(ATTEMPTS):
        output = runs.fresh()
        together = [runs.start("batch", output), started(runs.command("batch", output), environment)]
        both = [ended(process) for process in together]
        # libfaketime now and then refuses a sleep, which no system does.
        if any("OSError: [Errno 22]" in line for one in both for line in one.errors):
            continue
        for one in both:
            one.require(0)
        runs.require_whole(output, all_there=True)
        require_one_attempt(output, runs)
        return "every case done once"
    raise SkippedError("faketime does not work with this Python")


def files_of_another_time(verb: Verb, shift: str, runs: Runs) -> str:
    """What a process with a wrong clock has left is kept by one with the right clock, and dates do not matter."""
    output, environment = runs.fresh(), clock(shift)
    ended(started(runs.command(verb, output), environment)).require(0)
    runs.require_whole(output, all_there=True)
    dated = time.time() + 86400 * (3650 if shift == AHEAD else -3650)
    for path in output.rglob("*"):
        os.utime(path, (dated, dated))
    runs.finish(verb, output)
    if any(path.stat().st_mtime != dated for path in output.glob("*.nii.gz")):
        raise WrongError("labels were written again")
    return "kept as they are"


def together(verb: Verb, runs: Runs) -> str:
    """Three runs of the same command on the same folder."""
    output = runs.fresh()
    for process in [runs.start(verb, output) for _ in range(3)]:
        ended(process).require(0)
    runs.require_whole(output, all_there=True)
    if verb == "batch":
        require_one_attempt(output, runs)
        return "all whole, every case done once"
    return "all whole"


def require_one_attempt(output: Path, runs: Runs) -> None:
    entries = list((output / "ledger").glob("*.json"))
    if len(entries) != len(runs.expected) or any('"attempts": 1,' not in path.read_text() for path in entries):
        raise WrongError("a case was done twice")


def asked_to_end(number: signal.Signals, verb: Verb, runs: Runs) -> str:
    """A signal after the first label file, and one amid writing a file."""
    code, word = (130, "interrupted") if number == signal.SIGINT else (143, "terminated")
    counts = []
    for caught in (stopped_after_a_label, stopped_while_writing):
        process, output, _ = runs.caught(caught, verb)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        ended(process).require(code, lines=1, about=word)
        counts.append(runs.require_whole(output))
        runs.finish(verb, output)
    return f"exit code {code}, {counts[0]} of {len(runs.expected)} whole, then the rest"


def label_is_a_folder(verb: Verb, runs: Runs) -> str:
    """A folder has the name of one case's labels."""
    output, name = runs.fresh(), min(runs.expected)
    (output / name).mkdir(parents=True)
    runs.run(verb, output).require(1, lines=1, about="Is a directory")
    if runs.require_whole(output) != len(runs.expected) - 1:
        raise WrongError("another case is not done")
    (output / name).rmdir()
    runs.finish(verb, output)
    return "one line, the others are done"


def label_is_a_link(verb: Verb, runs: Runs) -> str:
    """A link to a file elsewhere has the name of one case's labels; that file must stay as it is."""
    output, elsewhere = runs.fresh(), runs.fresh()
    output.mkdir()
    elsewhere.write_text("mine")
    (output / min(runs.expected)).symlink_to(elsewhere)
    command = [one for one in runs.command(verb, output) if one != "--skip-existing"]
    ended(started(command)).require(0)
    runs.require_whole(output, all_there=True)
    if elsewhere.read_text() != "mine" or (output / min(runs.expected)).is_symlink():
        raise WrongError("written through the link")
    return "the link is replaced, its target untouched"


def output_leads_nowhere(verb: Verb, runs: Runs) -> str:
    output = runs.fresh()
    output.symlink_to(runs.work / "nowhere" / "at all")
    runs.run(verb, output).require(1, lines=1, about=str(output))
    return "one line"


def output_is_the_input(verb: Verb, runs: Runs) -> str:
    link, before = runs.fresh(), {path: path.read_bytes() for path in runs.scans.iterdir()}
    link.symlink_to(runs.scans)
    for output in (runs.scans, link):
        runs.run(verb, output).require(2, lines=1, about="which is an input")
    if {path: path.read_bytes() for path in runs.scans.iterdir()} != before:
        raise WrongError("the scans are not as they were")
    return "refused, behind a link too"


def of_both(name: str, fault: Callable[[Verb, Runs], str]) -> dict[str, Fault]:
    return {f"{verb}: {name}": partial(fault, verb) for verb in VERBS}


FAULTS: dict[str, Fault] = {
    **of_both("full disk", full_disk),
    **of_both("disk fills", disk_fills),
    "segment: full disk for the report": full_disk_for_the_report,
    **of_both("read-only disk", read_only),
    **of_both("disk turns read-only", read_only_amid),
    **of_both("no right to write", without_rights),
    **SCAN_FAULTS,
    **of_both("clock 5 h ahead beside a writer", clock_ahead_beside_a_writer),
    "batch: two at once, clocks 5 h apart": clocks_apart,
    **of_both("files from 10 years ahead", lambda verb, runs: files_of_another_time(verb, AHEAD, runs)),
    **of_both("files from 10 years ago", lambda verb, runs: files_of_another_time(verb, LONG_AGO, runs)),
    **of_both("three at once", together),
    **of_both("SIGTERM", partial(asked_to_end, signal.SIGTERM)),
    **of_both("Ctrl-C", partial(asked_to_end, signal.SIGINT)),
    **of_both("folder in the place of labels", label_is_a_folder),
    **of_both("link in the place of labels", label_is_a_link),
    **of_both("output folder is a link to nothing", output_leads_nowhere),
    **of_both("output is the input", output_is_the_input),
    **BUNDLE_FAULTS,
}


if __name__ == "__main__":
    raise SystemExit(main())
