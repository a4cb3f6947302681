"""One case within a batch: claimed, checked against its ledger entry, segmented if need be, recorded.

Every way to run many cases comes down to `attempt`: this process alone, workers of a cluster, an array of jobs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from viscera.batch.leases import Claim, Claims, worker_name
from viscera.batch.ledger import Basis, Entry, EntryStatus, Ledger
from viscera.case import CaseOptions, side_paths
from viscera.core.checksums import path_digest
from viscera.core.errors import BundleError, VisceraError
from viscera.core.version import version
from viscera.model.bundle import CARD
from viscera.segmenter import OnStage, Segmenter, bundle_source
from viscera.viewer.run_entries import machinery, organ_entries
from viscera.viewer.run_report import Failure, peak_memory_mib, utc_now

CLAIMS = "claims"
# The packages besides viscera whose versions may change labels.
_PACKAGES = ("numpy", "openvino", "torch")


@dataclass(frozen=True, kw_only=True)
class Model:
    """What `Segmenter.load` is asked for, and the bundle that has to come of it.

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
class Order:
    """One case to work on; it holds paths and options only, so that it can be sent to another process.

    Attributes:
        name: The case's; its entry and its outputs are called so.
        source: The file or folder to read, absolute.
        output: The label file, absolute.
        folder: Of all outputs, absolute.
        options: How to read and write.
        model: The bundle and what runs it.
    """

    name: str
    source: Path
    output: Path
    folder: Path
    options: CaseOptions
    model: Model


