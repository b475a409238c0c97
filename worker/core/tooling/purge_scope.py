"""What a purge deletes of an instance: all of it, one conversation, or one contact."""

from collections.abc import Collection
from dataclasses import dataclass

from worker.core.binding_rules import Bindings
from worker.core.cache_keys import aliases, digits_of
from worker.core.contact_names import lookup_names
from worker.core.documents import Contact, Conversation, Message
from worker.core.tooling.entry_summary import EntrySummary


@dataclass(frozen=True, slots=True)
class PurgeScope:
    """A part of one instance; all of it without a conversation and a contact."""

    instance: str
    conversation_id: int | None = None
    contact: frozenset[str] = frozenset()

    @classmethod
    def of(cls, instance: str, conversation_id: int | None, contact: str | None) -> "PurgeScope":
        """Return the scope; `contact` is a JID, or a phone number in any notation.

        The other form of a Brazilian number is left out: it may be another person's.
        """
        text = contact if contact and "@" in contact else digits_of(contact or "")
        names = lookup_names(text).own if text else ()
        return cls(instance, conversation_id, frozenset(names))

    @property
    def is_all(self) -> bool:
        """Whether it is the whole instance."""
        return self.conversation_id is None and not self.contact

    def has_conversation(self, conversation: Conversation) -> bool:
        """Say whether a conversation is in the scope."""
        return conversation.id == self.conversation_id or self._has_contact(conversation.contact)

    def has_message(self, message: Message, conversations: Collection[int]) -> bool:
        """Say whether a message is in the scope, by its sender or as one of these conversations."""
        sender = message.sender
        return message.conversation_id in conversations or (
            sender is not None
            and self._has_contact(
                Contact(identifier=sender.identifier, phone_number=sender.phone_number)
            )
        )

    def has_entry(
        self, entry: EntrySummary, bindings: Bindings, conversations: Collection[int] = ()
    ) -> bool:
        """Say whether an entry is in the scope, by itself or as one of these conversations."""
        if entry.belongs_to(bindings) != self.instance:
            return False
        if self.is_all or not self.contact.isdisjoint(entry.contacts):
            return True
        return entry.conversation_id in {self.conversation_id, *conversations} - {None}

    def _has_contact(self, contact: Contact | None) -> bool:
        return not self.contact.isdisjoint(aliases(contact))
