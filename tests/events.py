"""Events of the shapes that Evolution's inboxes send, to be varied by tests."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

PAYLOADS = Path(__file__).parent / "payloads"


@cache
def _sample(name: str) -> str:
    (path,) = PAYLOADS.glob(f"evolution/{name}*.json")
    return path.read_text()


def sample(name: str) -> dict[str, Any]:
    """Return the example whose file name begins so."""
    loaded: dict[str, Any] = json.loads(_sample(name))
    return loaded


def message(  # noqa: PLR0913 - what a test may want to vary
    message_id: int = 90214,
    *,
    event: str = "message_created",
    account_id: int = 3,
    inbox_id: int = 12,
    inbox_name: str = "loja-aurora",
    conversation_id: int = 1584,
    channel: str = "Channel::Api",
    content: str | None = "Oi!",
    source_id: str | None = None,
    at: float = 1_790_863_271.5,
    status: str | None = None,
    deleted: bool = False,
) -> dict[str, Any]:
    """Return a message event; with a status it is the conversation's latest message."""
    body = copy.deepcopy(sample("01"))
    body |= {"event": event, "id": message_id, "content": content, "source_id": source_id}
    body["account"] = {"id": account_id, "name": "Conta"}
    body["inbox"] = {"id": inbox_id, "name": inbox_name}
    body["created_at"] = "2026-10-01T14:01:11.498Z"
    conversation = body["conversation"]
    conversation |= {"id": conversation_id, "inbox_id": inbox_id, "channel": channel}
    conversation |= {"updated_at": at, "last_activity_at": int(at), "timestamp": int(at)}
    conversation["account"] = body["account"]
    latest = conversation["messages"][0]
    latest |= {"id": message_id if status else 1, "status": status or "sent"}
    latest |= {"account_id": account_id, "inbox_id": inbox_id}
    latest["updated_at"] = "2026-10-01T14:01:11.498Z"
    if deleted:
        body["content_attributes"] = {"deleted": True}
        body["content"] = "This message was deleted"
    return body


def encode(body: Any) -> bytes:
    """Write a body as Rails does: compact, UTF-8."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
