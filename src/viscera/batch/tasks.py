"""One case of a batch: leased, checked against its ledger entry, segmented if need be, recorded.

Every way to run many cases comes down to `attempt`: this process alone, workers of a cluster, an array of jobs.
"""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from viscera.batch.digests import card_digest, options_digest
from viscera.batch.leases import Lease, Leases, worker_name
from viscera.batch.ledger import Basis, Entry, EntryStatus, Ledger
from viscera.batch.series_facts import read_series_facts
from viscera.case import CaseOptions, side_paths
from viscera.core.checksums import path_digest
from viscera.core.errors import BundleError, ConfigError, GeometryError, NothingFoundError, ReadError, VisceraError
from viscera.core.version import version
from viscera.segmenter import OnStage, Segmenter, bundle_source
from viscera.viewer.run_entries import organ_entries, runtime
from viscera.viewer.run_report import Failure, peak_memory_mib, utc_now

# The folder's name on disk, as earlier versions wrote it.
LEASES = "claims"
# The packages besides viscera whose versions may change labels.
_PACKAGES = ("numpy", "openvino", "torch")
# What is wrong with a scan or a request, rather than with the machine, the disk or the moment.
_ABOUT_THE_SCAN = (ReadError, GeometryError, NothingFoundError, ConfigError)


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """What `Segmenter.load` is asked for, and the bundle it has to load.

    Attributes:
        bundle: A folder, or the name of a shipped bundle, None for the default one.
        card_sha256: Of its card.
        device, precision, threads, memory_limit, cache: As `Segmenter.load` takes them.
    """

    bundle: str | Path | None = None
    card_sha256: str
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    memory_limit: int | None = None
    cache: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One case to work on; it holds paths and options only, so that it can be sent to another process.

    Attributes:
        name: The case's; its entry and its outputs are called so.
        source: The file or folder to read, absolute.
        output: The label file, absolute.
        folder: Of all outputs, absolute.
        options: How to read and write.
        model: The bundle and what runs it.
        record_series: Whether the entry says which DICOM series was read, and its contrast phase. The headers are read
            once more for that.
    """

    name: str
    source: Path
    output: Path
    folder: Path
    options: CaseOptions
    model: ModelRequest
    record_series: bool = False


@dataclass(frozen=True, kw_only=True)
class TaskOutputs:
    """The files written for a case.

    Attributes:
        outputs: The label files by format.
        side_files: What was written next to them.
        entry_fields: Further fields of the ledger entry.
    """

    outputs: Mapping[str, Path]
    side_files: tuple[Path, ...] = ()
    entry_fields: Mapping[str, Any] = field(default_factory=dict)


# Writes the outputs of a task; the text is what the identifiers in DICOM outputs are derived from.
SegmentFn = Callable[[Task, str], TaskOutputs]


class TaskStatus(StrEnum):
    """How an attempt ended: done now, kept as it was found, failed, or left to the process that holds the lease."""

    DONE = "done"
    KEPT = "kept"
    FAILED = "failed"
    BUSY = "busy"


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What `attempt` returns; small, as it travels between processes.

    Attributes:
        name: The case's.
        status: How the attempt ended.
        why: Why it was done again, or failed; empty otherwise.
        permanent: Whether another attempt on the same scan would fail in the same way.
        seconds: From the beginning of the attempt to its end.
        worker: Host and process number of the worker.
        peak_memory_mib: Of that process so far.
        notes: What to report at once.
    """

    name: str
    status: TaskStatus
    why: str = ""
    permanent: bool = False
    seconds: float = 0.0
    worker: str = ""
    peak_memory_mib: float | None = None
    notes: tuple[str, ...] = ()


