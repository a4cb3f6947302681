"""The durable queue of a PACS listener: which series came, what was done with them, and their files.

One folder holds a database and, per series, a folder of images and results. A file is on disk before the database says
so, and what the database says survives the end of the process at any instruction. Names of files are hashes or
numbers, never text from an object.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from viscera.core.errors import reason
from viscera.core.files import flush_to_disk
from viscera.pacs.database import Database, unwritable
from viscera.pacs.jobs import (
    OPEN_STATES,
    Admission,
    Arrival,
    Job,
    QueueFullError,
    QueueLimits,
    State,
    image_name,
    images_identity,
    series_key,
)

# A series of which less came than was announced waits this many quiet times for the rest.
PATIENCE = 10
_BACKOFF_SECONDS = 5.0
_LONGEST_BACKOFF_SECONDS = 900.0


class SeriesQueue:
    """The queue in `folder`, which is made if missing; safe to use from several threads.

    Raises:
        ConfigError: If another process uses the folder.
        WriteError: If it cannot be written; the same holds for all methods.
    """

    def __init__(
        self, folder: Path, limits: QueueLimits | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.folder = folder
        self.limits = limits or QueueLimits()
        self._clock = clock
        self._reserved = 0  # bytes of images being written; guarded by the database's lock
        self._incoming = folder / "incoming"
        try:
            for part in (folder, folder / "series"):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = Database(folder)
            self._recover()
        except OSError as error:
            raise unwritable(folder, error) from error

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # Images.

    def admit(self, arrival: Arrival) -> tuple[Admission, int]:
        """Store an image, on disk and recorded, and return what became of it and its series' number.

        Raises:
            QueueFullError: If the series, or the disk space it needs, is beyond the limits, or the disk is full.
        """
        key, name = series_key(arrival.study_uid, arrival.series_uid), image_name(arrival.instance_uid)
        with self._database.transaction() as database:
            number = self._number(database, key)
            if number is not None and (standing := self._standing(database, number, name, arrival)) is not None:
                return standing, number
            self._require_room(database, number, arrival.size_bytes)
            self._reserved += arrival.size_bytes
        temporary = self._incoming / f"{secrets.token_hex(16)}.part"
        try:
            arrival.write(temporary)
            flush_to_disk(temporary)
            return self._recorded(arrival, key, name, temporary)
        except OSError as error:
            raise _full("space on the disk", reason(error)) from error
        finally:
            with self._database.lock:
                self._reserved -= arrival.size_bytes
            with contextlib.suppress(OSError):
                temporary.unlink()

    def touch(self, numbers: Collection[int]) -> None:
        """Start the quiet time of series again, as an association that brought some of their images has ended."""
        with self._database.transaction() as database:
            for number in numbers:
                _set(database, number, "touched = ?", self._clock(), only=State.RECEIVING)

    def close_quiet(self, busy: Collection[int] = ()) -> list[int]:
        """Take series as complete, of which nothing came for the quiet time or all that was announced, and return them.

        Those in `busy` are being sent. One of which less came than announced is refused after a longer time.
        """
        closed, now, quiet = [], self._clock(), self.limits.quiet_seconds
        with self._database.transaction() as database:
            rows = database.execute(
                "SELECT number, touched, announced, (SELECT count(*) FROM images WHERE series = number) FROM series"
                " WHERE state = ?",
                (State.RECEIVING,),
            ).fetchall()
            for number, touched, announced, images in rows:
                if touched > now:  # the clock was put back
                    _set(database, number, "touched = ?", now)
                if number in busy:
                    continue
                if announced is not None and images < announced:
                    if now - touched >= PATIENCE * quiet:
                        reason = f"incomplete: {images} of {announced} images came"
                        self._end(database, number, State.REFUSED, reason)
                elif now - touched >= quiet or images == announced:
                    _set(database, number, "state = ?, due = 0, attempts = 0", State.WAITING)
                    closed.append(number)
        return closed

    # Work.

    def claim(self) -> tuple[State, Job] | None:
        """Take and return a series to send (SENDING) or to segment (WORKING); None if there is none just now."""
        with self._database.transaction() as database:
            row = database.execute(
                "SELECT number, state, attempts FROM series WHERE state IN (?, ?) AND due <= ?"
                " ORDER BY state = ? DESC, due, number LIMIT 1",
                (State.SENDING, State.WAITING, self._clock(), State.SENDING),
            ).fetchone()
            if row is None:
                return None
            number, state, attempts = row
            taken = State.SENDING if state == State.SENDING else State.WORKING
            _set(database, number, "state = ?, attempts = attempts + 1", taken)
            folder = self._folder(number)
            return taken, Job(
                number=number,
                attempt=attempts + 1,
                identity=_identity(database, number),
                images=folder / "images",
                results=folder / "results",
            )

    def release(self, job: Job) -> None:
        """Give a series back as if it had not been taken, because the process ends."""
        with self._database.transaction() as database:
            _set(database, job.number, "state = ?, attempts = attempts - 1", State.WAITING, only=State.WORKING)

    def segmented(self, job: Job, results: Sequence[Path]) -> None:
        """Record the results, files in `job.results`, and that they are to be sent."""
        try:
            for path in (*results, job.results, job.results.parent):
                flush_to_disk(path)
            rows = [(job.number, path.name, path.stat().st_size) for path in results]
        except OSError as error:
            raise unwritable(self.folder, error) from error
        with self._database.transaction() as database:
            database.executemany("INSERT INTO results VALUES (?, ?, ?)", rows)
            _set(database, job.number, "state = ?, due = 0, attempts = 0", State.SENDING, only=State.WORKING)

    def unsent(self, job: Job, destination: str) -> list[Path]:
        """The results that `destination` has not acknowledged."""
        with self._database.transaction() as database:
            rows = database.execute(
                "SELECT name FROM results WHERE series = ? AND name NOT IN"
                " (SELECT name FROM sent WHERE series = ? AND destination = ?) ORDER BY name",
                (job.number, job.number, destination),
            )
            return [job.results / name for (name,) in rows]

    def acknowledged(self, job: Job, result: Path, destination: str) -> None:
        """Record that a destination has a result."""
        with self._database.transaction() as database:
            database.execute("INSERT OR IGNORE INTO sent VALUES (?, ?, ?)", (job.number, result.name, destination))

    def finish(self, job: Job) -> None:
        """End a series of which every result is where it is to be; its files are deleted."""
        with self._database.transaction() as database:
            self._end(database, job.number, State.DONE, "")
            # That the images came is remembered; none of them is left.
            database.execute("UPDATE images SET bytes = 0 WHERE series = ?", (job.number,))
            database.execute("DELETE FROM results WHERE series = ?", (job.number,))
            self._database.remove_after(self._folder(job.number))

    def refuse(self, job: Job, reason: str) -> None:
        """End a series that cannot be segmented; `reason` holds nothing of a patient."""
        with self._database.transaction() as database:
            self._end(database, job.number, State.REFUSED, reason)

    def retry(self, job: Job, reason: str) -> State:
        """The state of a series after an attempt failed: as before, to be tried later, or FAILED after too many."""
        with self._database.transaction() as database:
            (state,) = database.execute("SELECT state FROM series WHERE number = ?", (job.number,)).fetchone()
            sending = state == State.SENDING
            if job.attempt >= (self.limits.sends if sending else self.limits.attempts):
                self._end(database, job.number, State.FAILED, reason)
                return State.FAILED
            wait = min(_BACKOFF_SECONDS * 2 ** min(job.attempt - 1, 20), _LONGEST_BACKOFF_SECONDS)
            after = State.SENDING if sending else State.WAITING
            _set(database, job.number, "state = ?, due = ?, reason = ?", after, self._clock() + wait, reason)
            return after

    def counts(self) -> dict[str, int]:
        """How many series are in each state."""
        with self._database.transaction() as database:
            found = dict(database.execute("SELECT state, count(*) FROM series GROUP BY state").fetchall())
        return {state.value: found.get(state.value, 0) for state in State}

    def used_bytes(self) -> int:
        """Of images and results on disk."""
        with self._database.transaction() as database:
            return _used(database)

    def image_count(self, number: int) -> int:
        """How many images a series has."""
        with self._database.transaction() as database:
            return _images(database, number)

    def forget(self) -> int:
        """How many series, ended longer ago than `keep_seconds`, were deleted with all that is known of them."""
        with self._database.transaction() as database:
            before = self._clock() - self.limits.keep_seconds
            ended = database.execute("SELECT number FROM series WHERE ended <= ?", (before,)).fetchall()
            for (number,) in ended:
                self._delete(database, number)
        return len(ended)

    # Within a transaction.

    def _number(self, database: sqlite3.Connection, key: str) -> int | None:
        row = database.execute("SELECT number FROM series WHERE key = ?", (key,)).fetchone()
        return None if row is None else int(row[0])

    def _new_series(self, database: sqlite3.Connection, key: str) -> int:
        query = "INSERT INTO series (key, state, touched) VALUES (?, ?, ?)"
        return int(database.execute(query, (key, State.RECEIVING, self._clock())).lastrowid or 0)

    def _standing(self, database: sqlite3.Connection, number: int, name: str, arrival: Arrival) -> Admission | None:
        """Why an image is not stored, None if it is to be; a series that ended badly is opened again."""
        (state,) = database.execute("SELECT state FROM series WHERE number = ?", (number,)).fetchone()
        known = database.execute("SELECT 1 FROM images WHERE series = ? AND name = ?", (number, name)).fetchone()
        if known and (again := _compared(database, number, name, arrival.content)) is Admission.DIFFERENT:
            return again
        if state in (State.REFUSED, State.FAILED):
            self._reopen(database, number, changed=not known)
        elif not known and state in (State.WORKING, State.SENDING, State.DONE):
            return Admission.CLOSED
        return again if known else None

    def _reopen(self, database: sqlite3.Connection, number: int, *, changed: bool) -> None:
        """To be tried again because it is sent again; results of the same images are kept, and only sent on."""
        if changed:
            for table in ("results", "sent"):
                database.execute(f"DELETE FROM {table} WHERE series = ?", (number,))
        results = database.execute("SELECT 1 FROM results WHERE series = ?", (number,)).fetchone()
        state = State.SENDING if results else State.RECEIVING
        change = "state = ?, touched = ?, due = 0, attempts = 0, ended = NULL"
        _set(database, number, change, state, self._clock())

    def _require_room(self, database: sqlite3.Connection, number: int | None, size_bytes: int) -> None:
        if number is None:
            marks = ", ".join("?" * len(OPEN_STATES))
            query = f"SELECT count(*) FROM series WHERE state IN ({marks})"
            (count,) = database.execute(query, OPEN_STATES).fetchone()
            if count >= self.limits.series:
                raise _full(f"at most {self.limits.series} unfinished series", "one more")
        elif _images(database, number) >= self.limits.images:
            raise _full(f"at most {self.limits.images} images in a series", "one more")
        # Series that ended badly are kept only while there is room.
        query = "SELECT number FROM series WHERE state IN (?, ?) ORDER BY ended"
        spare = [old for (old,) in database.execute(query, (State.REFUSED, State.FAILED))]
        while (needed := _used(database) + self._reserved + size_bytes) > self.limits.disk_bytes:
            if not spare:
                raise _full(f"at most {self.limits.disk_bytes} bytes", f"{needed} with this image")
            self._delete(database, spare.pop(0))

    def _end(self, database: sqlite3.Connection, number: int, state: State, reason: str) -> None:
        _set(database, number, "state = ?, reason = ?, ended = ?", state, reason, self._clock())

    def _delete(self, database: sqlite3.Connection, number: int) -> None:
        database.execute("DELETE FROM series WHERE number = ?", (number,))
        self._database.remove_after(self._folder(number))

    def _folder(self, number: int) -> Path:
        return self.folder / "series" / str(number)

    def _recorded(self, arrival: Arrival, key: str, name: str, temporary: Path) -> tuple[Admission, int]:
        """What became of an image that is in a temporary file, and its series' number."""
        with self._database.lock, contextlib.ExitStack() as undo:
            with self._database.transaction() as database:
                number = self._number(database, key) or self._new_series(database, key)
                if (standing := self._standing(database, number, name, arrival)) is not None:
                    return standing, number  # others came meanwhile
                path = self._folder(number) / "images" / f"{name}.dcm"
                undo.callback(path.unlink, missing_ok=True)  # what is not recorded must not be segmented
                self._place(temporary, path)
                database.execute("INSERT INTO images VALUES (?, ?, ?)", (number, name, arrival.size_bytes))
                database.execute("INSERT INTO contents VALUES (?, ?, ?)", (number, name, arrival.content))
                database.execute(
                    "UPDATE series SET state = ?, touched = ?, announced = coalesce(?, announced) WHERE number = ?",
                    (State.RECEIVING, self._clock(), arrival.announced, number),
                )
            undo.pop_all()  # it is recorded
        return Admission.STORED, number

    def _place(self, temporary: Path, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.replace(path)
        for folder in path.parents[:3]:  # images, the series, all series
            flush_to_disk(folder)

    def _recover(self) -> None:
        """Put right what the last process left, wherever it ended."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(mode=0o700, exist_ok=True)
        with self._database.transaction() as database:
            # Whoever was sending gets the quiet time to go on.
            database.execute("UPDATE series SET touched = ? WHERE state = ?", (self._clock(), State.RECEIVING))
            database.execute("UPDATE series SET state = ?, due = 0 WHERE state = ?", (State.WAITING, State.WORKING))
            query = "SELECT number FROM series WHERE state = ? AND attempts >= ?"
            for (number,) in database.execute(query, (State.WAITING, self.limits.attempts)).fetchall():
                self._end(database, number, State.FAILED, "the process ended at every attempt")
            query = "SELECT series, name FROM images JOIN series ON number = series WHERE state != ?"
            files = {f"{one}/images/{name}.dcm" for one, name in database.execute(query, (State.DONE,))}
            files |= {f"{one}/results/{name}" for one, name in database.execute("SELECT series, name FROM results")}
        root = self.folder / "series"
        for path in [path for path in root.rglob("*") if path.is_file()]:
            if path.relative_to(root).as_posix() not in files:
                path.unlink(missing_ok=True)


def _set(database: sqlite3.Connection, number: int, change: str, *values: object, only: State | None = None) -> None:
    where, more = ("", ()) if only is None else (" AND state = ?", (only,))
    database.execute(f"UPDATE series SET {change} WHERE number = ?{where}", (*values, number, *more))


def _compared(database: sqlite3.Connection, number: int, name: str, content: str) -> Admission:
    """What an image is to the one that had come under its identifier before."""
    query = "SELECT content FROM contents WHERE series = ? AND name = ?"
    ((before,),) = database.execute(query, (number, name)).fetchall() or [("",)]
    if not (before and content) or before == content:  # an older version of viscera kept none
        return Admission.KNOWN
    same_encoding = before.partition(" ")[0] == content.partition(" ")[0]
    return Admission.DIFFERENT if same_encoding else Admission.RECODED


def _images(database: sqlite3.Connection, number: int) -> int:
    return int(database.execute("SELECT count(*) FROM images WHERE series = ?", (number,)).fetchone()[0])


def _used(database: sqlite3.Connection) -> int:
    query = "SELECT (SELECT total(bytes) FROM images) + (SELECT total(bytes) FROM results)"
    return int(database.execute(query).fetchone()[0])


def _identity(database: sqlite3.Connection, number: int) -> str:
    (key,) = database.execute("SELECT key FROM series WHERE number = ?", (number,)).fetchone()
    names = database.execute("SELECT name FROM images WHERE series = ?", (number,))
    return images_identity(key, (name for (name,) in names))


def _full(expected: str, got: str) -> QueueFullError:
    return QueueFullError(
        "storing an image", expected=expected, got=got, remedy="Wait until some series are done, or raise the limit"
    )
