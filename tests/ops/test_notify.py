"""Notification of PM2 and systemd; a missing or broken one is ignored."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from worker.ops.notify import Notifier

ABSTRACT = pytest.param(
    "abstract", marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these")
)


@pytest.fixture(params=["path", ABSTRACT])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """The notification socket of systemd."""
    abstract = request.param == "abstract"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{uuid4().hex}" if abstract else str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def address(manager: socket.socket) -> str:
    name = manager.getsockname()

    return f"@{name[1:].decode()}" if isinstance(name, bytes) else str(name)


def test_systemd_is_notified_of_every_state(manager: socket.socket) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address(manager)})

    notifier.ready()
    notifier.alive()
    notifier.stopping()

    assert [manager.recv(64) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_pm2_is_notified_only_of_ready() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        notifier = Notifier.from_environment({"NODE_CHANNEL_FD": str(ours.fileno())})
        notifier.ready()
        notifier.alive()
        notifier.stopping()
        ours.close()

        assert theirs.makefile("rb").read() == b'"ready"\n'


def test_a_pipe_is_a_channel_too() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as received, open(writer, "wb"):  # noqa: PTH123  (descriptors)
        Notifier.from_environment({"NODE_CHANNEL_FD": str(writer)}).ready()

        assert received.readline() == b'"ready"\n'


def test_child_processes_do_not_inherit_the_channel() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.set_inheritable(True)
        Notifier.from_environment({"NODE_CHANNEL_FD": str(ours.fileno())})

        assert not ours.get_inheritable()


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier.from_environment({})

    assert notifier == Notifier(channel=None, address=None, alive_every_s=None)
    notifier.ready()
    notifier.alive()
    notifier.stopping()


def test_a_manager_that_has_gone_is_ignored(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        environ = {
            "NODE_CHANNEL_FD": str(ours.fileno()),
            "NOTIFY_SOCKET": str(tmp_path / "nobody"),
        }
        notifier = Notifier.from_environment(environ)
        theirs.close()

        notifier.ready()
        notifier.alive()
        notifier.stopping()


def test_a_full_socket_never_blocks(manager: socket.socket) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address(manager)})

    for _ in range(5_000):
        notifier.alive()

    assert manager.recv(64) == b"WATCHDOG=1"


@pytest.mark.parametrize("descriptor", ["", "x", "-1", "9999", str(2**70)])
def test_a_descriptor_that_cannot_be_used_is_ignored(descriptor: str) -> None:
    assert Notifier.from_environment({"NODE_CHANNEL_FD": descriptor}).channel is None


def test_a_descriptor_that_is_a_file_is_never_written_to(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        environ = {"NODE_CHANNEL_FD": str(file.fileno())}

        assert Notifier.from_environment(environ).channel is None


def test_a_channel_of_another_format_is_ignored() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environ = {
            "NODE_CHANNEL_FD": str(ours.fileno()),
            "NODE_CHANNEL_SERIALIZATION_MODE": "advanced",
        }

        assert Notifier.from_environment(environ).channel is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_interval_is_half_of_the_limit(
    environ: dict[str, str], expected: float | None
) -> None:
    assert Notifier.from_environment(environ).alive_every_s == expected
