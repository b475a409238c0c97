"""On a terminal: a question before anything is deleted, tables, and nothing odd on the screen."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.e2e.place import Place
from tests.e2e.process import END_S, PROGRAM, environment, running
from tests.events import message


def on_terminal(directory: Path, place: Place, typed: str, *arguments: str) -> tuple[int, str]:
    """Run a command at a terminal where somebody types; its exit code, and what stood there."""
    ours, theirs = pty.openpty()
    settings = place.settings() | {"TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=directory,
        env=environment(settings),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:
            break
        if not more:
            break
        shown += more
    os.close(ours)
    return process.wait(END_S), shown.decode()


@pytest.fixture
async def one_letter(place: Place, tmp_path: Path) -> None:
    """One cached message, and one dead letter of an inbox with an unkind name."""
    async with running(tmp_path, place.settings()):
        place.add(message(1))
        await place.settled()
        place.add(message(2, inbox_id=13), b"\x1b[2Jno json")
        place.add(message(3, inbox_name="\x1b[2J[red]a"), expect=b"loja\x07")
        await place.settled()


@pytest.mark.usefixtures("one_letter")
async def test_nothing_is_deleted_without_a_yes(place: Place, tmp_path: Path) -> None:
    before = place.found()
    code, shown = on_terminal(tmp_path, place, "\n", "purge", "loja-aurora")
    assert code == 1
    assert "Delete all of instance loja-aurora from the cache? [y/N]" in shown
    assert place.found() == before
    code, shown = on_terminal(tmp_path, place, "no\n", "dead", "purge")
    assert code == 1
    assert "Delete 3 dead letters permanently?" in shown
    assert len(place.letters()) == 3

    code, shown = on_terminal(tmp_path, place, "", "dead", "list")
    assert code == 0
    assert "[2J" not in shown.replace("\\x1b[2J", "")
    assert "instance_conflict" in shown

    code, shown = on_terminal(tmp_path, place, "y\n", "dead", "purge")
    assert (code, place.letters()) == (0, [])
    code, shown = on_terminal(tmp_path, place, "yes\n", "purge", "loja-aurora", "--everywhere")
    assert code == 0
    assert not [key for key in place.found() if b"loja-aurora" in key]
    assert place.redis.xlen(place.stream) == 1
