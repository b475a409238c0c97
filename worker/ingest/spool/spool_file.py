"""The file of the spool: an SQLite database that keeps webhooks on the disk, in order.

Write-ahead log with a sync at every commit, so what a returned `append` was given survives
kill -9 and a power cut. Workers of one machine may share the directory, not one on a network:
the log needs shared memory.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from worker.core.stream_entry import SpoolPosition
from worker.embedded.data_directory import try_lock
from worker.errors import ConfigurationError, SpoolError
from worker.ingest.spool import spool_database
from worker.ingest.spool.ballast import Ballast
from worker.ingest.spool.spool_database import NAME, NotASpool, SpoolFigures, figures, spool_errors

SETTING: Final = "CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spooled:
    """One webhook of the spool, as it was given; `id` only tells the order."""

    id: int
    fields: bytes
    spool: str
    """The identity of the spool that it was read from."""

    @property
    def position(self) -> bytes:
        """What tells this row from all others of its spool, also where ids began anew."""
        return f"{self.id}-{spool_database.digest(self.fields)}".encode()


class SpoolFile:
    """One worker's hold on the file; its methods block, and must not run at the same time.

    `target` names the stream that the webhooks are for: two that differ never share a directory.
    """

    def __init__(self, directory: Path, max_bytes: int, target: str) -> None:
        self._directory = directory
        self._path = directory / NAME
        self._max_bytes = max_bytes
        self._target = target
        self._hold: BinaryIO | None = None
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self._ballast = Ballast(directory, max_bytes)
        self._drained = 0
        self.spool = ""
        """What tells the file that is in use from every other; a file made anew is another."""

    def open(self) -> str | None:
        """Open the file, made if need be; returns the target it had before where that was another.

        Raises `ConfigurationError`, which says what to do.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._hold = (self._directory / "users.lock").open("ab")
            (self._directory / "drain.lock").touch()
            former = self._with_room(partial(self._become_user, self._hold))
        except OSError as error:
            raise ConfigurationError(
                f"{SETTING}={self._directory} cannot be used: {error.strerror}; "
                "name a directory that the worker may write to"
            ) from error
        except (sqlite3.Error, NotASpool, SpoolError) as error:
            raise self._unusable(str(error)) from error
        self._ballast.keep()
        return former

    def close(self) -> None:
        """Let go of the file; what it holds stays for the next start."""
        if self._connection is not None:
            self._connection.close()
        if self._hold is not None:
            self._hold.close()

    def append(self, rows: Sequence[bytes]) -> None:
        """Keep all rows, durably, or none; raises `SpoolError`."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO webhooks (fields) VALUES (?)", [(row,) for row in rows]
            )

    def probe(self) -> None:
        """Raise `SpoolError` unless another webhook, of 64 KiB, could be kept now.

        A small commit is tried for real; for the rest, limit and disk are asked what is left.
        """
        with self._transaction() as connection:
            connection.execute("REPLACE INTO facts VALUES ('probed', datetime())")
        with spool_errors():
            spool_database.check_room(self._at_hand(), self._path, self._max_bytes)

    def oldest(self, count: int, max_bytes: int) -> list[Spooled]:
        """Return the first rows that wait: at most `count`, and `max_bytes` unless it is one."""
        found: list[Spooled] = []
        with spool_errors():
            rows = self._at_hand().execute(
                "SELECT id, fields FROM webhooks WHERE id > ? ORDER BY id LIMIT ?",
                (self._drained, count),
            )
            for row in rows:
                found.append(Spooled(row[0], row[1], self.spool))
                max_bytes -= len(row[1])
                if max_bytes <= 0:
                    break
            rows.close()
        return found

    def mark_drained(self, position: SpoolPosition) -> None:
        """Learn up to which row the stream has them: those do not wait, deleted or not.

        The stream's word stands: where it knows no row of this file, all of them wait.
        """
        if position.spool == self.spool:
            with spool_errors():
                self._drained = spool_database.locate(self._at_hand(), position.row)

    def clean(self) -> None:
        """Delete the rows that do not wait, and give the disk what became free.

        Raises `SpoolError` where the disk is so full that nothing can be deleted. While rows wait,
        the ballast is left alone: deleting part of them frees no room on the disk.
        """
        try:
            if self.figures().entries:
                self._delete()
            else:
                self._with_room(self._delete)
        finally:
            self._ballast.keep()

    def postpone(self, row: Spooled) -> None:
        """Put a row behind all others."""
        self._with_room(partial(self._postpone, row))

    def figures(self) -> SpoolFigures:
        """Say how much is in use; rows go in at one end and out at the other, so ids count them."""
        with spool_errors():
            return figures(self._at_hand(), self._drained)

    @contextmanager
    def draining(self) -> Iterator[bool]:
        """Say whether this worker may drain now: one at a time does."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._directory / "drain.lock").open("ab") as lock:
            yield try_lock(lock)

    def _with_room(self, work: Callable[[], T]) -> T:
        """Do some work; where it fails, once more with the room of the ballast."""
        try:
            return work()
        except (sqlite3.OperationalError, SpoolError):
            if not self._ballast.release():
                raise
            return work()

    def _delete(self) -> None:
        with spool_errors():
            ((oldest,),) = self._at_hand().execute("SELECT min(id) FROM webhooks").fetchall()
        if oldest is not None and oldest <= self._drained:
            self._delete_drained()
        with spool_errors():
            if self.figures().entries == 0 and spool_database.journal_bytes(self._path):
                self._at_hand().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _delete_drained(self) -> None:
        try:
            with self._transaction() as connection:
                spool_database.delete(connection, self._drained)
        finally:
            spool_database.keep_free_pages(self._at_hand())

    def _postpone(self, row: Spooled) -> None:
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM webhooks WHERE id = ? AND fields = ?", (row.id, row.fields)
            )
            connection.execute("INSERT INTO webhooks (fields) VALUES (?)", (row.fields,))

    def _become_user(self, hold: BinaryIO) -> str | None:
        """Be one of those who use the file; who is alone makes it, and says what it is for."""
        former = None
        if try_lock(hold):
            self._connect()
            former = self._retarget()
        fcntl.flock(hold, fcntl.LOCK_SH)
        if self._connection is None:
            self._connect()
        there = self._read_target()
        if there != self._target:
            raise ConfigurationError(
                f"{SETTING}={self._directory} is in use by a worker of another stream ({there}): "
                "give each installation a directory of its own"
            )
        return former

    def _connect(self) -> None:
        self._connection = spool_database.connect(self._path, self._max_bytes)
        self._identity = _identity(self._path)
        self.spool = spool_database.identify(self._connection)
        self._drained = 0

    def _retarget(self) -> str | None:
        former = self._read_target()
        if former == self._target:
            return None
        with self._transaction() as connection:
            connection.execute("REPLACE INTO facts VALUES ('target', ?)", (self._target,))
        return former

    def _read_target(self) -> str | None:
        row = self._at_hand().execute("SELECT value FROM facts WHERE name = 'target'").fetchone()
        return None if row is None else str(row[0])

    def _unusable(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"{SETTING}={self._directory}: {self._path} cannot be used: {why}. "
            "It may hold webhooks that nobody else has: move it away, or name another directory"
        )

    def _at_hand(self) -> sqlite3.Connection:
        if self._connection is None:
            raise SpoolError("spool_failed", "the spool is not open")
        return self._connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction, on the disk once the block is left."""
        with spool_errors():
            self._come_back()
            connection = self._at_hand()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _come_back(self) -> None:
        """Make the file anew where somebody removed it: nobody would find what goes there."""
        if _identity(self._path) != self._identity:
            self._at_hand().close()
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connect()
            self._at_hand().execute("REPLACE INTO facts VALUES ('target', ?)", (self._target,))


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116  (told apart from a missing one by the next line)
    except FileNotFoundError:
        return (0, 0)
    return found.st_dev, found.st_ino
