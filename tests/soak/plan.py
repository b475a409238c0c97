"""What a run does, and for how long."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import servers


@dataclass(frozen=True, slots=True)
class Plan:
    """Times in seconds, rate in events a second; a fault that is None does not happen."""

    seconds: float
    rate: float
    kill_worker_every_s: float | None
    kill_server_every_s: float | None
    server_away_s: float
    proxy: bool
    spool: bool
    fsync: str
    binary: Path

    @property
    def server_kills(self) -> int:
        """How often the server is killed, never close to the end."""
        every_s = self.kill_server_every_s
        return 0 if every_s is None else int((self.seconds - 1) / every_s)


def parsed(arguments: Sequence[str]) -> Plan:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="make soak",
        description="Post webhooks while workers and the server are killed and connections cut;"
        " then see whether everything that was answered 200 is in the cache.",
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="how long to post (2)")
    parser.add_argument("--rate", type=float, default=200.0, help="events a second (200)")
    parser.add_argument("--kill-worker", type=float, default=5.0, help="every so many seconds (5)")
    parser.add_argument("--kill-server", type=float, default=20.0, help="the same (20)")
    parser.add_argument("--server-away", type=float, default=1.0, help="seconds each time (1)")
    parser.add_argument("--no-proxy", action="store_true", help="do not spoil connections")
    parser.add_argument("--spool", action="store_true", help="give the workers a spool")
    parser.add_argument("--fsync", choices=("always", "everysec"), default="always")
    parser.add_argument("--server", type=Path, help="redis-server or valkey-server to use")
    parser.add_argument(
        "--judged",
        action="store_true",
        help="1,000 events a second for 60 s, a worker killed every 3 s, the server twice",
    )
    given = parser.parse_args(arguments)
    binary = given.server or servers.default_binary()
    if given.judged:
        return Plan(
            seconds=60,
            rate=1000,
            kill_worker_every_s=3,
            kill_server_every_s=25,
            server_away_s=0,
            proxy=False,
            spool=given.spool,
            fsync=given.fsync,
            binary=binary,
        )
    return Plan(
        seconds=given.minutes * 60,
        rate=given.rate,
        kill_worker_every_s=given.kill_worker or None,
        kill_server_every_s=given.kill_server or None,
        server_away_s=given.server_away,
        proxy=not given.no_proxy,
        spool=given.spool,
        fsync=given.fsync,
        binary=binary,
    )
