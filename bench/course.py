"""The course every contestant runs: one filled stream, a group set back to where it starts."""

import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

import redis

STREAM: Final = "bench:events"
GROUP: Final = "bench"
PORTION: Final = 500
POLL_S: Final = 0.02
"""How exactly the end of a run is seen; seldom enough to cost the server nothing."""

READY_S: Final = 30.0
STUCK_S: Final = 60.0


class StuckError(Exception):
    """Nothing moved for a long while."""


class Course:
    """A stream on a server, filled once."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._ids: list[bytes] = []

    def __len__(self) -> int:
        return len(self._ids)

    def fill(self, bodies: Iterable[bytes], shown: Callable[[int], None]) -> None:
        """Put bodies on the stream as any producer would; `shown` is told how many there are."""
        source = iter(bodies)
        while portion := list(islice(source, PORTION)):
            with self.client.pipeline(transaction=False) as pipeline:
                for body in portion:
                    pipeline.xadd(STREAM, {"payload": body})
                self._ids += pipeline.execute()
            shown(len(self._ids))

    def clear(self) -> None:
        """Empty the stream, and forget its group."""
        self.client.unlink(STREAM)
        self._ids.clear()

    def close_gate(self) -> None:
        """Put a new group at the stream's end, where contestants wait."""
        self.client.xgroup_destroy(STREAM, GROUP)
        self.client.xgroup_create(STREAM, GROUP, "$")

    def await_waiting(self, contestants: int, check: Callable[[], None]) -> None:
        """Return when that many contestants wait for entries; `check` raises if one has failed."""
        self._await(lambda: len(self._waiting()) >= contestants, READY_S, check)

    def open_gate(self, entries: int) -> None:
        """Let the group begin at the last `entries` of the stream, now."""
        at = self._ids[-entries - 1] if entries < len(self._ids) else b"0"
        self.client.xgroup_setid(STREAM, GROUP, at)
        # Those that wait behind the end would not see what stands before it.
        for waiting in self._waiting():
            self.client.client_unblock(int(waiting))

    def await_done(self, check: Callable[[], None]) -> None:
        """Return when every entry was read and acknowledged."""
        self._await(self._is_done, STUCK_S, check)

    def drop(self, prefix: str) -> int:
        """Delete every key that begins with `prefix:`, bit by bit; returns how many there were."""
        dropped, cursor = 0, 0
        while True:
            cursor, keys = self.client.scan(cursor, match=f"{prefix}:*", count=1000)
            if keys:
                dropped += self.client.unlink(*keys)
            if cursor == 0:
                return dropped

    def dead(self) -> int:
        """Return how many dead letters there are: on a fair course none."""
        return self.client.xlen(f"{STREAM}:dead")

    def _waiting(self) -> list[str]:
        clients: Any = self.client.client_list(_type="normal")
        return [client["id"] for client in clients if "b" in client["flags"]]

    def _is_done(self) -> bool:
        (group,) = self.client.xinfo_groups(STREAM)
        return bool(group["pending"] == 0 and group["last-delivered-id"] == self._ids[-1])

    def _await(
        self, is_so: Callable[[], bool], moving_s: float, check: Callable[[], None]
    ) -> None:
        deadline = time.monotonic() + moving_s
        at = None
        while not is_so():
            check()
            (group,) = self.client.xinfo_groups(STREAM)
            if group["last-delivered-id"] != at:
                at, deadline = group["last-delivered-id"], time.monotonic() + moving_s
            if time.monotonic() > deadline:
                raise StuckError(f"nothing moved for {moving_s:.0f} s; the group: {group}")
            time.sleep(POLL_S)
