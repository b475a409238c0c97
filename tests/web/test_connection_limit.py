"""Which connection is closed for another, and how many there may be."""

import gc
import weakref
from typing import Any

import pytest

from worker.web.connection_limit import (
    ConnectionLimits,
    Connections,
    connection_limits,
    mark_authenticated,
    on_authenticated,
)


def full(*names: str) -> Connections[str]:
    """Connections at their limit."""
    connections = Connections[str](len(names))
    for name in names:
        assert connections.add(name) is None
    return connections


def test_below_the_limit_none_is_closed() -> None:
    connections = full("a", "b")
    connections.remove("a")
    connections.remove("a")

    assert connections.add("c") is None
    assert len(connections) == 2


def test_the_longest_waiting_one_is_closed() -> None:
    connections = full("a", "b", "c")
    connections.wait("a")

    assert [connections.add(name) for name in "def"] == ["b", "c", "a"]
    assert len(connections) == 3


def test_answering_and_authenticated_ones_are_not_closed() -> None:
    connections = full("answering", "known", "a", "b")
    connections.answer("answering")
    connections.authenticate("known")

    assert [connections.add(name) for name in "cd"] == ["a", "b"]


def test_an_authenticated_one_is_closed_when_all_are_authenticated() -> None:
    connections = full("used", "idle", "answering")
    for name in ("used", "idle", "answering"):
        connections.authenticate(name)
    connections.answer("answering")
    connections.wait("used")

    assert [connections.add("c"), connections.add("d")] == ["idle", "c"]


def test_the_new_one_is_closed_when_all_answer_authenticated_requests() -> None:
    connections = full("a", "b")
    for name in "ab":
        connections.answer(name)
        connections.authenticate(name)

    assert connections.add("c") == "c"
    assert len(connections) == 2


def test_a_flood_of_requests_does_not_close_new_connections() -> None:
    """Else each connection would be closed for the next before its request is read."""
    connections = full("a", "b", "c", "d")
    for name in "abcd":
        connections.answer(name)

    assert [connections.add(name) for name in "efg"] == ["a", "b", "e"]


def test_changes_of_a_closed_connection_have_no_effect() -> None:
    connections = full("a", "b")
    connections.add("c")
    for change in (connections.wait, connections.answer, connections.authenticate):
        change("a")

    assert len(connections) == 2
    assert not connections.is_authenticated("a")


def test_a_port_is_crowded_before_it_is_full() -> None:
    connections = Connections[str](4)
    crowded = []
    for name in "abcd":
        connections.add(name)
        crowded.append(connections.is_crowded())

    assert crowded == [False, False, True, True]


@pytest.mark.parametrize(
    ("open_files", "expected"),
    [
        (-1, ConnectionLimits(384, 64)),
        (1_048_576, ConnectionLimits(384, 64)),
        (1024, ConnectionLimits(384, 64)),
        (256, ConnectionLimits(112, 16)),
        (64, ConnectionLimits(28, 4)),
        (2, ConnectionLimits(1, 1)),
    ],
)
def test_both_ports_leave_descriptors_for_the_rest(
    open_files: int, expected: ConnectionLimits
) -> None:
    assert connection_limits(open_files) == expected


class Connection:
    def __init__(self) -> None:
        self.authenticated = False

    def authenticate(self) -> None:
        self.authenticated = True


def test_a_request_authenticates_its_connection_and_does_not_keep_it_alive() -> None:
    connection = Connection()
    scope: dict[str, Any] = {"state": {}}
    on_authenticated(scope, connection.authenticate)
    mark_authenticated(scope)
    assert connection.authenticated

    gone = weakref.ref(connection)
    del connection
    gc.collect()
    assert gone() is None
    mark_authenticated(scope)


def test_without_a_server_there_is_nothing_to_mark() -> None:
    mark_authenticated({})