def attempt(task: Task, segment: SegmentFn | None = None) -> TaskResult:
    """Make an attempt on a case and record it in the ledger, unless another process has the case.

    A case that is recorded as done is kept if the scan, the bundle, the options and every output are the same by their
    hashes. One that failed because of the scan itself is not tried again while all of these and the version are the
    same. The scan is hashed before it is read: one that changes in between is done again the next time.

    Args:
        task: The case.
        segment: What segments, for measurements with a stand-in; None for `segment_task`.

    Raises:
        WriteError, ReadError: If leases or entries cannot be written or read.
    """
    begun = time.perf_counter()
    ledger = Ledger(task.folder)
    lease = Leases(ledger.folder / LEASES).take(task.name, lambda: ledger.attempts(task.name))
    if lease is None:
        return _result(task, TaskStatus.BUSY, begun)
    with lease:
        entry = Entry(
            name=task.name,
            status=EntryStatus.FAILED,
            input=str(task.source),
            attempts=lease.number,
            started=utc_now(),
            worker=worker_name(),
        )
        segment = segment or functools.partial(segment_task, on_stage=_while_held(lease))
        known = ledger.read(task.name)
        entry, status, why = _worked(task, segment, ledger, known, entry)
        if task.record_series and entry.status is EntryStatus.DONE and entry.series is None:
            entry = replace(entry, series=read_series_facts(task.source, task.options.series))
        if entry is not known:
            if lease.lost:
                return _result(task, TaskStatus.BUSY, begun)
            ledger.write(entry)
    notes = entry.notes if status is TaskStatus.DONE else ()
    return _result(task, status, begun, why=why, permanent=entry.permanent, notes=notes)


def record_worker_death(task: Task, why: str) -> TaskResult:
    """Record that a case failed as its worker died; return `BUSY` while its lease may be live.

    Where another process has recorded the case since then, that record holds.

    Raises:
        WriteError, ReadError: If leases or entries cannot be written or read.
    """
    begun = time.perf_counter()
    ledger = Ledger(task.folder)
    lease = Leases(ledger.folder / LEASES).take(task.name, lambda: ledger.attempts(task.name))
    if lease is None:
        return _result(task, TaskStatus.BUSY, begun)
    with lease:
        known = ledger.read(task.name)
        if known is not None and known.attempts == lease.number - 1:  # no attempt has ended without an entry
            status = TaskStatus.KEPT if known.status is EntryStatus.DONE else TaskStatus.FAILED
            return _result(task, status, begun, why=why)
        ledger.write(
            Entry(
                name=task.name,
                status=EntryStatus.FAILED,
                input=str(task.source),
                attempts=lease.number - 1,  # this one is no attempt
                finished=utc_now(),
                error=Failure(type="WorkerDied", message=why),
            )
        )
    return _result(task, TaskStatus.FAILED, begun, why=why)


def segment_task(task: Task, identity: str, on_stage: OnStage | None = None) -> TaskOutputs:
    """Segment the scan and write its outputs; errors as `Segmenter.load` and `Segmenter.segment_file` raise them.

    Raises:
        BundleError: If the bundle is not the one the batch was begun with.
    """
    segmenter = _kept_segmenter(task.model)
    options = replace(task.options, identity=identity)
    done = segmenter.segment_file(task.source, task.output, options=options, on_stage=on_stage)
    grid = done.label_map.grid
    side_files = side_paths(task.output, task.options)
    further = {
        "machinery": asdict(runtime(segmenter)),
        "seconds": done.seconds,
        "shape_zyx_vox": grid.shape_zyx,
        "spacing_zyx_mm": grid.spacing_zyx_mm,
        "notes": done.notes,
        "organs": organ_entries(done),
    }
    side_files = side_files if done.preview is None else (*side_files, done.preview)
    return TaskOutputs(outputs=done.outputs, side_files=side_files, entry_fields=further)


def is_permanent(error: BaseException) -> bool:
    """Return whether the same scan with the same options would fail in the same way at any other time.

    So does an MR, a folder without CT, a wrong geometry; not what a disk, a network or a machine's memory causes.
    """
    return isinstance(error, _ABOUT_THE_SCAN) and not _caused_by_system(error)


def _caused_by_system(error: BaseException | None) -> bool:
    while error is not None:
        # Without a number it is not of the system, such as gzip's on a damaged file.
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            return True
        error = error.__cause__ or error.__context__
    return False


