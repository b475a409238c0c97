"""systemd reads the unit without a word, and finds it well sealed."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY
from tests.deploy.tools import run, tool
from tests.e2e.place import Place
from tests.e2e.posting import posted
from tests.e2e.process import PROGRAM, Worker, environment
from tests.events import encode, message
from tests.servers import free_port
from tests.waiting import wait_until
from worker.ops.health import STALLED_AFTER_S
from worker.settings.model import Settings

pytestmark = pytest.mark.deploy

UNIT = DEPLOY / "systemd" / "chatwoot-cache.service"
SOCKET = UNIT.with_suffix(".socket")
GRACE_S = 5


def test_systemd_reads_the_units_without_a_word(tmp_path: Path) -> None:
    # The program is not installed where an operator would have it.
    program = tmp_path / "chatwoot-cache"
    program.write_text("")
    program.chmod(0o755)
    unit, sock = tmp_path / UNIT.name, tmp_path / SOCKET.name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", UNIT.read_text()))
    sock.write_text(SOCKET.read_text())

    assert run("systemd-analyze", "verify", "--man=no", unit, sock) == ""


async def test_a_worker_takes_the_socket_that_systemd_opened(
    redis_uri: str, prefix: str, tmp_path: Path
) -> None:
    """The tool of systemd starts it at the first connection, as the socket unit would."""
    place = Place(redis_uri, prefix)
    (name,) = re.findall(r"(?m)^FileDescriptorName=(.*)$", SOCKET.read_text())
    port = free_port()
    opener = (tool("systemd-socket-activate"), f"--listen=127.0.0.1:{port}", f"--fdname={name}")
    settings = place.settings(HTTP_PORT="1")
    passed = [f"--setenv={setting}" for setting in settings]
    with place.redis, Worker(tmp_path, settings, program=(*opener, *passed, *PROGRAM)) as worker:
        await wait_until(lambda: f":{port}" in worker.log, "it listens")
        with posted(port, encode(message(1))) as client:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        await place.settled()
    assert place.document("loja-aurora", "message", 1)


def test_the_unit_is_sealed_as_its_note_says() -> None:
    said = re.search(r"gives it ([\d.]+)", UNIT.read_text())
    report = run("systemd-analyze", "security", "--offline=true", "--no-pager", UNIT)
    measured = re.search(r"exposure level for .*: ([\d.]+)", report)

    assert said
    assert measured
    assert said[1] == measured[1]
    assert float(measured[1]) < 2


def test_the_unit_waits_longer_than_the_worker_takes() -> None:
    unit = UNIT.read_text()

    assert _seconds("TimeoutStopSec", unit) > _default("shutdown_timeout_s") + GRACE_S
    # Half of it is how often the watchdog is fed, and only while the loop is not stalled.
    assert _seconds("WatchdogSec", unit) > STALLED_AFTER_S


async def test_a_worker_under_the_units_filter_is_ready_fed_and_stopped(
    redis_uri: str, prefix: str, tmp_path: Path
) -> None:
    """There is no systemd to start it: strace refuses the same calls in the same way."""
    place = Place(redis_uri, prefix)
    settings = place.settings(WEBHOOK_SPOOL_DIR=str(tmp_path / "spool"))
    address = tmp_path / "notify"
    watched = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "200000"}
    refused = ",".join(f"?{call}" for call in sorted(_calls("@known") - _allowed()))
    with place.redis, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(30)
        strace = [tool("strace"), "-f", "-qq", "-o", "/dev/null"]
        process = subprocess.Popen(
            [*strace, "-e", f"inject={refused}:error=EPERM", *PROGRAM, "run"],
            cwd=tmp_path,
            env=environment({**settings, **watched}),
        )
        try:
            heard = [manager.recv(64), manager.recv(64)]
            place.add(message(1))
            await place.settled()
            # strace passes no signal on: the worker itself is told.
            (worker,) = _children(process.pid)
            os.kill(worker, signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()

    assert sorted(heard) == [b"READY=1", b"WATCHDOG=1"]


def _allowed() -> set[str]:
    """The system calls that the unit's filter lets through."""
    allowed: set[str] = set()
    for line in re.findall(r"(?m)^SystemCallFilter=(.*)$", UNIT.read_text()):
        named = {call for group in line.lstrip("~").split() for call in _calls(group)}
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


def _calls(group: str) -> set[str]:
    """The system calls of a group, as systemd knows them."""
    text = run("systemd-analyze", "syscall-filter", group)
    names = [line.strip() for line in text.splitlines()[1:] if not line.strip().startswith("#")]
    nested = [_calls(name) for name in names if name.startswith("@")]
    return {name for name in names if name and not name.startswith("@")}.union(*nested)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _default(field: str) -> float:
    return float(Settings.model_fields[field].default)


def _seconds(name: str, unit: str) -> float:
    found = re.search(rf"(?m)^{name}=(\d+)$", unit)
    assert found, name
    return float(found[1])
