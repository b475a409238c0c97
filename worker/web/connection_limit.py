"""The open connections of one port: how many there may be, and which one is closed for another."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Final, Generic, NamedTuple, TypeVar
from weakref import WeakMethod

from starlette.types import Scope

MAX_PUBLIC: Final = 512
"""Connections to the public port. Each can hold 64 KiB of head and 64 KiB of body unauthenticated.
"""

MAX_OPS: Final = 64
"""Connections to the ops port."""

RESERVED: Final = 128
"""Descriptors for everything else: Redis (64 for webhooks, reads), the spool, logs, sockets."""

_CALLBACK: Final = "mark_authenticated"

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections each port may have."""

    public: int
    ops: int


def connection_limits(open_files: int) -> ConnectionLimits:
    """Divide the process's limit on open files (negative: none) between the ports.

    Where the limit is too low for `RESERVED`, half of it is left to everything else.
    """
    if open_files < 0:
        return ConnectionLimits(MAX_PUBLIC, MAX_OPS)
    available = max(open_files - RESERVED, open_files // 2)
    ops = max(1, min(MAX_OPS, available // 8))
    return ConnectionLimits(public=max(1, min(MAX_PUBLIC, available - ops)), ops=ops)


class _State(NamedTuple):
    is_answering: bool = False
    is_authenticated: bool = False


_WAITING: Final = _State()
_ANSWERING: Final = _State(is_answering=True)
_WAITING_AUTHENTICATED: Final = _State(is_authenticated=True)
_ANSWERING_AUTHENTICATED: Final = _State(is_answering=True, is_authenticated=True)


class Connections(Generic[C]):
    """At most `limit` connections, in the order in which they are closed for others.

    A connection is answering from the end of a request to the end of its answer, else waiting.
    It is authenticated once a request on it has shown a valid signature, token or key.
    Calls for a connection that was closed have no effect.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: dict[C, _State] = {}
        # Dicts preserve order: the first connection has been in its state for longest.
        self._queues: dict[_State, dict[C, None]] = {
            _WAITING: {},
            _ANSWERING: {},
            _WAITING_AUTHENTICATED: {},
            _ANSWERING_AUTHENTICATED: {},
        }

    def __len__(self) -> int:
        return len(self._states)

    def is_crowded(self) -> bool:
        """Tell whether unauthenticated connections should be closed after their answer."""
        return len(self) >= self._limit * 3 // 4

    def is_authenticated(self, connection: C) -> bool:
        """Tell whether a request on it has shown a valid signature, token or key."""
        return self._states.get(connection, _WAITING).is_authenticated

    def add(self, connection: C) -> C | None:
        """Add a waiting connection; returns the one to close for it, which is removed.

        That is the unauthenticated one that has been waiting for longest; where more of them are
        answering than waiting, the one that has been answering for longest. Without any it is the
        authenticated one that has been waiting for longest, and else the new one.
        """
        closed = self._next_to_close(connection) if len(self) >= self._limit else None
        if closed is not None:
            self.remove(closed)
        if closed is not connection:
            self._states[connection] = _WAITING
            self._queues[_WAITING][connection] = None
        return closed

    def remove(self, connection: C) -> None:
        """Remove a connection that is closed."""
        state = self._states.pop(connection, None)
        if state is not None:
            del self._queues[state][connection]

    def wait(self, connection: C) -> None:
        """Let it wait for a request from now on."""
        self._move(connection, is_answering=False)

    def answer(self, connection: C) -> None:
        """Let it be answering from now on."""
        self._move(connection, is_answering=True)

    def authenticate(self, connection: C) -> None:
        """Let it be authenticated from now on."""
        if not self.is_authenticated(connection):
            self._move(connection, is_authenticated=True)

    def _next_to_close(self, newcomer: C) -> C:
        waiting, answering = self._queues[_WAITING], self._queues[_ANSWERING]
        # Else a flood of requests would close every new connection before its request is read.
        first, second = (
            (answering, waiting) if len(answering) > len(waiting) else (waiting, answering)
        )
        return next(chain(first, second, self._queues[_WAITING_AUTHENTICATED]), newcomer)

    def _move(self, connection: C, **change: bool) -> None:
        state = self._states.get(connection)
        if state is not None:
            del self._queues[state][connection]
            self._states[connection] = state = state._replace(**change)
            self._queues[state][connection] = None


def on_authenticated(scope: Scope, callback: Callable[[], None]) -> None:
    """Let `mark_authenticated` call this method of the connection."""
    # A weak reference, since the connection refers to the scope: no cycle to collect.
    scope["state"][_CALLBACK] = WeakMethod(callback)


def mark_authenticated(scope: Scope) -> None:
    """Tell the server that this request has shown a valid signature, token or key."""
    reference = scope.get("state", {}).get(_CALLBACK)
    callback = reference() if reference else None
    if callback is not None:
        callback()
