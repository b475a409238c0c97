"""Workers that are killed and started again, as a supervisor would; one is left alone."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio

from tests.e2e.process import Worker
from tests.servers import reserved_port

STEADY: Final = "steady"


class WorkerPool:
    """Two workers that take webhooks and may be killed, and one that only consumes."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self._directory = directory
        self._settings = settings
        self._turn = 0
        self._reservations = [reserved_port(), reserved_port()]
        self.ports: list[int] = [held.getsockname()[1] for held in self._reservations]
        self.kills = 0
        self.ended: Counter[str] = Counter()
        """Who ended by itself, by the last line it wrote; nobody should."""
        self.workers: dict[str, Worker] = {}

    async def __aenter__(self) -> Self:
        for name, port in self._ports().items():
            self._start(name, port)
        for worker in self.workers.values():
            await worker.started()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self.workers.values():
            worker.process.terminate()
        for worker in self.workers.values():
            worker.process.wait(15)
        for held in self._reservations:
            held.close()

    @property
    def steady(self) -> Worker:
        """The worker that nobody kills."""
        return self.workers[STEADY]

    def failures(self) -> Counter[str]:
        """What was logged as an error by any worker, dead ones too."""
        found: Counter[str] = Counter()
        for said in self._logged():
            if said["level"] in ("error", "critical"):
                found[f"{said['event']}: {said.get('error')}"] += 1
        return found

    def counted_lost(self) -> int:
        """How many entries any worker said were lost."""
        lost = [said for said in self._logged() if said["event"] == "entries.lost"]
        return sum(said["entries"] for said in lost)

    def _logged(self) -> Iterator[dict[str, Any]]:
        for log in self._directory.glob("*/stderr.log"):
            for line in log.read_bytes().splitlines():
                # A killed worker's last line may be half of one, an error's line is no JSON.
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    async def kill_every(self, period_s: float) -> None:
        """Kill one after the other until cancelled."""
        while True:
            await anyio.sleep(period_s)
            self._kill_one()

    async def keep_up(self) -> None:
        """Start again whoever ended by itself, until cancelled."""
        while True:
            for name, port in self._ports().items():
                if self._has_ended(name):
                    self._start(name, port)
            await anyio.sleep(0.2)

    def _kill_one(self) -> None:
        """`kill -9` one of those that take webhooks, and start it again at once."""
        number = self._turn % len(self.ports)
        self._turn += 1
        name = f"worker-{number}"
        if not self._has_ended(name):
            self.workers[name].process.kill()
            self.workers[name].process.wait()
            self.kills += 1
        self._start(name, self.ports[number])

    def _has_ended(self, name: str) -> bool:
        """Tell whether a worker ended by itself, and count that."""
        worker = self.workers[name]
        if worker.process.poll() is None:
            return False
        last = worker.log.splitlines()[-1:] or ["without a word"]
        self.ended[last[0]] += 1
        return True

    def _ports(self) -> dict[str, int]:
        """Everybody's port, 0 for whichever is free."""
        return {f"worker-{number}": port for number, port in enumerate(self.ports)} | {STEADY: 0}

    def _start(self, name: str, port: int) -> None:
        folder = self._directory / name
        folder.mkdir(exist_ok=True)
        own = {
            "CHATWOOT_CACHE_STREAM_CONSUMER": name,
            "CHATWOOT_CACHE_HTTP_PORT": str(port),
        }
        self.workers[name] = Worker(folder, {**self._settings, **own})
