"""One run of one contestant over the course, measured from the open gate to the last ack."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.environment import Environment
from bench.process import TICK_S, Process, cpu_s, peak_rss_bytes
from bench.target import Target, environment
from bench.workload import STREAM, StuckError, Workload


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """What a run gave: seconds of wall clock and CPU, the greatest memory of one process."""

    contestant: str
    entries: int
    seconds: float
    client_cpu_s: float
    server_cpu_s: float
    peak_rss_bytes: int
    server_memory_bytes: int
    """What the server had allocated at the end: stream, cache and clients."""
    keys: int
    """How many keys it left in the cache."""

    @property
    def events_per_s(self) -> float:
        """Events per second of wall clock."""
        return self.entries / self.seconds

    @property
    def ceiling_per_s(self) -> float:
        """Events per second that the server could do if it had nothing to wait for."""
        return self.entries / max(self.server_cpu_s, TICK_S)


def run(stage: Environment, course: Workload, contestant: Target) -> MeasuredRun:
    """Run once, with names of this run's own, and delete what it wrote.

    Raises `StuckError` when it wrote nothing, or found events of ours unusable.
    """
    entries = max(1, int(len(course) * contestant.share))
    prefix = f"bench-{time.time_ns()}"
    course.close_gate()
    with started(stage, contestant, prefix) as processes:

        def check() -> None:
            for process in processes:
                process.check()

        def spent() -> tuple[float, float]:
            return sum(cpu_s(process.pid) for process in processes), cpu_s(stage.server.pid)

        course.await_waiting(len(processes), check)
        client_before, server_before = spent()
        begun = time.perf_counter()
        course.open_gate(entries)
        course.await_done(check)
        seconds = time.perf_counter() - begun
        client_after, server_after = spent()
        peak = max(peak_rss_bytes(process.pid) for process in processes)
    memory = stage.used_memory_bytes
    keys = stage.drop(prefix)
    if (dead := stage.dead_letters(STREAM)) or not keys:
        raise StuckError(f"{contestant.title}: {dead} dead letters, {keys} keys written")
    return MeasuredRun(
        contestant=contestant.key,
        entries=entries,
        seconds=seconds,
        client_cpu_s=client_after - client_before,
        server_cpu_s=server_after - server_before,
        peak_rss_bytes=peak,
        server_memory_bytes=memory,
        keys=keys,
    )


@contextmanager
def started(stage: Environment, contestant: Target, prefix: str) -> Iterator[list[Process]]:
    """Start a contestant's processes, each in an empty folder and on its core, and end them."""
    with ExitStack() as stack:
        processes = []
        for number in range(contestant.processes):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            process = Process(
                contestant.command,
                environment(stage.server.uri, prefix, f"{contestant.key}-{number}"),
                core=stage.cores.client(number),
                directory=Path(folder),
            )
            processes.append(stack.enter_context(process))
        yield processes
