"""The course every contestant runs: one filled stream, and a group that begins when told to."""

import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

import redis

STREAM: Final = "bench:events"
GROUP: Final = "bench"
PORTION: Final = 500
POLL_S: Final = 0.02
"""How often the group is looked at: seldom enough to cost the server nothing."""

CLOSE: Final = 2_000
CLOSE_POLL_S: Final = 0.002
"""How exactly the end of a run is seen: with so many entries to go, the group is looked at so."""

STUCK_S: Final = 60.0


class StuckError(Exception):
    """Nothing moved for a long while."""


class Workload:
    """A stream on a server, filled once."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._ids: list[bytes] = []

    def __len__(self) -> int:
        return len(self._ids)

    def fill(self, bodies: Iterable[bytes], shown: Callable[[int], None]) -> None:
        """Put bodies on the stream as any producer would; `shown` is told of each portion."""
        source = iter(bodies)
        while portion := list(islice(source, PORTION)):
            with self._client.pipeline(transaction=False) as pipeline:
                for body in portion:
                    pipeline.xadd(STREAM, {"payload": body})
                self._ids += pipeline.execute()
            shown(len(portion))

    def clear(self) -> None:
        """Delete the stream and its group."""
        self._client.unlink(STREAM)
        self._ids.clear()

    def close_gate(self) -> None:
        """Put a new group at the stream's end, where contestants wait."""
        if self._client.exists(STREAM):
            self._client.xgroup_destroy(STREAM, GROUP)
        self._client.xgroup_create(STREAM, GROUP, "$", mkstream=True)

    def await_waiting(self, contestants: int, check: Callable[[], None]) -> None:
        """Return when that many contestants wait for entries; `check` raises if one has failed."""
        self._await(lambda: len(self._waiting()) >= contestants, check, close=0)

    def open_gate(self, entries: int) -> None:
        """Let the group begin at the last `entries` of the stream, now."""
        at = self._ids[-entries - 1] if entries < len(self._ids) else b"0"
        self._client.xgroup_setid(STREAM, GROUP, at)
        # Those that wait behind the end would not see what stands before it.
        for waiting in self._waiting():
            self._client.client_unblock(int(waiting))

    def await_done(self, check: Callable[[], None]) -> None:
        """Return when every entry was read and acknowledged."""
        self._await(self._is_done, check, close=CLOSE)

    def _waiting(self) -> list[str]:
        clients: Any = self._client.client_list(_type="normal")
        return [client["id"] for client in clients if "b" in client["flags"]]

    def _is_done(self) -> bool:
        group = self._group()
        return bool(group["pending"] == 0 and group["last-delivered-id"] == self._ids[-1])

    def _group(self) -> dict[str, Any]:
        (group,) = self._client.xinfo_groups(STREAM)
        return dict(group)

    def _await(self, is_so: Callable[[], bool], check: Callable[[], None], *, close: int) -> None:
        seen, deadline = self._group(), time.monotonic() + STUCK_S
        while not is_so():
            check()
            group = self._group()
            if group != seen:
                seen, deadline = group, time.monotonic() + STUCK_S
            if time.monotonic() > deadline:
                raise StuckError(f"nothing moved for {STUCK_S:.0f} s; the group: {group}")
            lag = group.get("lag")
            time.sleep(CLOSE_POLL_S if lag is not None and lag < close else POLL_S)
