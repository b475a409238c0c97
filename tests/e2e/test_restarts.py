"""systemd holds the port while the worker restarts: who connects meanwhile is not refused."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import pytest

from tests.e2e.place import Place
from tests.e2e.posting import posted
from tests.e2e.process import PROGRAM, Worker
from tests.events import encode, message

_HAND_OVER: Final = """
import os, sys
descriptor, names, count, *program = sys.argv[1:]
for target in range(3, 4 + names.count(":")):
    os.dup2(int(descriptor), target)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
os.execv(program[0], program)
"""
"""What systemd does, in the process that becomes the worker: one socket for each name."""


@pytest.fixture
def held() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def handed(
    directory: Path,
    settings: dict[str, str],
    held: socket.socket | IO[str],
    names: str = "http",
    count: str = "1",
) -> Worker:
    descriptor = held.fileno()
    program = (sys.executable, "-c", _HAND_OVER, str(descriptor), names, count, *PROGRAM)
    return Worker(directory, settings, program=program, pass_fds=(descriptor,))


async def test_a_webhook_that_comes_between_two_workers_is_taken(
    place: Place, held: socket.socket, tmp_path: Path
) -> None:
    port = held.getsockname()[1]
    settings = place.settings()
    with handed(tmp_path, settings, held) as first:
        await first.started()
        assert f":{port}/" in first.logged("worker.started")[0]["webhook"]
        with posted(port, encode(message(1))) as client:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert await first.stop() == 0

    with posted(port, encode(message(2))) as waiting, handed(tmp_path, settings, held):
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
        await place.settled()
    assert place.document("loja-aurora", "message", 2)


async def test_an_address_that_others_reach_needs_a_secret_whoever_opened_it(
    place: Place, tmp_path: Path
) -> None:
    """The socket's own address counts, not that of the setting, which is loopback."""
    with (
        socket.create_server(("0.0.0.0", 0)) as public,
        handed(tmp_path, place.settings(), public) as worker,
    ):
        await worker.started()
        assert worker.post(encode(message())).status_code == 503
        assert len(worker.logged("webhook.rejecting_all")) == 1


async def test_an_address_that_is_not_the_settings_is_said(
    place: Place, held: socket.socket, tmp_path: Path
) -> None:
    """Commands go by the settings, and would look elsewhere."""
    port = held.getsockname()[1]
    with handed(tmp_path, place.settings(), held) as worker:
        await worker.started()
        (line,) = worker.logged("socket.address_mismatch")
        assert f"CHATWOOT_CACHE_HTTP_PORT={port}" in line["hint"]
    same = place.settings(HTTP_HOST="localhost", HTTP_PORT=str(port))
    with handed(tmp_path, same, held) as worker:
        await worker.started()
        assert worker.logged("socket.address_mismatch") == []


@pytest.mark.parametrize(
    ("names", "count", "says"),
    [
        ("chatwoot-cache.socket", "1", "FileDescriptorName=http"),
        ("http:http", "2", "one ListenStream="),
        ("", "1", "do not agree"),
        ("http", "2", "do not agree"),
        ("http", "x", "do not agree"),
        ("http", "", "do not agree"),
    ],
)
async def test_sockets_that_do_not_fit_are_refused(
    place: Place, held: socket.socket, tmp_path: Path, names: str, count: str, says: str
) -> None:
    with handed(tmp_path, place.settings(), held, names, count) as worker:
        assert await worker.ended() == 2
        assert says in worker.log


async def test_a_port_that_nobody_would_answer_on_is_refused(
    place: Place, held: socket.socket, tmp_path: Path
) -> None:
    """Else who connects would wait for ever."""
    with handed(tmp_path, place.settings(WEBHOOK_ENABLED="false"), held) as worker:
        assert await worker.ended() == 2
        assert ".socket unit" in worker.log


async def test_a_descriptor_that_is_no_socket_is_refused(place: Place, tmp_path: Path) -> None:
    with (
        (tmp_path / "file").open("w") as file,
        handed(tmp_path, place.settings(), file) as worker,
    ):
        assert await worker.ended() == 2
        assert "ListenStream=127.0.0.1:9850" in worker.log


async def test_a_socket_that_is_no_listener_on_an_address_is_refused(
    place: Place, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
        with handed(tmp_path, place.settings(), sock) as worker:
            assert await worker.ended() == 2
            assert "ListenStream=127.0.0.1:9850" in worker.log


async def test_what_was_meant_for_another_process_is_left(place: Place, tmp_path: Path) -> None:
    """As in a child of one that systemd started."""
    meant = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}
    with Worker(tmp_path, place.settings() | meant) as worker:
        await worker.started()
        assert worker.post(encode(message())).status_code == 200
