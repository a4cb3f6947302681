"""`viscera batch`: organ labels for thousands of CTs, on this machine or a cluster, resumed from a ledger."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.cli.arguments import add_inputs
from viscera.cli.console import Console
from viscera.cli.options import add_runtime, add_writing, cache_folder, positive
from viscera.core.errors import ConfigError, MissingExtraError
from viscera.core.interrupts import clean_end

if TYPE_CHECKING:
    from viscera.batch.discover import ScanSource
    from viscera.batch.scheduler import Scheduler, Tally
    from viscera.batch.tasks import ModelRequest, Task
    from viscera.batch.workers import Pool

HELP = "label the organs of thousands of CTs; resumes after any interruption"
DESCRIPTION = """\
Labels every CT as `viscera segment` does, in this process or in many, and records every case in a ledger, OUT/ledger.
The same command resumes after any interruption and keeps results whose scan, bundle, options and files are unchanged.
Failed cases are tried again, then listed. Several runs on the same OUT share the work."""
EXAMPLE = "viscera batch archive/ -o labels/ --workers 4"

_ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:[0-9]{1,5}")
_SHARD = re.compile(r"([0-9]+)/([0-9]+)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    add_inputs(
        parser,
        "a folder of CTs, a tree of DICOM studies, a BIDS data set, a CSV (path[,name[,series]]), or a CT",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, type=Path, help="a folder for NAME.nii.gz and the ledger"
    )
    where = parser.add_argument_group("where to work (default: in this process, one case after the other)")
    place = where.add_mutually_exclusive_group()
    place.add_argument("--workers", metavar="N", type=positive, help="N processes on this machine, sharing its cores")
    place.add_argument(
        "--scheduler", metavar="ADDRESS", type=_address, help="workers of a dask scheduler you trust, tcp://HOST:PORT"
    )
    where.add_argument(
        "--retries",
        metavar="N",
        type=_count,
        default=2,
        help="further attempts on a failed case (default: %(default)s)",
    )
    which = parser.add_argument_group("which cases")
    which.add_argument("--only", metavar="K/N", type=_shard, help="the K-th of N parts of the cases, K from 1")
    which.add_argument("--case", metavar="NAME", action="append", help="this case (repeatable)")
    which.add_argument(
        "--list", metavar="FILE.csv", type=Path, help="write the list of cases, which can be an INPUT, and exit"
    )
    add_runtime(parser)
    parser.add_argument_group("reading").add_argument(
        "--hu-offset", metavar="HU", type=int, default=0, help="add this to every voxel, e.g. -1024 for a shifted scale"
    )
    writing = parser.add_argument_group("writing")
    add_writing(writing)
    writing.add_argument(
        "--statistics",
        action="store_true",
        help="write one table of all cases: volume, mean HU and QC status of every organ, series and contrast phase, "
        "as statistics.csv, and .parquet if pandas and pyarrow are installed",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Work on the cases and return the exit code."""
    from viscera.batch.discover import list_scans, listing_csv
    from viscera.batch.scheduler import Scheduler
    from viscera.cli.batch_progress import BatchDisplay, closing_table
    from viscera.core.files import write_text

    begun = time.monotonic()
    with clean_end():
        listing = list_scans(args.inputs)
        if listing.passed_over:
            console.note(f"{listing.passed_over} CT series skipped: short, not axial, not in HU, or projections")
        for note in listing.notes:
            console.note(note)
        if args.list is not None:
            write_text(listing_csv(listing.scans), args.list)
            console.say(f"{args.list}: {len(listing.scans)} cases")
            return 0
        tasks = _tasks(listing.scans, args)
        chosen = _chosen(tasks, args)
        _prepare_folder(tasks, chosen, args)
        try:
            with _pool(args) as pool, BatchDisplay(console) as display:
                scheduler = Scheduler(chosen, pool, retries=args.retries, observer=display)
                tally = _run_to_end(scheduler, console)
        except KeyboardInterrupt:
            _write_tables(tasks, args)
            raise
        tables = _write_tables(tasks, args)
    for line in closing_table(tally, time.monotonic() - begun, display.worker_names):
        console.say(line)
    for path in tables:
        console.say(f"wrote {path}")
    return 1 if tally.failed else 0


def _run_to_end(scheduler: Scheduler, console: Console) -> Tally:
    from viscera.cli.batch_progress import summary

    try:
        return scheduler.run()
    except KeyboardInterrupt:
        console.if_stopped = f"{summary(scheduler.tally)}; run the same command again to continue"
        raise


def _write_tables(tasks: Sequence[Task], args: argparse.Namespace) -> list[Path]:
    """Write the table of all cases that have been recorded, those of other runs included, and return its files."""
    from viscera.batch.cohort_table import write_cohort_table
    from viscera.batch.ledger import Ledger

    if not args.statistics:
        return []
    return write_cohort_table(Ledger(args.output.absolute()), [task.name for task in tasks], args.output)


