"""The file of the spool: an SQLite database that stores webhooks on disk, in order.

The write-ahead log is synced at every commit, so appended rows survive kill -9 and a power cut.
Workers on one machine may share the directory; on a network file system they may not, because
the log needs shared memory.
"""

import fcntl
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from worker.core.stream_entry import SpoolPosition
from worker.embedded.data_directory import try_lock
from worker.errors import ConfigurationError, SpoolError
from worker.ingest.spool import spool_database
from worker.ingest.spool.ballast import Ballast
from worker.ingest.spool.spool_database import NAME, InvalidSpool, SpoolStats, spool_errors

SETTING: Final = "CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SpoolRow:
    """A webhook in the spool; `spool` is the identity of the file it was read from."""

    id: int
    fields: bytes
    spool: str

    @property
    def position(self) -> bytes:
        """Identifies the row within its spool, also where ids are assigned again."""
        return f"{self.id}-{spool_database.digest(self.fields)}".encode()


class SpoolFile:
    """The file as one worker uses it; methods block, and must not run concurrently.

    `target` names the stream that the webhooks are for: a directory serves one stream only.
    """

    def __init__(self, directory: Path, max_bytes: int, target: str) -> None:
        self._directory = directory
        self._path = directory / NAME
        self._max_bytes = max_bytes
        self._target = target
        self._users_lock: BinaryIO | None = None
        self._opened: sqlite3.Connection | None = None
        self._inode = (0, 0)
        self._ballast = Ballast(directory, max_bytes)
        self._drained = 0
        self.identity = ""
        """The unique id of the open file; a file that was created anew has another."""

    def open(self) -> str | None:
        """Open the file, and create it if missing; returns the previous target if it changed.

        Raises `ConfigurationError`.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._users_lock = (self._directory / "users.lock").open("ab")
            (self._directory / "drain.lock").touch()
            previous = self._with_ballast(self._join)
        except OSError as error:
            raise ConfigurationError(
                f"{SETTING}={self._directory} cannot be used: {error.strerror}; "
                "name a directory that the worker may write to"
            ) from error
        except (sqlite3.Error, InvalidSpool, SpoolError) as error:
            raise ConfigurationError(
                f"{SETTING}={self._directory}: {self._path} cannot be used: {error}. "
                "It may hold webhooks that nobody else has: move it away, or name another directory"
            ) from error
        self._ballast.keep()
        return previous

    def close(self) -> None:
        """Close the file; its rows stay for the next start."""
        if self._opened is not None:
            self._opened.close()
        if self._users_lock is not None:
            self._users_lock.close()

    def append(self, rows: Sequence[bytes]) -> None:
        """Store all rows durably, or none; raises `SpoolError`."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO webhooks (fields) VALUES (?)", [(row,) for row in rows]
            )

    def probe(self) -> None:
        """Raise `SpoolError` unless another webhook of 64 KiB can be stored now.

        Commits a small row, and compares the free space with that of a webhook.
        """
        with self._transaction() as connection:
            connection.execute("REPLACE INTO facts VALUES ('probed', datetime())")
        with spool_errors():
            spool_database.check_room(self._connection, self._path, self._max_bytes)

    def oldest(self, count: int, max_bytes: int) -> list[SpoolRow]:
        """Return the first rows that wait, up to `count` and `max_bytes`, but at least one."""
        found: list[SpoolRow] = []
        with spool_errors():
            rows = self._connection.execute(
                "SELECT id, fields FROM webhooks WHERE id > ? ORDER BY id LIMIT ?",
                (self._drained, count),
            )
            for row in rows:
                found.append(SpoolRow(row[0], row[1], self.identity))
                max_bytes -= len(row[1])
                if max_bytes <= 0:
                    break
            rows.close()
        return found

    def mark_drained(self, position: SpoolPosition) -> None:
        """Stop returning the rows up to this position, which the stream has; writes nothing.

        Where the stream knows no row of this file, all rows wait again.
        """
        if position.spool == self.identity:
            with spool_errors():
                self._drained = spool_database.find_row(self._connection, position.row)

    def delete_drained(self) -> None:
        """Delete the rows that do not wait, and shrink the file where none is left.

        Raises `SpoolError` where the disk is too full to delete. The ballast is only used when no
        row waits: deleting some of the rows frees no disk space.
        """
        try:
            if self.stats().entries:
                self._delete()
            else:
                self._with_ballast(self._delete)
        finally:
            self._ballast.keep()

    def move_to_end(self, row: SpoolRow) -> None:
        """Move a row behind all others."""

        def move() -> None:
            with self._transaction() as connection:
                connection.execute(
                    "DELETE FROM webhooks WHERE id = ? AND fields = ?", (row.id, row.fields)
                )
                connection.execute("INSERT INTO webhooks (fields) VALUES (?)", (row.fields,))

        self._with_ballast(move)

    def stats(self) -> SpoolStats:
        """Return how much waits and how much is in use."""
        with spool_errors():
            return spool_database.stats(self._connection, self._drained)

    @contextmanager
    def drain_lock(self) -> Iterator[bool]:
        """Yield whether this worker may drain now: of those that share the directory, one may."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._directory / "drain.lock").open("ab") as lock:
            yield try_lock(lock)

    def _with_ballast(self, work: Callable[[], T]) -> T:
        """Do the work; where it fails, release the ballast and try once more."""
        try:
            return work()
        except (sqlite3.OperationalError, SpoolError):
            if not self._ballast.release():
                raise
            return work()

    def _delete(self) -> None:
        with spool_errors():
            ((oldest,),) = self._connection.execute("SELECT min(id) FROM webhooks").fetchall()
        if oldest is not None and oldest <= self._drained:
            try:
                with self._transaction() as connection:
                    spool_database.delete(connection, self._drained)
            finally:
                spool_database.keep_free_pages(self._connection)
        with spool_errors():
            if self.stats().entries == 0:
                spool_database.truncate_log(self._connection, self._path)

    def _join(self) -> str | None:
        """Share the file with other workers; the only one creates it and sets the target."""
        assert self._users_lock  # noqa: S101  (`open` has opened it)
        previous = None
        if try_lock(self._users_lock):
            self._connect()
            previous = self._read_target()
            if previous != self._target:
                with self._transaction():
                    self._write_target()
        fcntl.flock(self._users_lock, fcntl.LOCK_SH)
        if self._opened is None:
            self._connect()
        target = self._read_target()
        if target != self._target:
            raise ConfigurationError(
                f"{SETTING}={self._directory} is in use by a worker of another stream ({target}): "
                "give each installation a directory of its own"
            )
        return None if previous == self._target else previous

    def _connect(self) -> None:
        self._opened = spool_database.connect(self._path, self._max_bytes)
        self._inode = _inode(self._path)
        self.identity = spool_database.identify(self._opened)
        self._drained = 0

    def _write_target(self) -> None:
        self._connection.execute("REPLACE INTO facts VALUES ('target', ?)", (self._target,))

    def _read_target(self) -> str | None:
        row = self._connection.execute("SELECT value FROM facts WHERE name = 'target'").fetchone()
        return None if row is None else str(row[0])

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            raise SpoolError("spool_failed", "the spool is not open")
        return self._opened

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction, which is durable once the block is left."""
        with spool_errors():
            self._recreate_if_removed()
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _recreate_if_removed(self) -> None:
        """Create the file again where it was deleted: rows in the deleted file would be lost."""
        if _inode(self._path) != self._inode:
            self._connection.close()
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connect()
            self._write_target()


def _inode(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return found.st_dev, found.st_ino
