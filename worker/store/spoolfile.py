"""The file of the spool: an SQLite database that keeps webhooks on the disk, in order.

Write-ahead log with a sync at every commit, so what a returned `append` was given survives
kill -9 and a power cut. Workers of one machine may share the directory, not one on a network:
the log needs shared memory.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from worker.errors import Misconfigured, Unspooled
from worker.store.home import locked, opened

SETTING: Final = "CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR"
NAME: Final = "webhooks.sqlite3"

_PAGE_BYTES: Final = 4096
_ROOM_BYTES: Final = 16 * _PAGE_BYTES
_LOCK_WAIT_S: Final = 2.0
_APPLICATION_ID: Final = 0x43574353
_VERSION: Final = 1

_SCHEMA: Final = f"""
    BEGIN IMMEDIATE;
    CREATE TABLE webhooks (id INTEGER PRIMARY KEY AUTOINCREMENT, fields BLOB NOT NULL);
    CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    PRAGMA application_id = {_APPLICATION_ID};
    PRAGMA user_version = {_VERSION};
    COMMIT;
"""


@dataclass(frozen=True, slots=True)
class Spooled:
    """One webhook of the spool, as it was given; `id` only tells the order."""

    id: int
    fields: bytes


@dataclass(frozen=True, slots=True)
class SpoolFigures:
    """How much waits in the spool."""

    entries: int
    used_bytes: int


class SpoolFile:
    """One worker's hold on the file; its methods block, and must not run at the same time.

    `target` names the stream that the webhooks are for: two that differ never share a directory.
    """

    def __init__(self, directory: Path, max_bytes: int, target: str) -> None:
        self._directory = directory
        self._path = directory / NAME
        self._max_pages = max_bytes // _PAGE_BYTES
        self._target = target
        self._hold: BinaryIO | None = None
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)

    def open(self) -> str | None:
        """Open the file, made if need be; returns the target it had before where that was another.

        Raises `Misconfigured`, which says what to do.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._hold = (self._directory / "users.lock").open("ab")
            former = self._become_user(self._hold)
        except OSError as error:
            raise Misconfigured(
                f"{SETTING}={self._directory} cannot be used: {error.strerror}; "
                "name a directory that the worker may write to"
            ) from error
        except sqlite3.Error as error:
            raise self._unusable(str(error)) from error
        except Unspooled as error:
            raise self._unusable(str(error)) from error
        return former

    def close(self) -> None:
        """Let go of the file; what it holds stays for the next start."""
        if self._connection is not None:
            self._connection.close()
        if self._hold is not None:
            self._hold.close()

    def append(self, rows: Sequence[bytes]) -> None:
        """Keep all rows, durably, or none; raises `Unspooled`."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO webhooks (fields) VALUES (?)", [(row,) for row in rows]
            )

    def probe(self) -> None:
        """Raise `Unspooled` unless another webhook could be kept now; tried by a real commit."""
        if self.figures().used_bytes + _ROOM_BYTES > self._max_pages * _PAGE_BYTES:
            raise _full()
        with self._transaction() as connection:
            connection.execute("REPLACE INTO facts VALUES ('probed', datetime())")

    def oldest(self, count: int, max_bytes: int) -> list[Spooled]:
        """Return the rows that came first: at most `count`, and `max_bytes` unless it is one."""
        found: list[Spooled] = []
        with _told():
            rows = self._at_hand().execute(
                "SELECT id, fields FROM webhooks ORDER BY id LIMIT ?", (count,)
            )
            for row in rows:
                found.append(Spooled(*row))
                max_bytes -= len(row[1])
                if max_bytes <= 0:
                    break
            rows.close()
        return found

    def drop(self, last: int) -> None:
        """Forget every row up to this id, and give the disk what became free."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM webhooks WHERE id <= ?", (last,))
        with _told():
            if self.figures().entries == 0:
                # As a script: `execute` would let go after the first page.
                self._at_hand().executescript(
                    "PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)"
                )

    def postpone(self, row: Spooled) -> None:
        """Put a row behind all others."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM webhooks WHERE id = ?", (row.id,))
            connection.execute("INSERT INTO webhooks (fields) VALUES (?)", (row.fields,))

    def figures(self) -> SpoolFigures:
        """Say how much is in use; rows go in at one end and out at the other, so ids count them."""
        with _told():
            return figures(self._at_hand())

    @contextmanager
    def draining(self) -> Iterator[bool]:
        """Say whether this worker may drain now: one at a time does."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with opened(self._directory / "drain.lock") as lock:
            yield locked(lock)

    def _become_user(self, hold: BinaryIO) -> str | None:
        """Be one of those who use the file; who is alone makes it, and says what it is for."""
        former = None
        if locked(hold):
            self._connect()
            former = self._retarget()
        fcntl.flock(hold, fcntl.LOCK_SH)
        if self._connection is None:
            self._connect()
        there = self._read_target()
        if there != self._target:
            raise Misconfigured(
                f"{SETTING}={self._directory} is in use by a worker of another stream ({there}): "
                "give each installation a directory of its own"
            )
        return former

    def _connect(self) -> None:
        # It holds people's messages: for our user alone, as are the files SQLite puts beside it.
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(
            self._path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._identity = _identity(self._path)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        is_new = _number(connection, "SELECT count(*) FROM sqlite_master") == 0
        if is_new:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        else:
            self._check(connection)
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA max_page_count = {self._max_pages}").fetchall()
        if is_new:
            connection.executescript(_SCHEMA)

    def _check(self, connection: sqlite3.Connection) -> None:
        """Refuse what is not ours, or not whole."""
        if _number(connection, "PRAGMA application_id") != _APPLICATION_ID:
            raise self._unusable("it was not written by this program")
        if _number(connection, "PRAGMA user_version") > _VERSION:
            raise self._unusable("it was written by a newer version")
        ((said,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
        if said != "ok":
            raise self._unusable(said)

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

    def _unusable(self, why: str) -> Misconfigured:
        return Misconfigured(
            f"{SETTING}={self._directory}: {self._path} cannot be used: {why}. "
            "It may hold webhooks that nobody else has: move it away, or name another directory"
        )

    def _at_hand(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Unspooled("spool_failed", "the spool is not open")
        return self._connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction, on the disk once the block is left."""
        with _told():
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


def figures(connection: sqlite3.Connection) -> SpoolFigures:
    """Say how much a spool holds."""
    entries = _number(connection, "SELECT coalesce(max(id) - min(id) + 1, 0) FROM webhooks")
    pages = _number(connection, "PRAGMA page_count") - _number(connection, "PRAGMA freelist_count")
    return SpoolFigures(entries, pages * _PAGE_BYTES)


def look(directory: Path) -> SpoolFigures | None:
    """Say how much a spool holds without using it; None where there is none to read."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(
            sqlite3.connect(f"{(directory / NAME).resolve().as_uri()}?mode=ro", uri=True)
        ) as connection,
    ):
        return figures(connection)
    return None


@contextmanager
def _told() -> Iterator[None]:
    """Turn SQLite's errors, and the disk's, into ours."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise _full() from error
        raise Unspooled("spool_failed", f"the spool cannot be written: {error}") from error
    except OSError as error:
        raise Unspooled("spool_failed", f"the spool cannot be written: {error.strerror}") from error


def _full() -> Unspooled:
    return Unspooled(
        "spool_full", "the spool, or its disk, is full; see CHATWOOT_CACHE_WEBHOOK_SPOOL_MAX_BYTES"
    )


def _number(connection: sqlite3.Connection, query: str) -> int:
    ((number,),) = connection.execute(query).fetchall()
    return int(number)


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116  (told apart from a missing one by the next line)
    except FileNotFoundError:
        return (0, 0)
    return found.st_dev, found.st_ino
