"""A stream of webhooks as Evolution's inboxes send them: the same bytes for the same numbers.

60 % are created messages; an update moves one of the newest messages on: its source id is filled,
its status becomes delivered, then read; a few are deleted. Bodies are 2.4 to 5 KB.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from tests.events import sample

SEED: Final = 5
CREATED_SHARE: Final = 0.6
DELETED_SHARE: Final = 0.03
RECENT: Final = 2_000
"""How many of the newest messages updates choose from; few meet their message in its batch."""

FIRST_ID: Final = 10_000_000
"""The first message's id: cached documents of before have smaller ones."""

BARE_BYTES: Final = 2_200
SMALL_BYTES: Final = 1_450
"""Bytes of a body besides its text: with the conversation's latest message, and without."""

INSTANCES_OF_ACCOUNT: Final = 4
_START_S: Final = 1_735_689_600.0
_STEP_S: Final = 0.05
_WORDS: Final = (
    *("pedido", "entrega", "amanhã", "obrigada", "você", "consegue", "enviar", "o", "comprovante"),
    *(
        "endereço",
        "loja",
        "horário",
        "pagamento",
        "não",
        "sim",
        "já",
        "chegou",
        "código",
        "rastreio",
    ),
    *("produto", "tamanho", "cor", "disponível", "👍"),
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """How much is how different: instances, conversations over all of them, bytes of a body.

    `body_bytes` 0 leaves the sizes as they are in the field.
    """

    instances: int = 20
    conversations: int = 2_000
    body_bytes: int = 0


@dataclass(slots=True)
class _Message:
    """A row of Chatwoot's, as it is now."""

    id: int
    conversation: dict[str, Any]
    body: dict[str, Any]
    latest: dict[str, Any]


@dataclass(slots=True)
class _Desk:
    """All that Chatwoot knows at a moment."""

    random: random.Random
    traffic: Traffic
    conversations: list[dict[str, Any]]
    now_s: float = _START_S
    recent: list[_Message] = field(default_factory=list)
    created: int = 0


def bodies(count: int, traffic: Traffic = Traffic()) -> Iterator[bytes]:
    """Return `count` webhook bodies, in the order of their making."""
    dice = random.Random(SEED)
    rooms = [_conversation(number, dice, traffic) for number in range(traffic.conversations)]
    desk = _Desk(dice, traffic, rooms)
    for _ in range(count):
        desk.now_s += _STEP_S
        made = not desk.recent or dice.random() < CREATED_SHARE
        yield msgspec.json.encode(_create(desk) if made else _update(desk))


def instance(number: int) -> str:
    """Return the name of an instance, which is its inbox's name."""
    return f"loja-{number:04d}"


def _conversation(number: int, dice: random.Random, traffic: Traffic) -> dict[str, Any]:
    """Build a conversation of a contact's: every third has a picture, every second an agent."""
    like = sample("02")["conversation"]
    inbox = number % traffic.instances
    own = {"id": number + 1, "inbox_id": inbox + 1}
    digits = f"55119{number:08d}"
    sender = {
        **like["meta"]["sender"],
        "id": number + 1,
        "name": f"Marina Lopes {number}",
        "identifier": f"{digits}@s.whatsapp.net",
        "phone_number": f"+{digits}",
        "thumbnail": _picture(dice) if number % 3 == 0 and not traffic.body_bytes else "",
    }
    agent = {"assignee": None, "assignee_type": None} if number % 2 else {}
    return {
        **like,
        **own,
        "account": {"id": inbox // INSTANCES_OF_ACCOUNT + 1, "name": "Agência Aurora"},
        "contact_inbox": {**like["contact_inbox"], **own, "contact_id": number + 1},
        "meta": {**like["meta"], "sender": sender, **agent},
    }


def _picture(dice: random.Random) -> str:
    blob = f"{dice.getrandbits(1280):0320x}"
    return f"https://chat.exemplo.test/rails/active_storage/representations/redirect/{blob}/a.jpg"


def _create(desk: _Desk) -> dict[str, Any]:
    room = desk.random.choice(desk.conversations)
    outgoing = desk.random.random() < 0.5  # noqa: PLR2004 - as many answers as questions
    made = _message(desk, room, FIRST_ID + desk.created, outgoing=outgoing)
    desk.created += 1
    desk.recent.append(made)
    if len(desk.recent) > RECENT:
        del desk.recent[0]
    room["messages"] = [] if _is_small(desk.traffic) else [made.latest]
    return _webhook(desk, made, "message_created")


def _message(desk: _Desk, room: dict[str, Any], message_id: int, *, outgoing: bool) -> _Message:
    """Build a message of the contact, every tenth with an image, or of the agent."""
    like = "02" if outgoing else "06" if message_id % 10 == 0 else "01"
    body = dict(sample(like))
    latest = dict(body["conversation"]["messages"][0])
    content = _content(desk)
    at = _iso(desk.now_s)
    source = None if outgoing else f"WAID:3EB0{desk.random.getrandbits(64):016X}"
    inbox_id, sender = room["inbox_id"], room["meta"]["sender"]
    body |= {
        "id": message_id,
        "account": room["account"],
        "inbox": {"id": inbox_id, "name": instance(inbox_id - 1)},
        "conversation": room,
        "content": content,
        "created_at": at,
        "source_id": source,
    }
    latest |= {
        "id": message_id,
        "account_id": room["account"]["id"],
        "inbox_id": inbox_id,
        "conversation_id": room["id"],
        "content": content,
        "processed_message_content": content,
        "created_at": int(desk.now_s),
        "updated_at": at,
        "source_id": source,
    }
    if not outgoing:
        body["sender"] = {**sender, "account": room["account"], "avatar": sender["thumbnail"]}
        latest |= {"sender": sender, "sender_id": sender["id"]}
    return _Message(message_id, room, body, latest)


def _content(desk: _Desk) -> str:
    """Write a text; one that makes a body of a given size stands in it three times, or once."""
    if size := desk.traffic.body_bytes:
        bare, times = (SMALL_BYTES, 1) if _is_small(desk.traffic) else (BARE_BYTES, 3)
        return "a" * max(1, (size - bare) // times)
    words = 2 + int(desk.random.expovariate(1 / 12))
    return " ".join(desk.random.choices(_WORDS, k=min(words, 120)))


def _is_small(traffic: Traffic) -> bool:
    """Tell whether bodies are to be so small that they must do without their `messages`."""
    return 0 < traffic.body_bytes < BARE_BYTES


def _update(desk: _Desk) -> dict[str, Any]:
    message = desk.random.choice(desk.recent)
    message.latest["updated_at"] = _iso(desk.now_s)
    if desk.random.random() < DELETED_SHARE:
        gone = {"content": "This message was deleted", "content_attributes": {"deleted": True}}
        message.body |= gone
        message.latest |= gone
        message.body.pop("attachments", None)
        message.latest.pop("attachments", None)
    elif message.body["source_id"] is None:
        source = f"WAID:BAE5{desk.random.getrandbits(64):016X}"
        message.body["source_id"] = message.latest["source_id"] = source
    else:
        before = message.latest["status"]
        message.latest["status"] = "delivered" if before == "sent" else "read"
    return _webhook(desk, message, "message_updated")


def _webhook(desk: _Desk, message: _Message, event: str) -> dict[str, Any]:
    seconds = int(desk.now_s)
    message.conversation |= {
        "updated_at": round(desk.now_s, 6),
        "last_activity_at": seconds,
        "timestamp": seconds,
        "waiting_since": seconds,
    }
    return {**message.body, "event": event}


def _iso(at_s: float) -> str:
    at = datetime.fromtimestamp(at_s, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
