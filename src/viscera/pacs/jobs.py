"""The records of a PACS listener's queue: states, limits, arriving images, jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from viscera.core.errors import WriteError


class State(StrEnum):
    """Where a series is."""

    RECEIVING = "receiving"  # images may still come
    WAITING = "waiting"  # for the worker
    WORKING = "working"
    SENDING = "sending"  # results are on disk, and some destination has not acknowledged them
    DONE = "done"
    REFUSED = "refused"  # not a CT of the abdomen that can be segmented; no fault of the machine
    FAILED = "failed"


OPEN_STATES = (State.RECEIVING, State.WAITING, State.WORKING, State.SENDING)


class Admission(StrEnum):
    """What became of an image."""

    STORED = "stored"
    KNOWN = "known"  # it had come before
    RECODED = "recoded"  # one under its identifier had come before, encoded otherwise
    DIFFERENT = "different"  # one under its identifier had come before, and is another image
    CLOSED = "closed"  # its series has been taken as complete


class QueueFullError(WriteError):
    """An image for which there is no room."""


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """How much the queue takes, and for how long.

    Attributes:
        series: Not yet finished at one time.
        images: Of one series.
        disk_bytes: Of images and results.
        attempts: To segment a series; a series that ends the process counts too.
        sends: To send the results of a series.
        quiet_seconds: Without a further image, after the last association that brought one has ended, until a series
            is taken as complete.
        keep_seconds: Until a finished series is forgotten, and would be segmented again if it came again.
    """

    series: int = 200
    images: int = 10_000
    disk_bytes: int = 20 * 2**30
    attempts: int = 3
    sends: int = 100
    quiet_seconds: float = 30.0
    keep_seconds: float = 7 * 86_400.0


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """An image that is to be stored.

    Attributes:
        study_uid, series_uid, instance_uid: Its identifiers.
        size_bytes: Of its file.
        announced: Images of its series, None if the object does not say.
        content: A hash of the image itself after the name of its encoding, see `Identity`; empty if not known.
        write: Writes the file.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    size_bytes: int
    write: Callable[[Path], None]
    announced: int | None = None
    content: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A series the worker has taken.

    Attributes:
        number: Of the series in this queue.
        attempt: From 1.
        identity: Hash of the series' UID and of those of its images.
        images: Folder of the images.
        results: Folder for, or of, the results.
    """

    number: int
    attempt: int
    identity: str
    images: Path
    results: Path


def series_key(study_uid: str, series_uid: str) -> str:
    """Return what a series is known by: a hash, which can be a file's name in any case."""
    return _hash(study_uid, series_uid)


def image_name(instance_uid: str) -> str:
    """What an image is known by within its series: a hash as well."""
    return _hash(instance_uid)


def images_identity(key: str, names: Iterable[str]) -> str:
    """A hash of a series and of which images it has, in any order; results are named after it."""
    return _hash(key, *sorted(names))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
