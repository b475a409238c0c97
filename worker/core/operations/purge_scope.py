"""The scope of a purge: a whole instance, one conversation, or one contact."""

from collections.abc import Collection
from dataclasses import dataclass

from worker.core.binding_rules import Bindings
from worker.core.contact_identifiers import all_identifiers, lookup_identifiers, phone_digits
from worker.core.documents import Contact, Conversation, Message
from worker.core.operations.entry_summary import EntrySummary


@dataclass(frozen=True, slots=True)
class PurgeScope:
    """A part of one instance; the whole one if neither conversation nor contact is set."""

    instance: str
    conversation_id: int | None = None
    contact: frozenset[str] = frozenset()

    @classmethod
    def of(cls, instance: str, conversation_id: int | None, contact: str | None) -> "PurgeScope":
        """Return a scope; `contact` is a JID, or a phone number in any format.

        A number's other form in Brazil is left out: it may be another person's.
        """
        text = contact if contact and "@" in contact else phone_digits(contact or "")
        names = lookup_identifiers(text).own if text else ()
        return cls(instance, conversation_id, frozenset(names))

    @property
    def is_all(self) -> bool:
        """Whether it is the whole instance."""
        return self.conversation_id is None and not self.contact

    def has_conversation(self, conversation: Conversation) -> bool:
        """Say whether a conversation is in the scope."""
        return conversation.id == self.conversation_id or self._has(conversation.contact)

    def has_message(self, message: Message, conversations: Collection[int]) -> bool:
        """Say whether a message is in one of these conversations, or its sender is in the scope."""
        if message.conversation_id in conversations:
            return True
        sender = message.sender
        return sender is not None and self._has(
            Contact(identifier=sender.identifier, phone_number=sender.phone_number)
        )

    def has_entry(
        self, summary: EntrySummary, bindings: Bindings, conversations: Collection[int] = ()
    ) -> bool:
        """Say whether an entry is about the scope, or one of these conversations."""
        if summary.belongs_to(bindings) != self.instance:
            return False
        if self.is_all or not self.contact.isdisjoint(summary.contacts):
            return True
        return summary.conversation_id in {self.conversation_id, *conversations} - {None}

    def _has(self, contact: Contact | None) -> bool:
        return not self.contact.isdisjoint(all_identifiers(contact))
