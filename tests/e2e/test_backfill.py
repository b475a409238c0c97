"""Backfill beside live events, with `kill -9` in the middle: the newest state of both is kept.

`make test-backfill MESSAGES=20000` does the same with more.
"""

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.place import Place
from tests.e2e.process import PROGRAM, environment, running
from tests.fakes.chatwoot import Chatwoot, encoded
from tests.fakes.http import Reply, Request
from tests.fakes.rows import ConversationRow, Json, MessageRow, delete
from tests.waiting import wait_until

MESSAGES = int(os.environ.get("BACKFILL_MESSAGES", "600"))
A_CONVERSATION = 120
NOW_US = int(time.time()) * 1_000_000
HOUR_US = 3_600_000_000


class Live:
    """Live traffic: rows change, and each change is sent as a webhook a little later."""

    def __init__(self, chatwoot: Chatwoot, place: Place) -> None:
        self.sent = 0
        self.lock = threading.Lock()
        self._chatwoot = chatwoot
        self._place = place
        self._random = random.Random(MESSAGES)
        self._rows = chatwoot.conversations[3]
        self._last_us = NOW_US
        # Rows are not read while they change, as in a database.
        chatwoot.fault = self._answer_alone

    def _answer_alone(self, request: Request) -> Reply:
        with self.lock:
            return self._chatwoot.answer(request)

    def change(self) -> None:
        """Change some rows, and send their webhooks in another order than that of the changes.

        A status is sent while its message is the latest: no webhook carries it otherwise.
        """
        with self.lock:
            bodies = [self._change_status()]
            changed = [self._change_one() for _ in range(8)]
            self._random.shuffle(changed)
            bodies += [self._body(row, message) for row, message in changed]
        self._place.add(*bodies)
        self.sent += len(bodies)

    def _body(self, row: ConversationRow, message: MessageRow | None) -> bytes:
        if message is None:
            return encoded(row.conversation_webhook("conversation_updated"))
        return encoded(row.webhook(message, "message_updated"))

    def _now_us(self) -> int:
        self._last_us = max(self._last_us + 1000, int(time.time() * 1_000_000))
        return self._last_us

    def _change_status(self) -> bytes:
        row = self._random.choice(self._rows)
        (message,) = row.latest()
        message.status, message.updated_us = "read", self._now_us()
        return self._body(row, message)

    def _change_one(self) -> tuple[ConversationRow, MessageRow | None]:
        row, now_us = self._random.choice(self._rows), self._now_us()
        message = self._random.choice(row.messages)
        match self._random.randrange(5):
            case 0:
                delete(message, now_us)
            case 1:
                message = row.add(next_id(self._rows), now_us, f"new at {now_us}")
            case 2:
                row.touch(now_us, self._random.choice(["open", "resolved"]))
                return row, None
            case _ if not message.content_attributes:
                message.content, message.updated_us = f"edited at {now_us}", now_us
        return row, message


def next_id(rows: list[ConversationRow]) -> int:
    return 1 + max(message.id for row in rows for message in row.messages[-1:])


def filled(chatwoot: Chatwoot) -> None:
    """Give Chatwoot its history."""
    numbers = iter(range(1, MESSAGES + 1))
    for conversation_id in range(1, MESSAGES // A_CONVERSATION + 1):
        born_us = NOW_US - HOUR_US
        row = ConversationRow(conversation_id, 3, 12, "loja", born_us, born_us, born_us)
        for number, _ in zip(numbers, range(A_CONVERSATION), strict=False):
            row.add(number, born_us + number * 1000, f"text {number}")
        chatwoot.add_conversation(row)


def sent_before(chatwoot: Chatwoot) -> Iterator[Json]:
    """Yield webhooks of some messages, and then change them without a webhook."""
    for row in chatwoot.conversations[3]:
        for message in row.messages[::3]:
            yield row.webhook(message, "message_created")
            message.content, message.updated_us = f"missed {message.id}", row.activity_us + 1000


@contextmanager
def at_work(live: Live) -> Iterator[None]:
    """Chatwoot works on until the end of the block."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.004):
            live.change()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def started(directory: Path, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, "backfill", "loja"],
        cwd=directory,
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def has_read(place: Place, conversations: int) -> Callable[[], bool]:
    """Whether a backfill has noted that it began so many conversations."""
    return lambda: place.redis.hlen(f"{place.stream}:backfill:loja") > conversations


async def test_the_newest_state_of_both_is_kept_after_kill_9_in_the_middle(
    place: Place, tmp_path: Path
) -> None:
    with Chatwoot() as chatwoot:
        filled(chatwoot)
        settings = place.settings(
            INSTANCES='{"3/12": "loja"}',
            CONVERSATION_MESSAGES="10000",
            CHATWOOT_URL=chatwoot.url,
            CHATWOOT_TOKEN="admin-token",
            CHATWOOT_REQUESTS_PER_S="300",
        )
        place.add(*sent_before(chatwoot))
        live = Live(chatwoot, place)
        async with running(tmp_path, settings):
            with at_work(live):
                killed = started(tmp_path, settings)
                half = len(chatwoot.conversations[3]) // 2
                await wait_until(has_read(place, half), "half is read", timeout_s=120)
                killed.kill()
                killed.communicate()
                again = started(tmp_path, settings)
                out, err = again.communicate(timeout=600)
                assert again.returncode == 0, err
            await place.settled(timeout_s=120)
        assert b"messages of" in out
        assert live.sent > 0
        assert place.letters() == []
        assert not place.redis.exists(f"{place.stream}:backfill:loja")
        assert differences(place, chatwoot) == []


def differences(place: Place, chatwoot: Chatwoot) -> list[str]:
    """Where the cache is not what Chatwoot's rows are."""
    found = []
    for row in chatwoot.conversations[3]:
        document = place.document("loja", "conversation", row.id)
        if document["status"] != row.status:
            found.append(f"conversation {row.id}: {document['status']}, not {row.status}")
        for message in row.messages:
            document = place.document("loja", "message", message.id)
            # A new message that was not the latest when its webhook was made has none.
            status = document and (document["status"] or "sent")
            actual = document and (document["content"], document["deleted"], status)
            expected = message.content, bool(message.content_attributes), message.status
            if actual != expected:
                found.append(f"message {message.id}: {actual}, not {expected}")
        timeline = place.redis.zcard(place.key("loja", "conversation", row.id, "messages"))
        if timeline != len(row.messages):
            found.append(f"timeline {row.id}: {timeline} of {len(row.messages)}")
    return found
