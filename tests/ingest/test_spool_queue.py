"""The spool survives kill -9, reports what it cannot store, and serves one stream only."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from itertools import count
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from tests.disks import KIB, MIB, fill, free_bytes, small_disk
from worker.core.stream_entry import SpoolPosition
from worker.errors import ConfigurationError, SpoolError
from worker.ingest.spool.spool_database import NAME, read_stats
from worker.ingest.spool.spool_file import SpoolFile, SpoolRow
from worker.ingest.spool.spool_queue import SpoolQueue, decode


@contextmanager
def opened(
    directory: Path, *, max_bytes: int = MIB, target: str = "events on a"
) -> Iterator[SpoolFile]:
    file = SpoolFile(directory, max_bytes, target)
    try:
        file.open()
        yield file
    finally:
        file.close()


@asynccontextmanager
async def running(directory: Path, *, max_bytes: int = MIB) -> AsyncIterator[SpoolQueue]:
    spool = SpoolQueue(SpoolFile(directory, max_bytes, "events on a"))
    try:
        await spool.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(spool.run)
            yield spool
            tasks.cancel_scope.cancel()
    finally:
        spool.close()


async def drop(spool: SpoolQueue, last: SpoolRow) -> None:
    await spool.call(SpoolFile.mark_drained, SpoolPosition(last.spool, last.position))
    await spool.call(SpoolFile.delete_drained)


async def test_events_are_read_in_order_after_a_restart(tmp_path: Path) -> None:
    events = [{"payload": b"\x00\xff%d" % n, "_id": b"1-%d" % n} for n in range(5)]
    async with running(tmp_path / "made" / "here") as spool:
        for event in events:
            await spool.add(event)

    async with running(tmp_path / "made" / "here") as spool:
        found = await spool.call(SpoolFile.oldest, 100, 10**9)
        assert [decode(row) for row in found] == events
        await drop(spool, found[2])
        assert [decode(row) for row in await spool.call(SpoolFile.oldest, 1, 10**9)] == events[3:4]
        assert (await spool.call(SpoolFile.stats)).entries == 2


async def test_concurrent_events_share_commits(tmp_path: Path) -> None:
    async with running(tmp_path, max_bytes=64 * MIB) as spool:
        async with anyio.create_task_group() as tasks:
            for n in range(2000):
                tasks.start_soon(spool.add, {"payload": b"%d" % n})

        kept = [decode(row)["payload"] for row in await spool.call(SpoolFile.oldest, 5000, 10**9)]
        assert sorted(kept, key=int) == [b"%d" % n for n in range(2000)]


KEEPER = """
import sys
from pathlib import Path
from worker.ingest.spool.spool_file import SpoolFile

file = SpoolFile(Path(sys.argv[1]), 64 * 1024 * 1024, "events on a")
file.open()
for n in range(1_000_000):
    file.append([b"%d" % n])
    print(n, flush=True)
