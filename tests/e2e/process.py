"""A worker of its own process: started in an empty folder, asked, signalled, and always ended."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.waiting import wait_until

PROGRAM: Final = (sys.executable, "-m", "worker")
END_S: Final = 15.0

# One for all: each client of its own would load every certificate authority there is.
_HTTP: Final = httpx.Client(
    timeout=5, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False
)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Nothing of ours but the path, and what measures coverage."""
    kept = {name: text for name, text in os.environ.items() if name.startswith("COVERAGE_")}
    return {"PATH": os.environ["PATH"], **kept, **settings}


def command(
    directory: Path, settings: Mapping[str, str], *arguments: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end; fails after a while."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=directory,
        env=environment(settings),
        input=stdin,
        capture_output=True,
        timeout=END_S,
        check=False,
    )


_SCRAPES: Final = 20


class Worker:
    """`chatwoot-cache run` as a process, which gets SIGTERM at the end of a `with` block.

    Its folder holds what it printed; a second start there appends.
    That it ends well is looked at by `collect`, so that no test waits for the one before.
    """

    ending: Final[list["Worker"]] = []

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str],
        *arguments: str,
        pass_fds: tuple[int, ...] = (),
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.directory = directory
        self._log = directory / "stderr.log"
        self._log.touch()
        self._from = self._log.stat().st_size
        with self._log.open("ab") as log, (directory / "stdout.log").open("ab") as output:
            self.process = subprocess.Popen(
                [*program, "run", *arguments],
                cwd=directory,
                env=environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                pass_fds=pass_fds,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self.process.poll() is None:
            self.process.terminate()
            self.ending.append(self)
        else:
            self.process.kill()
            self.process.wait()

    @classmethod
    def collect(cls) -> None:
        """End every worker that was told to; each must have done so with 0."""
        while cls.ending:
            worker = cls.ending.pop()
            try:
                assert worker.process.wait(END_S) == 0, (worker.directory, worker.log)
            finally:
                worker.process.kill()
                worker.process.wait()

    @property
    def log(self) -> str:
        """All it has written to standard error since this start."""
        return self._log.read_bytes()[self._from :].decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log, of which every whole line must be JSON."""
        return [json.loads(line) for line in self.log.split("\n")[:-1]]

    @property
    def lines_before_the_last(self) -> list[str]:
        """What it logged before the line that says why it ended."""
        return self.log.splitlines()[:-1]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        return [line for line in self.lines if line["event"] == event]

    async def started(self) -> None:
        """Wait until it says where it listens."""
        await wait_until(
            lambda: self.process.poll() is not None or self.logged("worker.started"),
            "the worker has started",
            timeout_s=END_S,
        )
        assert self.process.poll() is None, self.log

    async def ended(self, *, within_s: float = END_S) -> int:
        """Wait until the process has gone; its exit code."""
        await wait_until(
            lambda: self.process.poll() is not None, "the worker has ended", timeout_s=within_s
        )
        code: int = self.process.returncode
        return code

    async def stop(
        self, number: signal.Signals = signal.SIGTERM, *, within_s: float = END_S
    ) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return await self.ended(within_s=within_s)

    def ops(self, path: str) -> httpx.Response:
        """Ask the ops port."""
        return _HTTP.get(f"{self._urls['ops']}{path}")

    def post(
        self, body: bytes, path: str = "", *, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Post a webhook; `path` is what stands behind the endpoint's own."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        return _HTTP.post(f"{self._urls['webhook']}{path}", content=body, headers=sent)

    def metric(self, name: str, **labels: str) -> float:
        """Add up the samples of a series that have these labels.

        What Redis shows as settled is counted a moment later; so while entries are in hand the
        figures are asked for again, a few times only, since in an outage they stay in hand.
        """
        for _ in range(_SCRAPES):
            figures = self._scraped()
            if not _sum(figures, "inflight_entries", {}):
                break
        return _sum(figures, name, labels)

    def _scraped(self) -> list[Sample]:
        families = text_string_to_metric_families(self.ops("/metrics").text)
        return [sample for family in families for sample in family.samples]

    @property
    def rss_bytes(self) -> int:
        """The most memory it has had."""
        return self._memory("VmHWM:")

    @property
    def rss_now_bytes(self) -> int:
        """The memory it has."""
        return self._memory("VmRSS:")

    def _memory(self, name: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (found,) = (line for line in status.splitlines() if line.startswith(name))
        return int(found.split()[1]) * 1024

    @property
    def _urls(self) -> dict[str, Any]:
        return self.logged("worker.started")[-1]


@asynccontextmanager
async def running(
    directory: Path, settings: Mapping[str, str], *arguments: str
) -> AsyncIterator[Worker]:
    """A worker that has started, until the end of the block."""
    with Worker(directory, settings, *arguments) as worker:
        await worker.started()
        yield worker


def _sum(samples: list[Sample], name: str, labels: Mapping[str, str]) -> float:
    return sum(
        sample.value
        for sample in samples
        if sample.name == f"chatwoot_cache_{name}" and labels.items() <= sample.labels.items()
    )
