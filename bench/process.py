"""Processes under measurement: kept on cores of their own, and what the kernel says of them."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
END_S: Final = 20.0
SHOWN_CHARACTERS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where: with two cores, what measures shares the server's."""

    server: int
    clients: tuple[int, ...]
    measuring: int

    @classmethod
    def found(cls) -> Self:
        """Share out the cores this process may use: one for the server, the rest for clients."""
        allowed = sorted(os.sched_getaffinity(0))
        server, *others = allowed if len(allowed) > 1 else allowed * 2
        spare = len(others) > 1
        return cls(server, tuple(others[:-1] if spare else others), others[-1] if spare else server)

    def client(self, number: int) -> int:
        """Return the core of the client of that number."""
        return self.clients[number % len(self.clients)]


@contextmanager
def on(core: int) -> Iterator[None]:
    """Let everything started inside the block stay on one core, all its threads included."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of all threads of a process, user and system, to 10 ms."""
    # The command's name may hold anything, but ends with the last parenthesis.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def peak_rss_bytes(pid: int) -> int:
    """Return the most memory a process has had resident."""
    return _status_bytes(pid, "VmHWM")


def rss_bytes(pid: int) -> int:
    """Return the memory a process has resident now."""
    return _status_bytes(pid, "VmRSS")


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ProcessFailedError(f"process {pid} has ended")


class ProcessFailedError(Exception):
    """A process under measurement ended by itself; the message ends with what it printed."""


class Process:
    """A client on a core of its own; the end of a `with` block ends it, by SIGTERM at first."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], *, core: int, directory: Path
    ) -> None:
        self._log = directory / "output.log"
        with self._log.open("wb") as output, on(core):
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env={"PATH": os.environ["PATH"], **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def output(self) -> str:
        """All it has printed."""
        return self._log.read_text()

    def check(self) -> None:
        """Raise `ProcessFailedError` when it has ended."""
        if (code := self._process.poll()) is not None:
            raise ProcessFailedError(f"ended with {code}:\n{self.output[-SHOWN_CHARACTERS:]}")

    def end(self) -> None:
        """Let it end: SIGTERM, and after a while SIGKILL."""
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
