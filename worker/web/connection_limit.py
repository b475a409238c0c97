"""The open connections of one port: how many there may be, and which one is closed for another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from weakref import WeakMethod

from starlette.types import Scope

MAX_PUBLIC: Final = 384
"""Connections to the public port. Each can hold 64 KB of head and 64 KB of body for a stranger."""

MAX_OPS: Final = 64
"""Connections to the ops port."""

RESERVED: Final = 128
"""Descriptors kept for Redis (64 webhooks on their way, reads), the spool, logs and sockets."""

_PROVE: Final = "prove_connection"

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many connections each port may have."""

    public: int
    ops: int


def bounds(descriptors: int) -> Bounds:
    """Share the process's limit on open files (negative: none) between the ports.

    At least half of a limit too low for `RESERVED` is left to everything else.
    """
    if descriptors < 0:
        return Bounds(MAX_PUBLIC, MAX_OPS)
    room = max(descriptors - RESERVED, descriptors // 2)
    ops = max(1, min(MAX_OPS, room // 8))
    return Bounds(public=max(1, min(MAX_PUBLIC, room - ops)), ops=ops)


class Connections(Generic[C]):
    """At most `limit` connections, sorted by which of them is closed first.

    A connection is waiting until a request has come wholly, and is answering from then on.
    It is proven once a request on it has shown a valid signature, token or key.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # A dict keeps the order: the one that came in first is the first.
        self._waiting: dict[C, None] = {}
        self._waiting_proven: dict[C, None] = {}
        self._answering: dict[C, None] = {}
        self._answering_proven: dict[C, None] = {}
        self._groups: dict[C, dict[C, None]] = {}
        self._proven: set[C] = set()

    def __len__(self) -> int:
        return len(self._groups)

    def is_crowded(self) -> bool:
        """Tell whether there are so many that none should be kept for a stranger's next request."""
        return len(self) >= self._limit * 3 // 4

    def is_proven(self, connection: C) -> bool:
        """Tell whether a request on it has shown a valid signature, token or key."""
        return connection in self._proven

    def add(self, connection: C) -> C | None:
        """Add one that waits; returns the one to be closed for it, which is no longer counted.

        That is the longest-waiting unproven one; where more unproven ones are answering than
        waiting, the one that has been answering for longest. Without any it is the longest-waiting
        proven one; where all answer proven requests, the new one itself.
        """
        closed = self._first_to_go(connection) if len(self) >= self._limit else None
        if closed is not None:
            self.remove(closed)
        if closed is not connection:
            self._move(connection, self._waiting)
        return closed

    def remove(self, connection: C) -> None:
        """Forget one; may be called again."""
        self._proven.discard(connection)
        group = self._groups.pop(connection, None)
        if group is not None:
            del group[connection]

    def wait(self, connection: C) -> None:
        """Note that one waits for a request from now on."""
        if connection in self._groups:
            is_proven = connection in self._proven
            self._move(connection, self._waiting_proven if is_proven else self._waiting)

    def answer(self, connection: C) -> None:
        """Note that a request has come wholly and is being answered from now on."""
        if connection in self._groups:
            is_proven = connection in self._proven
            self._move(connection, self._answering_proven if is_proven else self._answering)

    def prove(self, connection: C) -> None:
        """Note that a request has shown a valid signature, token or key."""
        if connection not in self._groups or connection in self._proven:
            return
        self._proven.add(connection)
        if self._groups[connection] is self._answering:
            self.answer(connection)
        else:
            self.wait(connection)

    def _first_to_go(self, newcomer: C) -> C:
        strangers = (self._waiting, self._answering)
        if len(self._answering) > len(self._waiting):
            # Else whoever comes while many are answering would be closed before it is read.
            strangers = (self._answering, self._waiting)
        for group in (*strangers, self._waiting_proven):
            for connection in group:
                return connection
        return newcomer

    def _move(self, connection: C, group: dict[C, None]) -> None:
        current = self._groups.get(connection)
        if current is not None:
            del current[connection]
        group[connection] = None
        self._groups[connection] = group


def set_prover(scope: Scope, prove: Callable[[], None]) -> None:
    """Let the application call a method of the connection by `prove_connection`."""
    # A weak reference: the connection holds the scope, and would be garbage in a circle.
    scope["state"][_PROVE] = WeakMethod(prove)


def prove_connection(scope: Scope) -> None:
    """Tell the server that this request has shown a valid signature, token or key."""
    reference = scope.get("state", {}).get(_PROVE)
    prove = reference() if reference else None
    if prove is not None:
        prove()
