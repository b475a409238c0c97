"""What is posted, and what must be in the cache in the end."""

import json
import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tests.e2e.place import Place
from tests.events import encode, message

INBOXES: Final = 5
_RECENT: Final = 500
_UPDATES: Final = 0.3
_PAGE: Final = 1000
_BEGUN: Final = time.time() - 100_000

# Numbers and words that stand nowhere else in the sample, to be replaced in its bytes, all in one
# pass: an id may be one of these numbers.
_TEMPLATE: Final = encode(
    message(
        987654321,
        event="message_@kind@",
        inbox_id=77777,
        inbox_name="@inbox@",
        conversation_id=66666,
        content="@version@",
        at=1111111111.5,
    )
)
_PLACES: Final = re.compile(rb"987654321|@kind@|77777|@inbox@|66666|@version@|1111111111\.5")


@dataclass(frozen=True, slots=True)
class Sent:
    """One state of one message, as it is posted."""

    id: int
    version: int

    def body(self) -> bytes:
        """The webhook's body; later versions are dated later."""
        inbox = self.id % INBOXES
        in_place_of = {
            b"987654321": b"%d" % self.id,
            b"@kind@": b"updated" if self.version else b"created",
            b"77777": b"%d" % (100 + inbox),
            b"@inbox@": b"soak-%d" % inbox,
            b"66666": b"%d" % (self.id % 97 * INBOXES + inbox + 1),
            b"@version@": b"v%d" % self.version,
            b"1111111111.5": f"{_BEGUN + self.version:.1f}".encode(),
        }
        return _PLACES.sub(lambda found: in_place_of[found[0]], _TEMPLATE)


@dataclass(slots=True)
class Verdict:
    """How the cache differs from what was answered 200."""

    lost: list[int] = field(default_factory=list)
    outdated: list[int] = field(default_factory=list)
    mixed: list[int] = field(default_factory=list)
    dead: int = 0
    dead_twice: int = 0

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, gone backwards, mixed, or buried twice."""
        return not (self.lost or self.outdated or self.mixed or self.dead_twice)


class Events:
    """Makes events and remembers which of them were answered 200."""

    def __init__(self) -> None:
        self._sent: list[int] = [0]
        self._taken: dict[int, int] = {}

    def following(self) -> Sent:
        """A new message, or a later state of a recent one."""
        newest = len(self._sent) - 1
        if newest > 0 and random.random() < _UPDATES:
            message_id = random.randint(max(1, newest - _RECENT), newest)
            self._sent[message_id] += 1
        else:
            message_id = newest + 1
            self._sent.append(0)
        return Sent(message_id, self._sent[message_id])

    def taken(self, sent: Sent) -> None:
        """Note that an event was answered 200."""
        self._taken[sent.id] = max(sent.version, self._taken.get(sent.id, -1))

    def judge(self, place: Place) -> Verdict:
        """Compare the cache with what was answered 200; a dead letter is not lost."""
        letters = place.letters()
        ids = [letter[b"_id"] for letter in letters]
        outcome = Verdict(dead=len(letters), dead_twice=len(ids) - len(set(ids)))
        buried = {json.loads(letter[b"payload"])["id"] for letter in letters}
        for some in _pages(list(self._taken)):
            keys = [place.key(f"soak-{n % INBOXES}", "message", n) for n in some]
            for message_id, value in zip(some, place.values(keys), strict=True):
                if message_id not in buried:
                    self._compare(outcome, message_id, value)
        self._look_for_strays(outcome, place)
        return outcome

    def _compare(self, outcome: Verdict, message_id: int, value: bytes | None) -> None:
        if value is None:
            outcome.lost.append(message_id)
            return
        document = json.loads(value)
        version = int(document["content"].removeprefix("v"))
        if not self._taken[message_id] <= version <= self._sent[message_id]:
            outcome.outdated.append(message_id)
        if document["instance"] != f"soak-{message_id % INBOXES}" or document["id"] != message_id:
            outcome.mixed.append(message_id)

    def _look_for_strays(self, outcome: Verdict, place: Place) -> None:
        """Every message of an instance must be one of its own."""
        for key in place.found():
            *_, instance, kind, last = key.decode().split(":")
            if kind == "message" and instance != f"soak-{int(last) % INBOXES}":
                outcome.mixed.append(int(last))


def _pages(ids: list[int]) -> Iterable[list[int]]:
    return (ids[at : at + _PAGE] for at in range(0, len(ids), _PAGE))
