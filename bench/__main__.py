"""`python -m bench`: the command line of the benchmarks."""

import argparse
import os
import sys
from pathlib import Path

import redis

from bench import heat
from bench.contestant import WORKER
from bench.course import Course
from bench.events import bodies
from bench.process import Cores, pin
from tests.servers import Server, default_binary


def main() -> int:
    """Run what is asked for; 1 when a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    env = os.environ.get
    parser.add_argument("--server", default=env("BENCH_SERVER"), help="another server's binary")
    parser.add_argument("--events", type=int, default=int(env("BENCH_EVENTS", "100000")))
    parser.add_argument("--runs", type=int, default=int(env("BENCH_RUNS", "5")))
    options = parser.parse_args()
    binary = Path(options.server) if options.server else default_binary()
    cores = Cores.found()
    pin(os.getpid(), cores.measuring)
    with Server(binary) as server:
        pin(server.pid, cores.server)
        course = Course(redis.Redis.from_url(server.uri))
        course.fill(bodies(options.events), lambda _: None)
        for _ in range(options.runs):
            ran = heat.run(course, server, cores, WORKER)
            sys.stdout.write(
                f"{ran.events_per_s:9,.0f} events/s  client {ran.client_cpu_s:6.2f} s"
                f"  server {ran.server_cpu_s:6.2f} s  ceiling {ran.ceiling_per_s:9,.0f}"
                f"  peak RSS {ran.peak_rss_bytes / 1e6:5.1f} MB  keys {ran.keys:,}\n"
            )
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
