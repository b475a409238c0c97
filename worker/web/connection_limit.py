"""The open connections of one port: how many there may be, and which one is closed for another."""

from collections.abc import Callable
from itertools import chain
from typing import Final, Generic, NamedTuple, TypeVar
from weakref import WeakMethod

from starlette.types import Scope

MAX_PUBLIC: Final = 384
"""Connections to the public port. Unauthenticated, each can hold 64 KiB of head and of body."""

MAX_OPS: Final = 64
"""Connections to the ops port."""

RESERVED: Final = 128
"""Descriptors for everything else: Redis (64 for webhooks, reads), the spool, logs, sockets."""

_CALLBACK: Final = "mark_authenticated"

C = TypeVar("C")


class ConnectionLimits(NamedTuple):
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


# The state of a connection is a sum of these flags.
_WAITING: Final = 0
_ANSWERING: Final = 1
_AUTHENTICATED: Final = 2


class Connections(Generic[C]):
    """At most `limit` connections, in the order in which they are closed for others.

    A connection is answering from the end of a request to the end of its answer, else waiting.
    It is authenticated once a request on it has shown a valid signature, token or key.
    Calls for a connection that was closed have no effect.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: dict[C, int] = {}
        # Dicts preserve order: the first connection has been in its state for longest.
        self._by_state: Final[tuple[dict[C, None], ...]] = ({}, {}, {}, {})

    def __len__(self) -> int:
        return len(self._states)

    def is_crowded(self) -> bool:
        """Tell whether unauthenticated connections should be closed after their answer."""
        return len(self) >= self._limit * 3 // 4

    def is_authenticated(self, connection: C) -> bool:
        """Tell whether a request on it has shown a valid signature, token or key."""
        return bool(self._states.get(connection, _WAITING) & _AUTHENTICATED)

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
            self._by_state[_WAITING][connection] = None
        return closed

    def remove(self, connection: C) -> None:
        """Remove a connection that is closed."""
        state = self._states.pop(connection, None)
        if state is not None:
            del self._by_state[state][connection]

    def wait(self, connection: C) -> None:
        """Let it wait for a request from now on."""
        self._move(connection, remove=_ANSWERING)

    def answer(self, connection: C) -> None:
        """Let it be answering from now on."""
        self._move(connection, add=_ANSWERING)

    def authenticate(self, connection: C) -> None:
        """Let it be authenticated from now on."""
        if not self.is_authenticated(connection):
            self._move(connection, add=_AUTHENTICATED)

    def _next_to_close(self, newcomer: C) -> C:
        waiting, answering, waiting_authenticated, _ = self._by_state
        # The larger group first: else a flood of requests would close new connections unread.
        groups = sorted((waiting, answering), key=len, reverse=True)
        return next(chain(*groups, waiting_authenticated), newcomer)

    def _move(self, connection: C, *, add: int = 0, remove: int = 0) -> None:
        state = self._states.get(connection)
        if state is not None:
            del self._by_state[state][connection]
            self._states[connection] = state = (state | add) & ~remove
            self._by_state[state][connection] = None


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
