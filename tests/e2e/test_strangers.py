"""Unauthenticated clients attack both ports of a real worker; signed webhooks are still accepted.

Each attack runs as fast as it can while webhooks are posted, and reconnects when it is closed.
"""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketStream

from tests.e2e.conftest import ServerStarter
from tests.e2e.place import Place, raw
from tests.e2e.process import PROGRAM, Worker, running
from tests.events import message
from tests.signing import signed
from tests.waiting import wait_until

SECRET: Final = "s3cr3t"
SETTINGS: Final[Mapping[str, str]] = {"WEBHOOK_SECRETS": f"{{3: {SECRET}}}"}
MIB: Final = 1024 * 1024
MEMORY: Final = 300 * MIB
LIVEZ_S: Final = 1.0
OPEN_FILES: Final = 256
_LIMIT: Final = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({OPEN_FILES}, {OPEN_FILES}))
os.execv(sys.argv[1], sys.argv[1:])
"""
LIMITED: Final = (
    sys.executable,
    "-c",
    _LIMIT,
    *PROGRAM,
)


def forged(*headers: str) -> bytes:
    """The head of a webhook with a forged signature."""
    known = signed(b"", "guessed").items()
    lines = [
        "POST /chatwoot/webhook HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        *(f"{name}: {value}" for name, value in known),
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True)
class Attack:
    """What each connection sends first, and then repeatedly."""

    first: bytes
    rest: bytes = b""
    connections: int = 16
    every_s: float = 0.0
    reads: bool = True

    async def run(self, port: int, connected: list[None]) -> None:
        """Attack until cancelled."""
        while True:
            with suppress(OSError):
                async with await anyio.connect_tcp("127.0.0.1", port) as connection:
                    connected.append(None)
                    async with anyio.create_task_group() as tasks:
                        for act in (self._write, self._read):
                            tasks.start_soon(act, connection, tasks.cancel_scope)
            await anyio.lowlevel.checkpoint()

    async def _write(self, connection: SocketStream, until_closed: anyio.CancelScope) -> None:
        try:
            await connection.send(self.first)
            while self.rest:
                await connection.send(self.rest)
                await anyio.sleep(self.every_s)
        except anyio.BrokenResourceError:
            until_closed.cancel()

    async def _read(self, connection: SocketStream, until_closed: anyio.CancelScope) -> None:
        if self.reads:
            with suppress(anyio.BrokenResourceError):
                async for _ in connection:
                    pass
            until_closed.cancel()


LONG: Final = f"Content-Length: {4 * MIB}"
CHUNKED: Final = "Transfer-Encoding: chunked"
LINES: Final = b"a: b\r\n" * 10_000
GET: Final = b"GET / HTTP/1.1\r\n"

ATTACKS: Final[Mapping[str, tuple[Attack, ...]]] = {
    "bodies that do not come": (
        Attack(forged(LONG), connections=60),
        Attack(forged(LONG) + b" " * 65_000, b" ", every_s=0.01, connections=60),
    ),
    "bodies": (
        Attack(forged(LONG), b" " * 65_536),
        Attack(b"", forged("Content-Length: 65536") + b" " * 65_536),
        Attack(forged(CHUNKED), b"1000\r\n" + b" " * 4096 + b"\r\n"),
    ),
    "heads": (
        Attack(GET, LINES),
        Attack(GET + b"x: ", b"y" * 65_536),
        Attack(b"GET /", b"y" * 65_536),
    ),
    "behind an answer": (
        Attack(GET + CHUNKED.encode() + b"\r\n\r\n0\r\n", LINES),
        Attack(GET + b"Content-Length: 1000000000\r\n\r\n", b" " * 65_536),
    ),
    "trailers of a webhook": (Attack(forged(CHUNKED) + b"2\r\n{}\r\n0\r\n", LINES),),
    "requests ahead": (Attack(b"", (GET + b"\r\n") * 3000, reads=False),),
}

ON_OPS: Final = ("heads", "behind an answer", "requests ahead")


@pytest.mark.parametrize(
    ("name", "port"),
    [*((name, "http") for name in ATTACKS), *((name, "ops") for name in ON_OPS)],
)
async def test_signed_webhooks_are_accepted_during_an_attack(
    place: Place, tmp_path: Path, name: str, port: Literal["http", "ops"]
) -> None:
    async with running(tmp_path, place.settings(**SETTINGS)) as worker:
        number = ports(worker)[port]
        attacks = [(attack, number) for attack in ATTACKS[name]]
        refused, livez_s = await beside(worker, attacks, lambda: honest(worker))
        assert worker.rss_bytes < MEMORY

    assert refused == []
    assert livez_s < LIVEZ_S


async def beside(worker: Worker, attacks: list[tuple[Attack, int]], ask: Callable[[], Any]) -> Any:
    """Call `ask` during the attacks, once each of their connections was open."""
    async with anyio.create_task_group() as tasks:
        connected: list[None] = []
        for attack, port in attacks:
            for _ in range(attack.connections):
                tasks.start_soon(attack.run, port, connected)
        expected = sum(attack.connections for attack, _ in attacks)
        await wait_until(lambda: len(connected) >= expected, "they attack", timeout_s=20)
        result = await anyio.to_thread.run_sync(ask)
        assert worker.process.poll() is None
        tasks.cancel_scope.cancel()
    return result


def honest(worker: Worker) -> tuple[list[int], float]:
    """Post webhooks of usual sizes and probe; returns failures and the slowest probe's time."""
    refused, livez_s = [], 0.0
    for number in range(1, 8):
        body = raw(message(number, content="x" * (50_000 if number % 3 == 0 else 1000)))
        refused.append(worker.post(body, headers=signed(body, SECRET)).status_code)
        started = time.monotonic()
        refused.append(worker.ops("/livez").status_code)
        livez_s = max(livez_s, time.monotonic() - started)
    return [code for code in refused if code != 200], livez_s


def ports(worker: Worker) -> dict[str, int]:
    """The ports that a worker listens on."""
    (started,) = worker.logged("worker.started")
    return {
        "http": int(started["webhook"].split(":")[2].partition("/")[0]),
        "ops": int(started["ops"].rpartition(":")[2]),
    }


async def test_few_open_files_are_shared(private: ServerStarter, tmp_path: Path) -> None:
    """While 600 connections wait, probes, webhooks and Redis need descriptors too."""
    _, place = private()
    idle = [Attack(b"GET / HT", connections=300)] * 2
    with Worker(tmp_path, place.settings(**SETTINGS), program=LIMITED) as worker:
        await worker.started()
        found = ports(worker)

        def ask() -> tuple[list[int], float]:
            place.do("CLIENT KILL TYPE normal SKIPME yes")
            refused, livez_s = honest(worker)
            ready = worker.ops("/readyz").status_code
            return refused + [ready] * (ready != 200), livez_s

        attacks = list(zip(idle, found.values(), strict=True))
        refused, livez_s = await beside(worker, attacks, ask)
        assert worker.metric("http_connections") <= OPEN_FILES // 2
        assert worker.metric("http_connections_closed_total", reason="full") > 300

    assert refused == []
    assert livez_s < LIVEZ_S
    assert not worker.logged("worker.crashed")