"""


def test_committed_events_survive_kill_9(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KEEPER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        for line in keeper.stdout:
            if int(line) >= 300:
                break
        keeper.send_signal(signal.SIGKILL)
        last = int(([line, *keeper.stdout])[-1])

    with opened(tmp_path) as file:
        kept = [int(row.fields) for row in file.oldest(10**6, 10**9)]
        # It may have died between a commit and saying so, never the other way round.
        assert kept in ([*range(last + 1)], [*range(last + 2)])


async def test_a_full_spool_reports_it_and_stores_what_still_fits(tmp_path: Path) -> None:
    async with running(tmp_path, max_bytes=MIB) as spool:
        await spool.probe()
        for _ in range(10):
            await spool.add({"payload": b"x" * 97_000})
        with pytest.raises(SpoolError, match="CHATWOOT_CACHE_WEBHOOK_SPOOL_MAX_BYTES") as full:
            await spool.add({"payload": b"x" * 200_000})
        assert full.value.reason == "spool_full"
        with pytest.raises(SpoolError):
            await spool.probe()
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * MIB

        outcomes: list[str] = []

        async def add(size: int) -> None:
            try:
                await spool.add({"payload": b"x" * size})
            except SpoolError as error:
                outcomes.append(error.reason)
            else:
                outcomes.append("kept")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(add, 500_000)
            tasks.start_soon(add, 10)
        assert sorted(outcomes) == ["kept", "spool_full"]

        await drop(spool, (await spool.call(SpoolFile.oldest, 99, 10**9))[-1])
        await spool.probe()
        await spool.add({"payload": b"x" * 100_000})


async def test_an_empty_spool_shrinks(tmp_path: Path) -> None:
    async with running(tmp_path, max_bytes=8 * MIB) as spool:
        await spool.add({"payload": b"x" * 4 * MIB})
        (row,) = await spool.call(SpoolFile.oldest, 9, 10**9)
        await drop(spool, row)

        assert (await spool.call(SpoolFile.stats)).entries == 0
        sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        assert sizes.pop("ballast") == 256 * KIB
        assert sum(sizes.values()) < 100_000


async def test_a_cancelled_caller_leaves_nothing_in_memory(tmp_path: Path) -> None:
    """Another process has locked the file, so requests time out."""
    async with running(tmp_path) as spool:
        held = sqlite3.connect(tmp_path / NAME, isolation_level=None)
        held.execute("BEGIN IMMEDIATE")
        for _ in range(5):
            with anyio.move_on_after(0.05) as scope:
                await spool.add({"payload": b"{}"})
            assert scope.cancelled_caught
        assert spool._appends == []
        held.close()
        await spool.add({"payload": b"last"})
        assert decode((await spool.call(SpoolFile.oldest, 9, 10**9))[-1]) == {"payload": b"last"}


async def test_a_deleted_file_is_created_again(tmp_path: Path) -> None:
    """Rows in the deleted file would be lost with the process."""
    async with running(tmp_path) as spool:
        await spool.add({"payload": b"first"})
        for path in tmp_path.iterdir():
            path.unlink()
        await spool.add({"payload": b"second"})
    async with running(tmp_path) as spool:
        assert [decode(row) for row in await spool.call(SpoolFile.oldest, 9, 10**9)] == [
            {"payload": b"second"}
        ]


async def test_a_replaced_file_is_an_error_and_no_crash(tmp_path: Path) -> None:
    async with running(tmp_path) as spool:
        for path in tmp_path.iterdir():
            path.unlink()
        foreign(tmp_path / NAME)
        with pytest.raises(SpoolError, match="it was not written by this program") as error:
            await spool.add({"payload": b"{}"})
        assert error.value.reason == "spool_failed"

        (tmp_path / NAME).unlink()
        await spool.add({"payload": b"{}"})
        assert (await spool.call(SpoolFile.stats)).entries == 1


def test_two_workers_share_a_directory(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        one.append([b"1"])
        other.append([b"2"])
        assert [row.fields for row in one.oldest(9, 99)] == [b"1", b"2"]
        with one.drain_lock() as first, other.drain_lock() as second:
            assert (first, second) == (True, False)
        with other.drain_lock() as is_ours:
            assert is_ours


def test_an_event_can_be_moved_to_the_end(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.append([b"1", b"2"])
        file.move_to_end(file.oldest(1, 99)[0])
        assert [row.fields for row in file.oldest(9, 99)] == [b"2", b"1"]


def test_workers_of_two_streams_do_not_share_a_directory(tmp_path: Path) -> None:
    with opened(tmp_path, target="events on a"):
        with (
            pytest.raises(ConfigurationError, match=r"SPOOL_DIR=.* \(events on a\): give each"),
            opened(tmp_path, target="events on b"),
        ):
            pass
        with opened(tmp_path, target="events on a"):
            pass


async def test_a_directory_without_workers_accepts_a_new_stream(tmp_path: Path) -> None:
    """Redis was replaced: waiting events go to the new one, and a warning is logged."""
    with opened(tmp_path, target="events on the server that died") as file:
        file.append([b"1"])
    with capture_logs() as logs:
        async with running(tmp_path) as spool:
            assert (await spool.call(SpoolFile.stats)).entries == 1
    assert [(line["event"], line["previous"]) for line in logs] == [
        ("spool.target_changed", "events on the server that died")
    ]


def corrupt(path: Path) -> None:
    path.write_bytes(b"not a database, but a letter to mother. " * 200)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()


def newer(path: Path) -> None:
    with opened(path.parent):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def torn(path: Path) -> None:
    with opened(path.parent) as file:
        file.append([b"x" * 50_000])
    with path.open("r+b") as file_on_disk:
        file_on_disk.seek(4096)
        file_on_disk.write(b"\xff" * 8192)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (corrupt, "file is not a database"),
        (foreign, "it was not written by this program"),
        (newer, "it was written by a newer version"),
        (torn, ""),
    ],
)
def test_an_invalid_file_is_a_configuration_error_with_advice(
    tmp_path: Path, make: object, says: str
) -> None:
    assert callable(make)
    make(tmp_path / NAME)
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(ConfigurationError) as error, opened(tmp_path):
        pass
    assert str(error.value).startswith(f"CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR={tmp_path}: ")
    assert says in str(error.value)
    assert str(error.value).endswith("move it away, or name another directory")
    assert (tmp_path / NAME).read_bytes() == before


def test_a_directory_that_cannot_be_created_is_a_configuration_error_with_advice(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            ConfigurationError, match="Not a directory; name a directory that the worker"
        ),
        opened(tmp_path / "file" / "spool"),
    ):
        pass


def test_only_our_user_can_read_it(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as file:
        file.append([b"1"])
        assert (tmp_path / "spool").stat().st_mode & 0o077 == 0
        databases = [p for p in (tmp_path / "spool").iterdir() if NAME in p.name]
        assert len(databases) == 3
        assert [p.name for p in databases if p.stat().st_mode & 0o077] == []


def test_stats_are_read_without_opening_the_spool(tmp_path: Path) -> None:
    assert read_stats(tmp_path) is None
    with opened(tmp_path) as file:
        file.append([b"1", b"2"])
        found = read_stats(tmp_path)
        assert found is not None
        assert found.entries == 2
        assert found.used_bytes > 0
    corrupt(tmp_path / "other")
    assert read_stats(tmp_path / "other") is None


def append_until_full(file: SpoolFile, *, of_bytes: int = 3000) -> int:
    """Append webhooks until the spool is full; returns how many."""
    for kept in count():
        try:
            file.append([os.urandom(of_bytes)])
        except SpoolError as error:
            return kept if error.reason == "spool_full" else 0
    raise AssertionError


def mark_all(file: SpoolFile) -> None:
    """Mark all rows as drained."""
    row = file.oldest(10**6, 10**9)[-1]
    file.mark_drained(SpoolPosition(row.spool, row.position))


@pytest.mark.parametrize("disk_bytes", [3 * MIB, 8 * MIB])
def test_a_spool_on_a_full_disk_is_emptied_with_the_ballast(
    tmp_path: Path, disk_bytes: int
) -> None:
    """SQLite needs space to delete; the file shrinks in the same commit, however large it was."""
    with small_disk(tmp_path, disk_bytes) as disk, opened(disk, max_bytes=256 * MIB) as file:
        kept = append_until_full(file)
        assert free_bytes(disk) < 16 * KIB
        with pytest.raises(SpoolError, match="or its disk, is full"):
            file.probe()
        mark_all(file)
        assert file.stats().entries == 0
        file.delete_drained()

        assert free_bytes(disk) > disk_bytes - 400 * KIB
        assert (disk / "ballast").stat().st_blocks * 512 == 256 * KIB
        assert append_until_full(file) >= kept * 0.95


def test_drained_rows_that_cannot_be_deleted_are_not_read_again(tmp_path: Path) -> None:
    """Another program has taken even the ballast's space."""
    with small_disk(tmp_path, 3 * MIB) as disk, opened(disk, max_bytes=256 * MIB) as file:
        kept = append_until_full(file)
        (disk / "ballast").unlink()
        other = fill(disk)
        rows = file.oldest(kept, 10**9)
        file.mark_drained(SpoolPosition(rows[-2].spool, rows[-2].position))
        with pytest.raises(SpoolError, match="or its disk, is full"):
            file.delete_drained()
        assert file.oldest(9, 10**9) == [rows[-1]]
        assert file.stats().entries == 1

        other.unlink()
        file.delete_drained()
        mark_all(file)
        file.delete_drained()
        assert file.stats().used_bytes < 64 * KIB
        assert (disk / "ballast").exists()


