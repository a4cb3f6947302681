"""The SQLite database of a PACS listener's queue."""

from __future__ import annotations

import errno
import logging
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from viscera.core.errors import ConfigError, WriteError, reason
from viscera.core.files import flush_to_disk

# Raised when a change to the tables would make an older queue unreadable.
LAYOUT = 1

# `key` and `name` are hashes of UIDs; `touched`, `due` and `ended` are seconds of the system's clock.
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS series (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,
  state TEXT NOT NULL,
  touched REAL NOT NULL,
  due REAL NOT NULL DEFAULT 0,
  ended REAL,
  attempts INTEGER NOT NULL DEFAULT 0,
  announced INTEGER,
  reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS series_by_state ON series (state, due);
CREATE TABLE IF NOT EXISTS images (
  series INTEGER NOT NULL REFERENCES series ON DELETE CASCADE,
  name TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  PRIMARY KEY (series, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contents (
  series INTEGER NOT NULL REFERENCES series ON DELETE CASCADE,
  name TEXT NOT NULL,
  content TEXT NOT NULL,
  PRIMARY KEY (series, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
  series INTEGER NOT NULL REFERENCES series ON DELETE CASCADE,
  name TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  PRIMARY KEY (series, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sent (
  series INTEGER NOT NULL REFERENCES series ON DELETE CASCADE,
  name TEXT NOT NULL,
  destination TEXT NOT NULL,
  PRIMARY KEY (series, name, destination)
) WITHOUT ROWID;
PRAGMA user_version = {LAYOUT};
"""
# Not allowed, or not a feature of the file system.
_NO_MODES = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_LOG = logging.getLogger("viscera.pacs")
# Exclusive: a second listener on this folder is refused. Full: a commit outlives a power cut.
_SETTINGS = ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")


class Database:
    """The tables in `folder`, shared by threads, one transaction at a time; `lock` is held during each.

    Raises:
        ConfigError: If another process has them open, or another version of viscera made them.
        WriteError: If they cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.lock = threading.RLock()
        self._doomed: list[Path] = []
        path = folder / "queue.sqlite"
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
            _keep_private(path)
            for setting in _SETTINGS:
                self._connection.execute(f"PRAGMA {setting}")
            if not _can_flush(folder):  # every commit would fail
                self._connection.execute("PRAGMA synchronous = OFF")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            _require_layout(version, folder)
            self._connection.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            if "locked" in str(error):
                raise _in_use(folder) from error
            raise unwritable(folder, error) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection, for statements that all take effect on the disk at the end, or none does.

        Raises:
            WriteError: If the database cannot be written.
        """
        with self.lock:
            self._doomed.clear()
            try:
                with self._connection as connection:  # which commits, or rolls back what SQLite has not itself
                    connection.execute("BEGIN IMMEDIATE")
                    yield connection
            except sqlite3.Error as error:
                raise unwritable(self._folder, error) from error
            for folder in self._doomed:
                shutil.rmtree(folder, ignore_errors=True)

    def remove_after(self, folder: Path) -> None:
        """Delete `folder` once the present transaction has taken effect."""
        self._doomed.append(folder)

    def close(self) -> None:
        """Close the database."""
        with self.lock:
            self._connection.close()


def _can_flush(folder: Path) -> bool:
    """Whether files in `folder` can be flushed.

    Tried on a file of its own: closing the database's would end this process's lock on it (fcntl(2)).
    """
    probe = folder / f"{secrets.token_hex(16)}.probe"
    try:
        probe.touch(mode=0o600, exist_ok=False)
        return flush_to_disk(probe)
    finally:
        probe.unlink(missing_ok=True)


def _keep_private(path: Path) -> None:
    try:
        path.chmod(0o600)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise
        _LOG.warning("the spool's files cannot be kept from other users here (%s)", reason(error))


def unwritable(folder: Path, error: Exception) -> WriteError:
    """The error to raise when the queue in `folder` cannot be written."""
    return WriteError(
        f"recording in the queue in {folder}",
        expected="a folder that can be written to",
        got=reason(error),
        remedy="Check the folder's permissions and the free space",
    )


def _require_layout(version: int, folder: Path) -> None:
    if version not in (0, LAYOUT):
        raise ConfigError(
            f"opening the queue in {folder}",
            expected=f"a queue of layout {LAYOUT}",
            got=f"layout {version}",
            remedy="Give another folder with --spool, or use the version of viscera that made it",
        )


def _in_use(folder: Path) -> ConfigError:
    return ConfigError(
        f"opening the queue in {folder}",
        expected="a folder of its own",
        got="one that another listener uses",
        remedy="Stop the other one, or give another folder with --spool",
    )
