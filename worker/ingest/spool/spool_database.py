"""The database of the spool: its tables, how it is opened and checked, what its errors mean."""

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
"""What must be free for the spool not to count as full."""

_FREE_BYTES: Final = 2 * _ROOM_BYTES
"""What the disk must have free. The journal takes up to 24 pages for a webhook of 64 KiB (its own,
and those of the table and of the map of pages), which are 97 KiB with their headers."""

_JOURNAL_PAGES: Final = 64
"""The journal is copied into the database when it has this many pages, so that it stays small: on
a full disk its room is all there is. Appending costs a seventh more than with SQLite's 1000."""

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
class SpoolFigures:
    """How much waits in the spool."""

    entries: int
    used_bytes: int

    def is_full(self, max_bytes: int) -> bool:
        """Say whether the next webhook may find no room."""
        return self.used_bytes + _ROOM_BYTES > max_bytes


class NotASpool(Exception):
    """The file is not ours, or not whole; the message says which."""


def connect(path: Path, max_bytes: int) -> sqlite3.Connection:
    """Open the database, made if need be; raises `NotASpool` and SQLite's errors.

    Journal in front (WAL), synced at each commit; no larger than `max_bytes`, journal aside.
    Rows are deleted without overwriting their pages, which would need as much room again.
    """
    # It holds people's messages: for our user alone, as are the files SQLite puts beside it.
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
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = FAST").fetchall()
    connection.execute(f"PRAGMA wal_autocheckpoint = {_JOURNAL_PAGES}").fetchall()
    connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_PAGES * _PAGE_BYTES}").fetchall()
    connection.execute(f"PRAGMA max_page_count = {max_bytes // _PAGE_BYTES}").fetchall()
    if is_new:
        connection.executescript(_SCHEMA)
    keep_free_pages(connection)


def _check(connection: sqlite3.Connection) -> None:
    if _number(connection, "PRAGMA application_id") != _APPLICATION_ID:
        raise NotASpool("it was not written by this program")
    if _number(connection, "PRAGMA user_version") > _VERSION:
        raise NotASpool("it was written by a newer version")
    ((said,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if said != "ok":
        raise NotASpool(said)


def identify(connection: sqlite3.Connection) -> str:
    """Return what tells this spool from every other: it is stored in the file, made if need be.

    Where a full disk refuses that to a file of an earlier version, the oldest row stands in for it:
    while nothing can be stored, no row can be deleted either.
    """
    stored = "SELECT value FROM facts WHERE name = 'identity'"
    if (row := connection.execute(stored).fetchone()) is None:
        oldest = connection.execute("SELECT fields FROM webhooks ORDER BY id LIMIT 1").fetchone()
        made = secrets.token_hex(16) if oldest is None else digest(oldest[0])
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("INSERT OR IGNORE INTO facts VALUES ('identity', ?)", (made,))
        row = connection.execute(stored).fetchone() or (made,)
    return str(row[0])


def digest(fields: bytes) -> str:
    """Return what tells a row from others that had its id in another life of the file."""
    return blake2b(fields, digest_size=8).hexdigest()


def locate(connection: sqlite3.Connection, position: bytes) -> int:
    """Return the id of the row that a position names, which may be deleted; 0 for a foreign one.

    A file that was put back from a copy gives ids again that a later row had before.
    """
    number, _, expected = position.partition(b"-")
    if not number.isdigit():
        return 0
    row = int(number)
    found = connection.execute("SELECT fields FROM webhooks WHERE id = ?", (row,)).fetchone()
    if found is not None:
        return row if digest(found[0]).encode() == expected else 0
    given = _number(connection, "SELECT coalesce(max(seq), 0) FROM sqlite_sequence")
    return row if row <= given else 0


def delete(connection: sqlite3.Connection, last: int) -> None:
    """Delete the rows up to this id; within a transaction, and followed by `keep_free_pages`.

    Where these are all, the file shrinks with the commit, so that the journal holds no page but
    the few that are left: 16 KiB, however large the file is.
    """
    if _number(connection, "SELECT coalesce(max(id), 0) FROM webhooks") > last:
        connection.execute("DELETE FROM webhooks WHERE id <= ?", (last,))
        return
    connection.execute("DELETE FROM webhooks")
    connection.execute("PRAGMA auto_vacuum = FULL")


def keep_free_pages(connection: sqlite3.Connection) -> None:
    """Let commits keep pages that became free, as they do unless the spool is emptied.

    The connection learns it even where the disk is too full to store it.
    """
    if _number(connection, "PRAGMA auto_vacuum") == _FULL_VACUUM:
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")


def journal_bytes(path: Path) -> int:
    """Return the size of the journal beside the database."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size
    except FileNotFoundError:
        return 0


def check_room(connection: sqlite3.Connection, path: Path, max_bytes: int) -> None:
    """Raise `SpoolError` unless a webhook of 64 KiB would fit into the file and on the disk.

    Room that the journal's file has left is not counted: this may say so early, never late.
    """
    if figures(connection).is_full(max_bytes) or free_bytes(path.parent) < _FREE_BYTES:
        raise full()


def figures(connection: sqlite3.Connection, drained: int = 0) -> SpoolFigures:
    """Say how much a spool holds; rows up to the id `drained` are on the stream already."""
    entries = _number(
        connection,
        "SELECT coalesce(max(0, max(id) - max(min(id) - 1, ?)), 0) FROM webhooks",
        drained,
    )
    pages = _number(connection, "PRAGMA page_count") - _number(connection, "PRAGMA freelist_count")
    return SpoolFigures(entries, pages * _PAGE_BYTES)


def read_figures(directory: Path) -> SpoolFigures | None:
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
def spool_errors() -> Iterator[None]:
    """Turn SQLite's errors, and the disk's, into ours."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) in _NO_ROOM:
            raise full() from error
        raise SpoolError("spool_failed", f"the spool cannot be written: {error}") from error
    except NotASpool as error:
        raise SpoolError("spool_failed", f"the spool was replaced: {error}") from error
    except OSError as error:
        raise SpoolError(
            "spool_failed", f"the spool cannot be written: {error.strerror}"
        ) from error


def full() -> SpoolError:
    """Return what to raise where no other webhook fits."""
    return SpoolError(
        "spool_full", "the spool, or its disk, is full; see CHATWOOT_CACHE_WEBHOOK_SPOOL_MAX_BYTES"
    )


def _number(connection: sqlite3.Connection, query: str, *parameters: int) -> int:
    ((number,),) = connection.execute(query, parameters).fetchall()
    return int(number)