def test_a_row_can_be_moved_to_the_end_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path, 3 * MIB) as disk, opened(disk, max_bytes=256 * MIB) as file:
        kept = append_until_full(file, of_bytes=30_000)
        (first, second, *_) = file.oldest(9, 10**9)
        file.move_to_end(first)
        assert file.oldest(1, 1) == [second]
        assert file.oldest(kept, 10**9)[-1].fields == first.fields


def test_a_spool_can_be_opened_on_a_full_disk(tmp_path: Path) -> None:
    """Opening creates shared memory on the disk, whose space another program may have taken."""
    with small_disk(tmp_path, 3 * MIB) as disk:
        with opened(disk) as file:
            file.append([b"1"])
        fill(disk)
        with opened(disk) as file:
            assert [row.fields for row in file.oldest(9, 99)] == [b"1"]


def test_the_probe_requires_space_for_a_webhook_of_64_kib(tmp_path: Path) -> None:
    with small_disk(tmp_path, 3 * MIB) as disk, opened(disk, max_bytes=256 * MIB) as file:
        other = fill(disk, but_bytes=100 * KIB)
        file.append([b"small"])
        with pytest.raises(SpoolError, match="or its disk, is full"):
            file.probe()

        os.truncate(other, other.stat().st_size - 100 * KIB)
        file.probe()
        file.append([b"x" * 64 * KIB])
        with pytest.raises(SpoolError):
            file.append([b"x" * 200 * KIB])