def _tasks(scans: Sequence[ScanSource], args: argparse.Namespace) -> list[Task]:
    """Return all cases of the inputs.

    Raises:
        ConfigError: If OUT cannot be used.
        BundleError: If the bundle is missing or altered.
    """
    from viscera.batch.tasks import Task
    from viscera.cli.options import case_options
    from viscera.cli.output_layouts import LAYOUTS
    from viscera.formats.inputs import CaseInput
    from viscera.write import require_formats

    folder = args.output.absolute()
    _require_folder(args.output)
    model, options = _model(args), case_options(args)
    require_formats(options.formats)
    places = LAYOUTS[args.layout].place([CaseInput(path=scan.path, name=scan.name) for scan in scans])
    return [
        Task(
            name=name,
            source=scan.path,
            output=folder / path,
            folder=folder,
            options=options if scan.series is None else replace(options, series=scan.series),
            model=model,
            record_series=args.statistics,
        )
        for scan, (name, path) in zip(scans, places, strict=True)
    ]


def _prepare_folder(tasks: Sequence[Task], chosen: Sequence[Task], args: argparse.Namespace) -> None:
    """Make OUT ready for the `chosen` cases.

    Raises:
        ConfigError: If an output is one of the inputs.
        WriteError: If OUT cannot be written.
    """
    from viscera.batch.ledger import FOLDER
    from viscera.case import preview_path
    from viscera.cli.output_layouts import LAYOUTS
    from viscera.cli.segment_plan import refuse_overwriting
    from viscera.cli.segment_run import make_folder
    from viscera.core.files import remove_stale_temporaries, write_text
    from viscera.write import LabelOutputs

    folder = args.output.absolute()
    common = LAYOUTS[args.layout].common_files(folder, None)
    formats = [task.options.formats for task in chosen]
    labels = [
        LabelOutputs(labels=task.output, formats=f).paths.values() for task, f in zip(chosen, formats, strict=True)
    ]
    pictures = [preview_path(task.output) for task in chosen]
    tables = [folder / f"statistics{ending}" for ending in (".csv", ".parquet")]
    written = [*(path for paths in labels for path in paths), *pictures, *common, *tables, folder]
    refuse_overwriting(written, [*args.inputs, *(task.source for task in tasks)])
    make_folder(folder)
    for path, text in common.items():
        write_text(text, path)
    remove_stale_temporaries([folder, folder / FOLDER, *(task.output.parent for task in chosen)])


def _require_folder(output: Path) -> None:
    if output.is_file() or output.suffix.lower() in (".nii", ".gz", ".nrrd", ".mha", ".mhd", ".dcm", ".zip", ".csv"):
        raise ConfigError(
            "planning the outputs", expected="a folder after -o", got=str(output), remedy="Give another name"
        )


def _model(args: argparse.Namespace) -> ModelRequest:
    """The bundle, verified, and what is to run it: with several workers each has its part of the cores."""
    from viscera.batch.digests import card_digest
    from viscera.batch.tasks import ModelRequest
    from viscera.core.roi_subset import chosen_organs
    from viscera.model.bundle import load_bundle
    from viscera.segmenter import bundle_source

    bundle = load_bundle(None if args.bundle is None else bundle_source(args.bundle))
    chosen_organs(bundle.card.organs, args.roi_subset)  # refused before any case is read
    is_folder = args.bundle is not None and isinstance(bundle_source(args.bundle), Path)
    return ModelRequest(
        bundle=Path(args.bundle).absolute() if is_folder else args.bundle,
        card_sha256=card_digest(bundle.folder),
        device=args.device,
        precision=args.precision,
        threads=_threads(args),
        memory_limit=args.memory_limit,
        cache=None if args.no_cache else cache_folder(os.environ, sys.platform),
    )


def _threads(args: argparse.Namespace) -> int | None:
    given: int | None = args.threads
    if given is not None or args.workers is None:
        return given
    from viscera.core.cores import allowed_cores

    return max(1, allowed_cores() // int(args.workers))


def _chosen(tasks: Sequence[Task], args: argparse.Namespace) -> list[Task]:
    """Return the tasks that `--case` and `--only` leave, in their order."""
    chosen = list(tasks)
    if args.case:
        names = {task.name for task in tasks}
        if unknown := sorted(set(args.case) - names):
            raise ConfigError(
                "choosing cases",
                expected="names of cases of these inputs (--list writes them)",
                got=", ".join(unknown),
                remedy="Correct --case",
            )
        chosen = [task for task in chosen if task.name in args.case]
    if args.only is not None:
        part, parts = args.only
        chosen = chosen[part - 1 :: parts]
    return chosen


def _pool(args: argparse.Namespace) -> AbstractContextManager[Pool]:
    if args.workers is None and args.scheduler is None:
        from viscera.batch.workers import InProcessPool

        return nullcontext(InProcessPool())
    try:
        from viscera.batch.dask_workers import DaskPool
    except ImportError as error:
        raise MissingExtraError(
            "starting workers",
            expected="the package distributed",
            got="it is not installed",
            remedy="Run: pip install 'viscera[cluster]', or leave out --workers and --scheduler",
        ) from error
    if args.scheduler is not None:
        return DaskPool(args.scheduler)
    return DaskPool(workers=args.workers, threads=_threads(args) or 1, memory_limit=args.memory_limit)


def _address(text: str) -> str:
    """The address of a scheduler that `text` is; raises ArgumentTypeError otherwise."""
    if not _ADDRESS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected tcp://HOST:PORT or tls://HOST:PORT, got {text!r}")
    return text


def _count(text: str) -> int:
    """The whole number, 0 or more, that `text` is; raises ArgumentTypeError otherwise."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    """Part and number of parts; raises ArgumentTypeError if `text` is no such thing."""
    found = _SHARD.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"expected K/N with K from 1 to N, such as 3/10, got {text!r}")
    return int(found[1]), int(found[2])
