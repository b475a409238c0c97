"""What of an instance is to be forgotten: all of it, one conversation, or one contact."""

from collections.abc import Collection
from dataclasses import dataclass

from worker.core.binding_rules import Bindings
from worker.core.cache_keys import aliases, digits_of
from worker.core.contact_names import lookup_names
from worker.core.documents import Contact, Conversation, Message
from worker.core.tooling.entry_summary import EntrySummary


@dataclass(frozen=True, slots=True)
class PurgeScope:
    """A part of one instance; all of it where neither conversation nor contact is stated."""

    instance: str
    conversation_id: int | None = None
    contact: frozenset[str] = frozenset()

    @classmethod
    def of(cls, instance: str, conversation_id: int | None, contact: str | None) -> "PurgeScope":
        """Return what somebody means; `contact` is a JID, or a phone number however written.

        Never a number's other form in Brazil, which may be another person's.
        """
        text = contact if contact and "@" in contact else digits_of(contact or "")
        names = lookup_names(text).own if text else ()
        return cls(instance, conversation_id, frozenset(names))

    @property
    def is_all(self) -> bool:
        """Whether nothing narrows it."""
        return self.conversation_id is None and not self.contact

    def has_conversation(self, conversation: Conversation) -> bool:
        """Say whether a conversation is part of it."""
        return conversation.id == self.conversation_id or self._is(conversation.contact)

    def has_message(self, message: Message, conversations: Collection[int]) -> bool:
        """Say whether a message is part of it: as one of these conversations, or by its sender."""
        if message.conversation_id in conversations:
            return True
        who = message.sender
        return who is not None and self._is(
            Contact(identifier=who.identifier, phone_number=who.phone_number)
        )

    def has_entry(
        self, trace: EntrySummary, bindings: Bindings, conversations: Collection[int] = ()
    ) -> bool:
        """Say whether an entry is about it."""
        if trace.belongs_to(bindings) != self.instance:
            return False
        if self.is_all or not self.contact.isdisjoint(trace.contacts):
            return True
        return trace.conversation_id in {self.conversation_id, *conversations} - {None}

    def _is(self, contact: Contact | None) -> bool:
        return not self.contact.isdisjoint(aliases(contact))
