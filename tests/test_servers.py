"""The tests' own servers and waits do what other tests trust them to do."""

import os
from pathlib import Path

import anyio
import pytest
import redis.asyncio

from tests.servers import Result, Server, ServerFailedError, counts, outcome_on, reported
from tests.waiting import wait_until


async def test_the_shared_server_answers(client: redis.asyncio.Redis, prefix: str) -> None:
    await client.set(prefix, b"1", ex=60)

    assert await client.get(prefix) == b"1"


def test_an_append_only_server_keeps_its_keys_over_a_restart(server_binary: Path) -> None:
    with Server(server_binary, "--appendonly", "yes", "--appendfsync", "always") as server:
        with redis.Redis.from_url(server.uri) as client:
            client.set("kept", "yes", ex=60)
        server.kill()
        server.start()
        server.restart()
        with redis.Redis.from_url(server.unix_uri) as client:
            assert client.get("kept") == b"yes"


def test_a_server_and_its_directory_are_gone_when_a_test_fails(server_binary: Path) -> None:
    pids = []

    def failing_test(server: Server) -> None:
        with server:
            pids.append(server.pid)
            raise ZeroDivisionError

    server = Server(server_binary)
    with pytest.raises(ZeroDivisionError):
        failing_test(server)

    assert not server.directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_paused_server_is_ended_too(server_binary: Path) -> None:
    with Server(server_binary) as server:
        server.pause()
        pid = server.pid

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_cannot_start_says_what_it_logged(server_binary: Path) -> None:
    with (
        pytest.raises(ServerFailedError, match="no-such-option"),
        Server(server_binary, "--no-such-option", "1"),
    ):
        pass


async def test_waiting_takes_plain_and_async_predicates() -> None:
    event = anyio.Event()

    async def is_set() -> bool:
        await anyio.lowlevel.checkpoint()
        return event.is_set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_until, is_set, "the event")
        tasks.start_soon(wait_until, event.is_set, "the event")
        event.set()


async def test_a_wait_in_vain_fails_with_its_description() -> None:
    with pytest.raises(AssertionError, match="the cows come home"):
        await wait_until(lambda: False, "the cows come home", timeout_s=0.02)


def test_a_server_names_itself(server_binary: Path) -> None:
    assert reported(server_binary).split()[0] in {"redis", "valkey"}


def test_errors_outside_tests_count_as_failures() -> None:
    found = counts("2 failed, 7 passed, 1 skipped, 3 deselected, 1 error in 1.26s")

    assert (found["passed"], found["failed"], found["skipped"]) == (7, 3, 1)


def test_a_result_row_shows_an_end_that_was_not_good() -> None:
    row = Result("Redis 6.2", "redis 6.2.5", {"passed": 7}, seconds=1.5, code=5).row()

    assert row.split()[4:] == ["7", "0", "0", "1.5", "ended", "with", "5"]


def test_a_binary_that_does_not_run_fails_the_table(tmp_path: Path) -> None:
    result = outcome_on("None", tmp_path / "no-such-binary", [])

    assert result.code != 0
