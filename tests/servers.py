"""Redis-protocol servers of the tests' own; each is ended by its own process id."""

import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.store import embedded

START_S: Final = 10.0
POLL_S: Final = 0.01


class ServerFailedError(Exception):
    """A server did not start; the message ends with what it logged."""


class Server:
    """One server process on a free loopback port and a unix socket, in a directory of its own.

    `with Server(binary, "--appendonly", "yes") as server:` starts it, waits until it answers, and
    ends it whatever happens. It keeps nothing unless told to, so `restart` comes back empty
    without `--appendonly yes`. Any redis-protocol binary since Redis 6.2 will do.
    """

    def __init__(self, binary: Path | str, *args: str) -> None:
        self.binary = str(binary)
        self.args = args
        self.directory = Path(tempfile.mkdtemp(prefix="chatwoot-cache-"))
        self.port = free_port()
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


def default_binary() -> Path:
    """The server that comes with the locked dependencies (Valkey 9.1)."""
    return embedded.binary()