def test_a_ballast_leaves_space_for_a_webhook_and_is_a_fraction_of_a_small_limit(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path, 3 * MIB) as disk:
        other = fill(disk, but_bytes=300 * KIB)
        with opened(disk, max_bytes=256 * MIB) as file:
            assert not (disk / "ballast").exists()
            other.unlink()
            file.delete_drained()
            assert (disk / "ballast").stat().st_size == 256 * KIB
    with opened(tmp_path / "small", max_bytes=MIB):
        assert (tmp_path / "small" / "ballast").stat().st_size == 64 * KIB
        assert (tmp_path / "small" / "ballast").stat().st_mode & 0o077 == 0


def test_a_position_is_valid_in_its_own_file_only(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        file.append([b"1", b"2", b"3"])
        row = file.oldest(9, 99)[1]
        for foreign in (
            SpoolPosition("another", row.position),
            SpoolPosition(file.identity, b"2-0123456789abcdef"),
            SpoolPosition(file.identity, b"9" + row.position[1:]),
            SpoolPosition(file.identity, b"what nobody wrote"),
        ):
            file.mark_drained(foreign)
            assert file.stats().entries == 3
        file.mark_drained(SpoolPosition(row.spool, row.position))
        assert file.stats().entries == 1
        file.delete_drained()
        file.mark_drained(SpoolPosition(row.spool, row.position))
        assert [row.fields for row in file.oldest(9, 99)] == [b"3"]
        # The stream has lost its record.
        file.mark_drained(SpoolPosition(file.identity))
        assert file.stats().entries == 1


def test_each_file_has_a_persistent_identity(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        first = file.identity
    with opened(tmp_path) as file, opened(tmp_path) as other:
        assert file.identity == other.identity == first
        for path in tmp_path.glob(f"{NAME}*"):
            path.unlink()
        file.append([b"1"])
        assert file.identity != first


def test_a_file_of_an_earlier_version_has_an_identity_even_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path, 3 * MIB) as disk:
        with opened(disk) as file:
            file.append([b"1", b"2"])
        with closing(sqlite3.connect(disk / NAME, isolation_level=None)) as holder:
            holder.execute("DELETE FROM facts WHERE name = 'identity'")
            holder.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            (disk / "ballast").unlink()
            other = fill(disk)
            with opened(disk) as file:
                first = file.identity
                assert len(first) == 16
            with opened(disk) as file:
                assert file.identity == first
            other.unlink()
        with opened(disk) as file, opened(disk) as again:
            assert file.identity == again.identity == first
