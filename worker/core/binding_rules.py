"""Decides which instance an event belongs to, and detects conflicts.

A *binding* states that an inbox (`account/inbox`) is cached under an instance. Bindings come from
the operator, whose bindings have priority and do not change; from a producer that states the
instance; or from the inbox's name, if its channel is the one that Evolution creates, because
Evolution names the inbox after the instance.

Conflicts are: an inbox with a second instance, an instance in a second account, a further inbox of
an instance by name alone, and an expected instance that differs from the binding.
"""

import shlex
from collections import defaultdict
from collections.abc import Mapping, Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property

from worker.core.cache_keys import MAX_NAME_BYTES
from worker.core.chatwoot_event import API_CHANNEL, ChatwootEvent, Destination
from worker.core.stream_entry import Envelope
from worker.errors import BindingConflict, UnknownInbox


def inbox_key(account_id: int, inbox_id: int) -> str:
    """Return an inbox as it is written in the bindings hash and in settings."""
    return f"{account_id}/{inbox_id}"


def bind_command(inbox: str, instance: str) -> str:
    """Return the shell command that binds an inbox."""
    words = ["chatwoot-cache", "bindings", "set", inbox, instance]
    if instance.startswith("-"):
        words.insert(3, "--")
    return shlex.join(words)


@dataclass(frozen=True, slots=True)
class Bindings:
    """All bindings: inbox to instance, and instance to its account.

    `version` changes when a binding is changed or removed, but not when one is added.
    """

    instances: Mapping[str, str] = field(default_factory=dict)
    accounts: Mapping[str, int] = field(default_factory=dict)
    version: bytes = field(default=b"", compare=False)

    @classmethod
    def of_operator(cls, instances: Mapping[str, str]) -> "Bindings":
        """Return the bindings of the setting `INSTANCES`."""
        accounts = {name: int(inbox.partition("/")[0]) for inbox, name in instances.items()}
        return cls(dict(instances), accounts)

    def overruled_by(self, other: "Bindings") -> "Bindings":
        """Return these bindings, replaced by those of `other` where they differ."""
        return Bindings(
            {**self.instances, **other.instances},
            {**self.accounts, **other.accounts},
            self.version or other.version,
        )

    def inboxes_of(self, instance: str) -> list[str]:
        """Return the inboxes of an instance."""
        return [inbox for inbox, name in self.instances.items() if name == instance]

    def accounts_of_inboxes(self) -> Mapping[int, list[int]]:
        """Return the accounts by inbox id, for events that state no account."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for inbox in self.instances:
            account_id, _, inbox_id = inbox.partition("/")
            found[int(inbox_id)].append(int(account_id))
        return found


@dataclass(frozen=True, slots=True)
class BindingClaim:
    """A requested binding; `further`: the instance may have other inboxes already."""

    account_id: int
    inbox_id: int
    instance: str
    further: bool

    @property
    def inbox(self) -> str:
        """The inbox as it is written in the bindings hash."""
        return inbox_key(self.account_id, self.inbox_id)


class BindingResolver:
    """Resolves events by one state of the bindings.

    `fixed` are the inboxes that the operator's settings bind, which only they can change.
    """

    def __init__(
        self, bindings: Bindings, *, from_inbox_name: bool, fixed: AbstractSet[str] = frozenset()
    ) -> None:
        self._bindings = bindings
        self._from_inbox_name = from_inbox_name
        self._fixed = fixed
        self._destinations: dict[tuple[int | None, int], Destination] = {}

    def resolve(
        self, event: ChatwootEvent, envelope: Envelope
    ) -> Destination | BindingClaim | None:
        """Return the destination of an event, or the binding that must be claimed first.

        None if its inbox is unbound and of another channel.
        Raises `UnknownInbox` and `BindingConflict`.
        """
        # Most events come from an inbox that was resolved before, and do not contradict it.
        destination = self._destinations.get((event.account_id, event.inbox_id))
        if (
            destination is not None
            and envelope.account_id in (None, destination.account_id)
            and envelope.instance in (None, destination.instance)
            and envelope.expect in (None, destination.instance)
        ):
            return destination
        return self._resolve(event, envelope)

    def _resolve(
        self, event: ChatwootEvent, envelope: Envelope
    ) -> Destination | BindingClaim | None:
        account_id = self._account(event, envelope)
        inbox = inbox_key(account_id, event.inbox_id)
        bound = self._bindings.instances.get(inbox)
        if bound is None:
            return self._claim(event, envelope, account_id)

        self._check_stated(inbox, bound, envelope.instance, "the producer states")
        self._check_stated(inbox, bound, envelope.expect, "the webhook's URL names")
        self._check_account(
            inbox, bound, account_id, stated=bound in (envelope.instance, envelope.expect)
        )
        destination = Destination(bound, account_id)
        if event.account_id is not None:
            self._destinations[event.account_id, event.inbox_id] = destination
        return destination

    @cached_property
    def _accounts_of_inboxes(self) -> Mapping[int, list[int]]:
        return self._bindings.accounts_of_inboxes()

    def _account(self, event: ChatwootEvent, envelope: Envelope) -> int:
        if event.account_id and envelope.account_id and event.account_id != envelope.account_id:
            raise BindingConflict(
                f"the body names account {event.account_id}, "
                f"but was signed with the secret of account {envelope.account_id}",
                inbox=inbox_key(event.account_id, event.inbox_id),
            )
        stated = event.account_id or envelope.account_id
        if stated:
            return stated

        known = self._accounts_of_inboxes.get(event.inbox_id, [])
        if len(known) != 1:
            raise UnknownInbox(
                f"the event states no account, and {len(known)} bindings have inbox "
                f"{event.inbox_id}: replay it once a message of that inbox was cached",
                inbox=f"ACCOUNT/{event.inbox_id}",
            )
        return known[0]

    def _claim(
        self, event: ChatwootEvent, envelope: Envelope, account_id: int
    ) -> BindingClaim | None:
        if envelope.instance is None and event.channel not in (API_CHANNEL, None):
            return None

        inbox = inbox_key(account_id, event.inbox_id)
        instance = envelope.instance or self._instance_by_name(event, inbox)
        self._check_stated(inbox, instance, envelope.expect, "the webhook's URL names")
        stated = instance in (envelope.instance, envelope.expect)
        self._check_account(inbox, instance, account_id, stated=stated)
        if envelope.instance is None and instance in self._bindings.accounts:
            raise BindingConflict(
                f"inbox {inbox} is named like instance {instance!r}, which has an inbox already",
                inbox=inbox,
                instance=instance,
                bound=next(iter(self._bindings.inboxes_of(instance)), None),
                allow=instance,
            )
        return BindingClaim(
            account_id, event.inbox_id, instance, further=envelope.instance is not None
        )

    def _instance_by_name(self, event: ChatwootEvent, inbox: str) -> str:
        """Return the instance by the inbox's name."""
        name = event.inbox_name if event.channel else None
        is_valid = bool(name) and len((name or "").encode()) <= MAX_NAME_BYTES
        if not (name and is_valid and self._from_inbox_name):
            raise UnknownInbox(
                f"inbox {inbox} is not bound, and its instance is unknown: "
                "bind it, or replay once it is known",
                inbox=inbox,
                allow=name if is_valid else None,
            )
        return name

    def _check_stated(self, inbox: str, bound: str, stated: str | None, who: str) -> None:
        if stated is not None and stated != bound:
            raise BindingConflict(
                f"inbox {inbox} is instance {bound!r}, but {who} {stated!r}",
                inbox=inbox,
                instance=stated,
                bound=bound,
                allow=stated,
                release=self._inboxes_elsewhere(stated, inbox),
                fixed=inbox in self._fixed,
            )

    def _check_account(self, inbox: str, instance: str, account_id: int, *, stated: bool) -> None:
        """Raise if the instance is of another account; an unstated one could be named otherwise."""
        owner = self._bindings.accounts.get(instance, account_id)
        if owner == account_id:
            return
        elsewhere = self._inboxes_elsewhere(instance, inbox)
        raise BindingConflict(
            f"inbox {inbox} claims instance {instance!r}, which belongs to account {owner}",
            inbox=inbox,
            instance=instance,
            bound=next(iter(elsewhere), None),
            allow=instance if stated else _own_name(instance, account_id),
            release=elsewhere if stated else (),
            fixed=stated and any(other in self._fixed for other in elsewhere),
        )

    def _inboxes_elsewhere(self, instance: str, inbox: str) -> tuple[str, ...]:
        """Return the inboxes that an instance has in other accounts."""
        account, _, _ = inbox.partition("/")
        inboxes = self._bindings.inboxes_of(instance)
        return tuple(other for other in inboxes if not other.startswith(f"{account}/"))


def _own_name(instance: str, account_id: int) -> str | None:
    """Return a similar instance name that is free for the account."""
    name = f"{instance}-{account_id}"
    return name if len(name.encode()) <= MAX_NAME_BYTES else None
