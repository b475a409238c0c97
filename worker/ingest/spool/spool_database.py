"""The SQLite database of the spool: schema, opening, queries and translation of errors."""

import contextlib
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from worker.errors import SpoolError
from worker.ingest.spool.ballast import free_bytes

NAME: Final = "webhooks.sqlite3"

_PAGE_BYTES: Final = 4096
_ROOM_BYTES: Final = 64 * 1024
"""The spool counts as full when less than this is left of its limit."""

_FREE_BYTES: Final = 2 * _ROOM_BYTES
"""What the disk must have free. For a webhook of 64 KiB the write-ahead log takes up to 24 pages
(its own, and those of the table and of the page map), which are 97 KiB with their headers."""

_CHECKPOINT_PAGES: Final = 64
"""The write-ahead log is copied into the database at this many pages, so that it stays small: on
a full disk its space is all there is. Appending takes a seventh longer than with SQLite's 1000."""

_FULL_VACUUM: Final = 1

_LOCK_WAIT_S: Final = 2.0
_NO_ROOM: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
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
class SpoolStats:
    """The webhooks that wait in the spool, and the bytes it uses."""

    entries: int
    used_bytes: int

    def is_full(self, max_bytes: int) -> bool:
        """Say whether the next webhook may not fit."""
        return self.used_bytes + _ROOM_BYTES > max_bytes


class InvalidSpool(Exception):
    """The file is damaged, or another program's; the message says which."""


def connect(path: Path, max_bytes: int) -> sqlite3.Connection:
    """Open the database, and create it if missing; raises `InvalidSpool` and SQLite's errors.

    Write-ahead log, synced at each commit; `max_bytes` bounds the file without the log.
    Deleted rows are not overwritten, which would need as much space again.
    """
    # Messages are private: SQLite gives the files beside it the same mode.
    path.touch(mode=0o600)
    connection = sqlite3.connect(
        path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False
    )
    try:
        _set_up(connection, max_bytes)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, max_bytes: int) -> None:
    is_new = _number(connection, "SELECT count(*) FROM sqlite_master") == 0
    if is_new:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    else:
        _check(connection)
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "secure_delete = FAST",
        f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
        f"journal_size_limit = {_CHECKPOINT_PAGES * _PAGE_BYTES}",
        f"max_page_count = {max_bytes // _PAGE_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    if is_new:
        connection.executescript(_SCHEMA)
    keep_free_pages(connection)


def _check(connection: sqlite3.Connection) -> None:
    if _number(connection, "PRAGMA application_id") != _APPLICATION_ID:
        raise InvalidSpool("it was not written by this program")
    if _number(connection, "PRAGMA user_version") > _VERSION:
        raise InvalidSpool("it was written by a newer version")
    ((result,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if result != "ok":
        raise InvalidSpool(result)


def identify(connection: sqlite3.Connection) -> str:
    """Return the unique id of this spool, which is stored in the file, and created if missing.

    Where a full disk prevents that for a file of an earlier version, the digest of the oldest row
    is the id: while nothing can be stored, that row cannot be deleted either.
    """
    stored = "SELECT value FROM facts WHERE name = 'identity'"
    if (row := connection.execute(stored).fetchone()) is None:
        oldest = connection.execute("SELECT fields FROM webhooks ORDER BY id LIMIT 1").fetchone()
        created = secrets.token_hex(16) if oldest is None else digest(oldest[0])
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("INSERT OR IGNORE INTO facts VALUES ('identity', ?)", (created,))
        row = connection.execute(stored).fetchone() or (created,)
    return str(row[0])


def digest(fields: bytes) -> str:
    """Return a short hash, which tells a row from others that had the same id."""
    return blake2b(fields, digest_size=8).hexdigest()


def find_row(connection: sqlite3.Connection, position: bytes) -> int:
    """Return the id of the row at a position, also of a deleted one; 0 for an unknown position.

    A file that was restored from a copy assigns ids again that later rows had before.
    """
    number, _, expected = position.partition(b"-")
    if not number.isdigit():
        return 0
    row = int(number)
    found = connection.execute("SELECT fields FROM webhooks WHERE id = ?", (row,)).fetchone()
    if found is not None:
        return row if digest(found[0]).encode() == expected else 0
    greatest = _number(connection, "SELECT coalesce(max(seq), 0) FROM sqlite_sequence")
    return row if row <= greatest else 0


def delete(connection: sqlite3.Connection, last: int) -> None:
    """Delete the rows up to this id; in a transaction, and followed by `keep_free_pages`.

    Where no row is left, the file shrinks with the commit, so that the write-ahead log holds only
    the few remaining pages: 16 KiB, however large the file was.
    """
    if _number(connection, "SELECT coalesce(max(id), 0) FROM webhooks") > last:
        connection.execute("DELETE FROM webhooks WHERE id <= ?", (last,))
        return
    connection.execute("DELETE FROM webhooks")
    connection.execute("PRAGMA auto_vacuum = FULL")


def keep_free_pages(connection: sqlite3.Connection) -> None:
    """Let later commits keep free pages in the file again, after `delete` shrank it.

    The setting holds for the connection even where the disk is too full to store it.
    """
    if _number(connection, "PRAGMA auto_vacuum") == _FULL_VACUUM:
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")


def truncate_log(connection: sqlite3.Connection, path: Path) -> None:
    """Copy the write-ahead log into the database and empty it."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def check_room(connection: sqlite3.Connection, path: Path, max_bytes: int) -> None:
    """Raise `SpoolError` unless a webhook of 64 KiB fits into the file and on the disk.

    Free space within the write-ahead log is not counted: the error may come early, never late.
    """
    if stats(connection).is_full(max_bytes) or free_bytes(path.parent) < _FREE_BYTES:
        raise _full()


def stats(connection: sqlite3.Connection, drained: int = 0) -> SpoolStats:
    """Return the stats of a spool; rows up to the id `drained` do not wait."""
    # Rows are added and removed in order, so the ids give their number.
    entries = _number(
        connection,
        "SELECT coalesce(max(0, max(id) - max(min(id) - 1, ?)), 0) FROM webhooks",
        drained,
    )
    pages = _number(connection, "PRAGMA page_count") - _number(connection, "PRAGMA freelist_count")
    return SpoolStats(entries, pages * _PAGE_BYTES)


def read_stats(directory: Path) -> SpoolStats | None:
    """Return the stats of a spool without changing it; None where it cannot be read."""
    uri = f"{(directory / NAME).resolve().as_uri()}?mode=ro"
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(uri, uri=True)) as connection,
    ):
        return stats(connection)
    return None


@contextmanager
def spool_errors() -> Iterator[None]:
    """Translate errors of SQLite and the disk into `SpoolError`."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) in _NO_ROOM:
            raise _full() from error
        raise SpoolError("spool_failed", f"the spool cannot be written: {error}") from error
    except InvalidSpool as error:
        raise SpoolError("spool_failed", f"the spool was replaced: {error}") from error
    except OSError as error:
        raise SpoolError(
            "spool_failed", f"the spool cannot be written: {error.strerror}"
        ) from error


def _full() -> SpoolError:
    return SpoolError(
        "spool_full", "the spool, or its disk, is full; see CHATWOOT_CACHE_WEBHOOK_SPOOL_MAX_BYTES"
    )


def _number(connection: sqlite3.Connection, query: str, *parameters: int) -> int:
    ((number,),) = connection.execute(query, parameters).fetchall()
    return int(number)
