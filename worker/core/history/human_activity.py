"""Says whether a person is at work in a conversation, so that a bot can stay silent."""

from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from worker.core.history.document_views import ConversationView, MessageView
from worker.core.history.message_origin import Origin
from worker.core.timestamps import to_iso

DEFAULT_WINDOW_S: Final = 3600
MAX_WINDOW_S: Final = 604_800

Reason = Literal["assigned", "agent_wrote", "phone_wrote"]

_REASONS: Final[Mapping[Origin | None, Reason]] = {"agent": "agent_wrote", "phone": "phone_wrote"}


class HumanActivity(Struct, frozen=True):
    """Whether a person is at work, and why.

    `since` is the time of the person's last message, and `until` the end of the window after it;
    an assignment has neither, it lasts until it is taken back or the conversation is resolved.
    """

    active: bool
    reason: Reason | None
    since: str | None
    until: str | None


INACTIVE: Final = HumanActivity(active=False, reason=None, since=None, until=None)
_ASSIGNED: Final = HumanActivity(active=True, reason="assigned", since=None, until=None)


def by_conversation(conversation: ConversationView | None) -> HumanActivity | None:
    """Return what the conversation decides; None if its messages do."""
    if conversation is None:
        return None
    if conversation.status == "resolved":
        return INACTIVE
    return _ASSIGNED if conversation.assigned else None


def by_messages(recent: list[MessageView], window_s: int) -> HumanActivity | None:
    """Return what the messages within the window decide; None if no person wrote to the contact."""
    of_people = [m for m in recent if m.origin in _REASONS and not m.private]
    if not of_people:
        return None
    last = max(of_people, key=lambda message: message.created_us)
    until_us = last.created_us + window_s * 1_000_000
    return HumanActivity(
        active=True,
        reason=_REASONS[last.origin],
        since=to_iso(last.created_us),
        until=to_iso(until_us),
    )
