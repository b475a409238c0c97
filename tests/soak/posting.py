"""Chatwoot as a client: each event is posted once, to one worker, and never again."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from tests.soak.events import Events, Sent

_SENDERS: Final = 64
_GIVE_UP_S: Final = 5.0
"""Chatwoot's own time-out for a webhook."""


class Posting:
    """Posts events at a rate, in turn to each of the ports; `answers` counts what came back."""

    def __init__(self, events: Events, ports: Sequence[int], *, rate: float) -> None:
        self._events = events
        self._ports = ports
        self._rate = rate
        self._turn = 0
        self.answers: Counter[str] = Counter()
        self.posted = 0

    async def run(self, seconds: float) -> None:
        """Post as many events as fit into the time, however late the answers come."""
        started = time.monotonic()
        async with asyncio.TaskGroup() as senders:
            for _ in range(_SENDERS):
                senders.create_task(self._send(started, int(self._rate * seconds)))

    async def _send(self, started: float, total: int) -> None:
        while self.posted < total:
            due = started + self.posted / self._rate
            self.posted += 1
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            sent = self._events.following()
            answer = await self._answer(sent)
            self.answers[answer] += 1
            if answer == "200":
                self._events.taken(sent)

    async def _answer(self, sent: Sent) -> str:
        """The status code, or why there is none; a port that refuses is passed over, once each."""
        try:
            async with asyncio.timeout(_GIVE_UP_S):
                for _ in self._ports:
                    self._turn += 1
                    port = self._ports[self._turn % len(self._ports)]
                    try:
                        return await _post(port, sent.body())
                    except ConnectionRefusedError:
                        continue
                return "refused"
        except TimeoutError:
            return "too late"
        except (OSError, asyncio.IncompleteReadError):
            return "cut"


async def _post(port: int, body: bytes) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"POST /chatwoot/webhook HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        status = await reader.readuntil(b"\r\n")
        return status.split()[1].decode()
    finally:
        writer.close()
