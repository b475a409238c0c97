"""Says who wrote a message.

Evolution posts all it sends with the token of one Chatwoot user, with WhatsApp's id as source id
from the start. What an agent types in Chatwoot has no source id then. Whether a message of
Evolution's was typed on the phone or sent by a program, only the shape of its id tells.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from worker.core.documents import Message
from worker.core.merge import is_created_with_source

SOURCE_ID_PREFIX: Final = "WAID:"
"""Evolution writes this before WhatsApp's message id, which is the id that bots know."""

Origin = Literal["contact", "agent", "bot", "phone", "api"]
"""The author of a message: `bot` is of Chatwoot, `api` a program that sends through Evolution."""

_OF_API: Final = re.compile("3E.{20}", re.DOTALL)
"""An id as Baileys makes it, and so Evolution's API; WhatsApp Web's are alike."""

_OF_PERSON: Final = re.compile("3A.{18}|.{21}|.{32}|3F.*|.{18}", re.DOTALL)
"""An id as WhatsApp makes it on iOS, on Android, and in its desktop application."""


@dataclass(frozen=True, slots=True)
class OriginRules:
    """What an installation states about its authors.

    `evolution_users`: the Chatwoot users whose token Evolution has, by account. In an account that
    is not listed, any user may be one. `filled_later`: Evolution adds source ids to what agents
    typed, in Chatwoot's database. `web_is_phone`: the shop's people write in WhatsApp Web.
    """

    evolution_users: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    filled_later: bool = False
    web_is_phone: bool = False

    def origin_of(self, message: Message) -> Origin | None:
        """Return the author of a message; None for activity messages."""
        match message.message_type:
            case "incoming":
                return "contact"
            case "activity":
                return None
            case "template":
                return "bot"
        sender = message.sender
        if sender is not None and sender.type not in (None, "contact"):
            return self._of_user(message, sender.id) if sender.type == "user" else "bot"
        # Chatwoot states no sender for its automation, nor for a user who has been deleted.
        attributes = message.content_attributes or {}
        if attributes.get("automation_rule_id") is not None:
            return "bot"
        return self._of_evolution(message) or "bot"

    def _of_user(self, message: Message, user: int | str | None) -> Origin:
        users = self.evolution_users.get(message.account_id)
        if users is not None and user not in users:
            return "agent"
        return self._of_evolution(message) or "agent"

    def _of_evolution(self, message: Message) -> Origin | None:
        """Return who wrote a message that Evolution posted; None if it was typed in Chatwoot."""
        source_id = message.source_id or ""
        if not source_id.startswith(SOURCE_ID_PREFIX):
            return None
        if _OF_PERSON.fullmatch(source_id, len(SOURCE_ID_PREFIX)):
            return "phone"
        # Evolution sends what agents type with ids of its own, never with those of a phone.
        if self.filled_later and not is_created_with_source(message.revision):
            return None
        is_web = _OF_API.fullmatch(source_id, len(SOURCE_ID_PREFIX)) is not None
        return "phone" if self.web_is_phone and is_web else "api"