@dataclass(frozen=True, kw_only=True)
class Made:
    """What came of a scan.

    Attributes:
        outputs: The label files by format.
        others: What was written beside them.
        facts: Further fields of the entry.
    """

    outputs: Mapping[str, Path]
    others: tuple[Path, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


# Makes the outputs of an order; the text is what the identifiers in DICOM outputs follow from.
Make = Callable[[Order, str], Made]


class Fate(StrEnum):
    """How an attempt went: done now, kept as it was found, failed, or left to the process that has the claim."""

    DONE = "done"
    KEPT = "kept"
    FAILED = "failed"
    BUSY = "busy"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What `attempt` tells; small, as it travels between processes.

    Attributes:
        name: The case's.
        fate: How it went.
        why: Why it was done again, or failed; empty otherwise.
        seconds: From the beginning of the attempt to its end.
        worker: Who did it.
        peak_memory_mib: Of that process so far.
        notes: What to tell at once.
    """

    name: str
    fate: Fate
    why: str = ""
    seconds: float = 0.0
    worker: str = ""
    peak_memory_mib: float | None = None
    notes: tuple[str, ...] = ()


def attempt(order: Order, make: Make | None = None) -> Outcome:
    """How the attempt on a case went; its entry is in the ledger then, unless another process has the case.

    A case whose entry says that it is done is kept if the scan, the bundle, the options and every output are the same
    by their hashes. The scan is hashed before it is read: one that changes in between is done again the next time.

    Args:
        order: The case.
        make: What segments, for measurements with a stand-in; None for the real thing.

    Raises:
        WriteError, ReadError: If claims or entries cannot be written or read.
    """
    begun = time.perf_counter()
    ledger = Ledger(order.folder)
    claim = Claims(ledger.folder / CLAIMS).take(order.name, lambda: ledger.attempts(order.name))
    if claim is None:
        return _outcome(order, Fate.BUSY, begun)
    with claim:
        entry = Entry(
            name=order.name,
            status=EntryStatus.FAILED,
            input=str(order.source),
            attempts=claim.number,
            started=utc_now(),
            worker=worker_name(),
        )
        make = make or functools.partial(segmented, on_stage=_while_owned(claim))
        entry, fate, why = _worked(order, make, ledger, entry)
        if fate is not Fate.KEPT:
            if claim.lost:
                return _outcome(order, Fate.BUSY, begun)
            ledger.write(entry)
    return _outcome(order, fate, begun, why=why, notes=entry.notes if fate is Fate.DONE else ())


def record_death(order: Order, why: str) -> Outcome:
    """`FAILED`, and an entry that says so, for a case whose worker died; `BUSY` while its claim may be alive.

    Where another process has recorded the case since then, its word holds.

    Raises:
        WriteError, ReadError: If claims or entries cannot be written or read.
    """
    begun = time.perf_counter()
    ledger = Ledger(order.folder)
    claim = Claims(ledger.folder / CLAIMS).take(order.name, lambda: ledger.attempts(order.name))
    if claim is None:
        return _outcome(order, Fate.BUSY, begun)
    with claim:
        known = ledger.read(order.name)
        if known is not None and known.attempts == claim.number - 1:  # no attempt has ended without an entry
            return _outcome(order, Fate.KEPT if known.status is EntryStatus.DONE else Fate.FAILED, begun, why=why)
        ledger.write(
            Entry(
                name=order.name,
                status=EntryStatus.FAILED,
                input=str(order.source),
                attempts=claim.number - 1,  # this one is no attempt
                finished=utc_now(),
                error=Failure(type="WorkerDied", message=why),
            )
        )
    return _outcome(order, Fate.FAILED, begun, why=why)


def segmented(order: Order, identity: str, on_stage: OnStage | None = None) -> Made:
    """What the bundle's networks make of the scan; errors as `Segmenter.load` and `Segmenter.segment_file` raise them.

    Raises:
        BundleError: If the bundle is not the one that was ordered.
    """
    segmenter = _kept_segmenter(order.model)
    options = replace(order.options, identity=identity)
    done = segmenter.segment_file(order.source, order.output, options=options, on_stage=on_stage)
    grid = done.label_map.grid
    beside = side_paths(order.output, order.options)
    facts = {
        "machinery": asdict(machinery(segmenter)),
        "seconds": done.seconds,
        "shape_zyx_vox": grid.shape_zyx,
        "spacing_zyx_mm": grid.spacing_zyx_mm,
        "notes": done.notes,
        "organs": organ_entries(done),
    }
    others = beside if done.preview is None else (*beside, done.preview)
    return Made(outputs=done.outputs, others=others, facts=facts)


def options_digest(options: CaseOptions) -> str:
    """The sha256 of the options that change what is written."""
    values = {**asdict(options), "identity": None}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def card_digest(folder: Path) -> str:
    """The sha256 of a bundle's card."""
    return hashlib.sha256((folder / CARD).read_bytes()).hexdigest()


def _worked(order: Order, make: Make, ledger: Ledger, entry: Entry) -> tuple[Entry, Fate, str]:
    """The entry to write, or to keep, how the attempt went, and why it failed or was made."""
    seconds: dict[str, float] = {}
    try:
        start = time.perf_counter()
        basis = Basis(
            input_sha256=path_digest(order.source).sha256,
            card_sha256=order.model.card_sha256,
            options_sha256=options_digest(order.options),
        )
        entry = replace(entry, basis=basis)
        seconds["digest"] = time.perf_counter() - start
        known = ledger.read(order.name)
        why = "" if known is None or known.status is EntryStatus.FAILED else _change(known, basis, ledger)
        if known is not None and known.status is EntryStatus.DONE and not why:
            return known, Fate.KEPT, ""
        # With these, DICOM outputs made again of the same have the same identifiers and replace themselves.
        made = make(order, f"{basis.input_sha256}/{basis.card_sha256}/{version()}")
        start = time.perf_counter()
        written = [*made.outputs.values(), *made.others]
        files = {_relative(path, order.folder): path_digest(path).sha256 for path in written}
        seconds["record"] = time.perf_counter() - start
    except Exception as error:  # whatever a case's error is, it must not end the others
        failed = replace(entry, error=Failure.of(error), **_end(seconds))
        return failed, Fate.FAILED, _words(error)
    facts = dict(made.facts)
    seconds |= facts.pop("seconds", {})
    done = replace(
        entry,
        status=EntryStatus.DONE,
        files=files,
        outputs={kind: _relative(path, order.folder) for kind, path in made.outputs.items()},
        **facts,
        **_end(seconds),
    )
    return done, Fate.DONE, why


class _ClaimLostError(Exception):
    """Another process took the claim for dead and has the case now."""


def _while_owned(claim: Claim) -> OnStage:
    """What ends an attempt at its next stage if its claim is lost, so that it does not write over what another did."""

    def on_stage(stage: str) -> None:
        if claim.lost:
            raise _ClaimLostError(stage)

    return on_stage


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


def _outcome(order: Order, fate: Fate, begun: float, *, why: str = "", notes: tuple[str, ...] = ()) -> Outcome:
    return Outcome(
        name=order.name,
        fate=fate,
        why=why,
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
def _kept_segmenter(model: Model) -> Segmenter:
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
