"""One run of one contestant over the course, measured from the open gate to the last ack."""

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.contestant import Contestant, environment
from bench.course import Course, StuckError
from bench.process import Cores, Process, cpu_s, peak_rss_bytes
from tests.servers import Server


@dataclass(frozen=True, slots=True)
class Heat:
    """What a run gave: seconds of wall clock and CPU, the greatest memory of one process."""

    contestant: str
    entries: int
    seconds: float
    client_cpu_s: float
    server_cpu_s: float
    peak_rss_bytes: int
    keys: int
    """How many keys it left in the cache."""

    @property
    def events_per_s(self) -> float:
        """Events per second of wall clock."""
        return self.entries / self.seconds

    @property
    def ceiling_per_s(self) -> float:
        """Events per second that the server could do if it had nothing to wait for."""
        return self.entries / self.server_cpu_s


def run(course: Course, server: Server, cores: Cores, contestant: Contestant) -> Heat:
    """Run once, with names of this run's own, and delete what it wrote."""
    entries = max(1, int(len(course) * contestant.share))
    prefix = f"bench-{time.time_ns()}"
    course.close_gate()
    with ExitStack() as stack:
        processes = [
            _start(stack, server, cores, contestant, prefix, number)
            for number in range(contestant.processes)
        ]

        def check() -> None:
            for process in processes:
                process.check()

        def spent() -> tuple[float, float]:
            return sum(cpu_s(process.pid) for process in processes), cpu_s(server.pid)

        course.await_waiting(len(processes), check)
        client_before, server_before = spent()
        begun = time.perf_counter()
        course.open_gate(entries)
        course.await_done(check)
        seconds = time.perf_counter() - begun
        client_after, server_after = spent()
        peak = max(peak_rss_bytes(process.pid) for process in processes)
    keys = course.drop(prefix)
    if course.dead() or not keys:
        raise StuckError(f"{contestant.title}: {course.dead()} dead letters, {keys} keys written")
    return Heat(
        contestant.key,
        entries,
        seconds,
        client_after - client_before,
        server_after - server_before,
        peak,
        keys,
    )


def _start(
    stack: ExitStack,
    server: Server,
    cores: Cores,
    contestant: Contestant,
    prefix: str,
    number: int,
) -> Process:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    environ = environment(server.uri, prefix, f"{contestant.key}-{number}")
    core = cores.client(number)
    process = Process(contestant.command, environ, core=core, directory=directory)
    return stack.enter_context(process)
