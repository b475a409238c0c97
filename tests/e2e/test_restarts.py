"""systemd holds the port while the worker restarts: who connects meanwhile is not refused."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.place import Place
from tests.e2e.posting import posted
from tests.e2e.process import PROGRAM, Worker
from tests.events import encode, message

_HAND_OVER: Final = """
import os, sys
descriptor, name, *program = sys.argv[1:]
os.dup2(int(descriptor), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": name}
os.execv(program[0], program)
"""
"""What systemd does, in the process that becomes the worker."""


@pytest.fixture
def held() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def handed(directory: Path, settings: dict[str, str], sock: socket.socket, name: str) -> Worker:
    descriptor = sock.fileno()
    program = (sys.executable, "-c", _HAND_OVER, str(descriptor), name, *PROGRAM)
    return Worker(directory, settings, program=program, pass_fds=(descriptor,))


async def test_a_webhook_that_comes_between_two_workers_is_taken(
    place: Place, held: socket.socket, tmp_path: Path
) -> None:
    port = held.getsockname()[1]
    settings = place.settings()
    with handed(tmp_path, settings, held, "http") as first:
        await first.started()
        assert f":{port}/" in first.logged("worker.started")[0]["webhook"]
        with posted(port, encode(message(1))) as client:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert await first.stop() == 0

    with posted(port, encode(message(2))) as waiting, handed(tmp_path, settings, held, "http"):
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
        await place.settled()
    assert place.document("loja-aurora", "message", 2)


async def test_an_address_that_others_reach_needs_a_secret_whoever_opened_it(
    place: Place, tmp_path: Path
) -> None:
    """The socket's own address counts, not that of the setting, which is loopback."""
    with (
        socket.create_server(("0.0.0.0", 0)) as public,
        handed(tmp_path, place.settings(), public, "http") as worker,
    ):
        await worker.started()
        assert worker.post(encode(message())).status_code == 503
        assert len(worker.logged("webhook.closed")) == 1


@pytest.mark.parametrize(
    ("name", "says"), [("chatwoot-cache.socket", "FileDescriptorName=http"), ("", "none of ours")]
)
async def test_a_socket_of_another_name_is_refused(
    place: Place, held: socket.socket, tmp_path: Path, name: str, says: str
) -> None:
    with handed(tmp_path, place.settings(), held, name) as worker:
        assert await worker.ended() == 2
        assert says in worker.log


async def test_a_socket_that_is_no_listener_on_an_address_is_refused(
    place: Place, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
        with handed(tmp_path, place.settings(), sock, "http") as worker:
            assert await worker.ended() == 2
            assert "ListenStream=127.0.0.1:9850" in worker.log


async def test_what_was_meant_for_another_process_is_left(place: Place, tmp_path: Path) -> None:
    """As in a child of one that systemd started."""
    meant = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}
    with Worker(tmp_path, place.settings() | meant) as worker:
        await worker.started()
        assert worker.post(encode(message())).status_code == 200
