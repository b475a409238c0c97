"""The database of the spool: its tables, how it is opened and checked, what its errors mean."""

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.errors import SpoolError

NAME: Final = "webhooks.sqlite3"

_PAGE_BYTES: Final = 4096
_ROOM_BYTES: Final = 64 * 1024
"""What must be free for the spool not to count as full."""

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
    connection.execute(f"PRAGMA max_page_count = {max_bytes // _PAGE_BYTES}").fetchall()
    if is_new:
        connection.executescript(_SCHEMA)


def _check(connection: sqlite3.Connection) -> None:
    if _number(connection, "PRAGMA application_id") != _APPLICATION_ID:
        raise NotASpool("it was not written by this program")
    if _number(connection, "PRAGMA user_version") > _VERSION:
        raise NotASpool("it was written by a newer version")
    ((said,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if said != "ok":
        raise NotASpool(said)


def figures(connection: sqlite3.Connection) -> SpoolFigures:
    """Say how much a spool holds."""
    entries = _number(connection, "SELECT coalesce(max(id) - min(id) + 1, 0) FROM webhooks")
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
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
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


def _number(connection: sqlite3.Connection, query: str) -> int:
    ((number,),) = connection.execute(query).fetchall()
    return int(number)