def _worked(
    task: Task, segment: SegmentFn, ledger: Ledger, known: Entry | None, entry: Entry
) -> tuple[Entry, TaskStatus, str]:
    """The entry to write, `known` itself to keep it, how the attempt ended, and why it failed or was made."""
    seconds: dict[str, float] = {}
    try:
        start = time.perf_counter()
        basis = Basis(
            input_sha256=path_digest(task.source).sha256,
            card_sha256=task.model.card_sha256,
            options_sha256=options_digest(task.options),
        )
        entry = replace(entry, basis=basis)
        seconds["digest"] = time.perf_counter() - start
        if known is not None and _fails_again(known, basis):
            return known, TaskStatus.FAILED, known.error.message if known.error else ""
        why = "" if known is None or known.status is EntryStatus.FAILED else _change(known, basis, ledger)
        if known is not None and known.status is EntryStatus.DONE and not why:
            return known, TaskStatus.KEPT, ""
        # With these, DICOM outputs written again of the same scan have the same identifiers and replace themselves.
        written = segment(task, f"{basis.input_sha256}/{basis.card_sha256}/{version()}")
        start = time.perf_counter()
        paths = [*written.outputs.values(), *written.side_files]
        files = {_relative(path, task.folder): path_digest(path).sha256 for path in paths}
        seconds["record"] = time.perf_counter() - start
    except Exception as error:  # no error of a case may end the others
        failed = replace(entry, error=Failure.of(error), permanent=is_permanent(error), **_end(seconds))
        return failed, TaskStatus.FAILED, _words(error)
    further = dict(written.entry_fields)
    seconds |= further.pop("seconds", {})
    done = replace(
        entry,
        status=EntryStatus.DONE,
        files=files,
        outputs={kind: _relative(path, task.folder) for kind, path in written.outputs.items()},
        **further,
        **_end(seconds),
    )
    return done, TaskStatus.DONE, why


class _LeaseLostError(Exception):
    """Another process took the lease for dead and has the case now."""


def _while_held(lease: Lease) -> OnStage:
    """What ends an attempt at its next stage if its lease is lost, so that it does not overwrite another's files."""

    def on_stage(stage: str) -> None:
        if lease.lost:
            raise _LeaseLostError(stage)

    return on_stage


def _fails_again(known: Entry, basis: Basis) -> bool:
    """Whether a case failed because of its scan, and nothing has changed since."""
    return known.permanent and known.basis == basis and known.versions.get("viscera") == version()


def _change(known: Entry, basis: Basis, ledger: Ledger) -> str:
    """In words, what differs from when a case was done; empty if nothing does."""
    if known.basis is None or known.basis.card_sha256 != basis.card_sha256:
        return "another bundle"
    if known.basis.options_sha256 != basis.options_sha256:
        return "other options"
    if known.basis.input_sha256 != basis.input_sha256:
        return "the scan has changed"
    return ledger.altered(known) or ""


def _end(seconds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "finished": utc_now(),
        "seconds": dict(seconds),
        "peak_memory_mib": peak_memory_mib(),
        "versions": _versions(),
    }


def _result(
    task: Task,
    status: TaskStatus,
    begun: float,
    *,
    why: str = "",
    permanent: bool = False,
    notes: tuple[str, ...] = (),
) -> TaskResult:
    return TaskResult(
        name=task.name,
        status=status,
        why=why,
        permanent=permanent,
        seconds=time.perf_counter() - begun,
        worker=worker_name(),
        peak_memory_mib=peak_memory_mib(),
        notes=notes,
    )


def _words(error: Exception) -> str:
    failure = Failure.of(error)
    return failure.message if isinstance(error, VisceraError) else f"{failure.type}: {failure.message}"


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


@functools.cache
def _versions() -> dict[str, str]:
    found = {"viscera": version(), "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.lru_cache(maxsize=1)
def _kept_segmenter(model: ModelRequest) -> Segmenter:
    """The segmenter of a process: loading it takes as long as many a case, so it is loaded for the first one."""
    segmenter = Segmenter.load(
        None if model.bundle is None else bundle_source(model.bundle),
        device=model.device,
        precision=model.precision,
        threads=model.threads,
        memory_limit=model.memory_limit,
        cache=model.cache,
    )
    if (found := card_digest(segmenter.bundle.folder)) != model.card_sha256:
        raise BundleError(
            f"loading the bundle {segmenter.bundle.folder}",
            expected=f"the bundle with which the batch was begun, card {model.card_sha256}",
            got=found,
            remedy="Install the same bundle on every machine, and run the batch again",
        )
    return segmenter
