"""Which instance an event belongs to, and when that is a conflict.

A *binding* says that an inbox (`account/inbox`) is cached under an instance.
Who may bind: the operator, whose word never changes and outranks everything;
a producer that states the instance; or the inbox's name, where its channel is the one
that Evolution creates, because Evolution names the inbox after the instance.

What a binding forbids: an inbox under a second instance, an instance in a second account,
a further inbox of an instance by name alone, an expectation that is not what the binding says.
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
    """Return the field of the bindings hash, and how an operator writes an inbox."""
    return f"{account_id}/{inbox_id}"


def bind_command(inbox: str, instance: str) -> str:
    """Return the command that binds an inbox, as one types it in a shell."""
    words = ["chatwoot-cache", "bindings", "set", inbox, instance]
    if instance.startswith("-"):
        words.insert(3, "--")
    return shlex.join(words)


@dataclass(frozen=True, slots=True)
class Bindings:
    """All bindings at one time: inbox to instance, and instance to its one account.

    `version` changes whenever a binding is changed or taken away, and stays when one is added.
    """

    instances: Mapping[str, str] = field(default_factory=dict)
    accounts: Mapping[str, int] = field(default_factory=dict)
    version: bytes = field(default=b"", compare=False)

    @classmethod
    def of_operator(cls, instances: Mapping[str, str]) -> "Bindings":
        """Return the bindings that the setting `INSTANCES` states."""
        accounts = {name: int(inbox.partition("/")[0]) for inbox, name in instances.items()}
        return cls(dict(instances), accounts)

    def overruled_by(self, other: "Bindings") -> "Bindings":
        """Return these bindings, with those of `other` in their place where they differ."""
        return Bindings(
            {**self.instances, **other.instances},
            {**self.accounts, **other.accounts},
            self.version or other.version,
        )

    def inboxes_of(self, instance: str) -> list[str]:
        """Return the inboxes that are bound to an instance."""
        return [inbox for inbox, name in self.instances.items() if name == instance]

    def accounts_of_inboxes(self) -> Mapping[int, list[int]]:
        """Return the accounts that have an inbox of that id, for events that state none."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for inbox in self.instances:
            account_id, _, inbox_id = inbox.partition("/")
            found[int(inbox_id)].append(int(account_id))
        return found


@dataclass(frozen=True, slots=True)
class BindingClaim:
    """A new binding that an event asks for; `further` may join others of the same instance."""

    account_id: int
    inbox_id: int
    instance: str
    further: bool

    @property
    def inbox(self) -> str:
        """The inbox as the bindings hash names it."""
        return inbox_key(self.account_id, self.inbox_id)


class BindingResolver:
    """Judges events by one state of the bindings.

    `fixed` are the inboxes that the operator's settings bind, which nothing else can change.
    """

    def __init__(
        self, bindings: Bindings, *, from_inbox_name: bool, fixed: AbstractSet[str] = frozenset()
    ) -> None:
        self._bindings = bindings
        self._from_inbox_name = from_inbox_name
        self._fixed = fixed
        self._addresses: dict[tuple[int | None, int], Destination] = {}

    def resolve(self, event: ChatwootEvent, said: Envelope) -> Destination | BindingClaim | None:
        """Return where an event belongs, or the claim that must be granted first.

        None when its inbox is of another channel and nobody bound it.
        Raises `UnknownInbox` and `BindingConflict`.
        """
        # Most events are of an inbox that was resolved before, and state nothing against it.
        address = self._addresses.get((event.account_id, event.inbox_id))
        if (
            address is not None
            and said.account_id in (None, address.account_id)
            and said.instance in (None, address.instance)
            and said.expect in (None, address.instance)
        ):
            return address
        return self._resolve(event, said)

    def _resolve(self, event: ChatwootEvent, said: Envelope) -> Destination | BindingClaim | None:
        account_id = self._account(event, said)
        inbox = inbox_key(account_id, event.inbox_id)
        bound = self._bindings.instances.get(inbox)
        if bound is None:
            return self._claim(event, said, account_id)

        self._check_stated(inbox, bound, said.instance, "the producer states")
        self._check_stated(inbox, bound, said.expect, "the webhook's URL names")
        self._check_account(inbox, bound, account_id, stated=bound in (said.instance, said.expect))
        address = Destination(bound, account_id)
        if event.account_id is not None:
            self._addresses[event.account_id, event.inbox_id] = address
        return address

    @cached_property
    def _accounts_of_inboxes(self) -> Mapping[int, list[int]]:
        return self._bindings.accounts_of_inboxes()

    def _account(self, event: ChatwootEvent, said: Envelope) -> int:
        if event.account_id and said.account_id and event.account_id != said.account_id:
            raise BindingConflict(
                f"the body names account {event.account_id}, "
                f"but was signed with the secret of account {said.account_id}",
                inbox=inbox_key(event.account_id, event.inbox_id),
            )
        stated = event.account_id or said.account_id
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

    def _claim(self, event: ChatwootEvent, said: Envelope, account_id: int) -> BindingClaim | None:
        if said.instance is None and event.channel not in (API_CHANNEL, None):
            return None

        inbox = inbox_key(account_id, event.inbox_id)
        instance = said.instance or self._name(event, inbox)
        self._check_stated(inbox, instance, said.expect, "the webhook's URL names")
        stated = instance in (said.instance, said.expect)
        self._check_account(inbox, instance, account_id, stated=stated)
        if said.instance is None and instance in self._bindings.accounts:
            raise BindingConflict(
                f"inbox {inbox} is named like instance {instance!r}, which has an inbox already",
                inbox=inbox,
                instance=instance,
                bound=next(iter(self._bindings.inboxes_of(instance)), None),
                allow=instance,
            )
        return BindingClaim(account_id, event.inbox_id, instance, further=said.instance is not None)

    def _name(self, event: ChatwootEvent, inbox: str) -> str:
        """Return the instance that the inbox's name says."""
        name = event.inbox_name if event.channel else None
        fits = bool(name) and len((name or "").encode()) <= MAX_NAME_BYTES
        if not (name and fits and self._from_inbox_name):
            raise UnknownInbox(
                f"inbox {inbox} is not bound and nothing says which instance it is: "
                "bind it, or replay once it is known",
                inbox=inbox,
                allow=name if fits else None,
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
                release=self._others(stated, inbox),
                fixed=inbox in self._fixed,
            )

    def _check_account(self, inbox: str, instance: str, account_id: int, *, stated: bool) -> None:
        """Refuse an instance of another account; only a name may give way to another one."""
        owner = self._bindings.accounts.get(instance, account_id)
        if owner == account_id:
            return
        others = self._others(instance, inbox)
        raise BindingConflict(
            f"inbox {inbox} claims instance {instance!r}, which belongs to account {owner}",
            inbox=inbox,
            instance=instance,
            bound=next(iter(others), None),
            allow=instance if stated else _of_its_own(instance, account_id),
            release=others if stated else (),
            fixed=stated and any(other in self._fixed for other in others),
        )

    def _others(self, instance: str, inbox: str) -> tuple[str, ...]:
        """Return the inboxes of other accounts that have an instance."""
        account, _, _ = inbox.partition("/")
        inboxes = self._bindings.inboxes_of(instance)
        return tuple(other for other in inboxes if not other.startswith(f"{account}/"))


def _of_its_own(instance: str, account_id: int) -> str | None:
    """Return a name like an instance's that its account can have for itself."""
    name = f"{instance}-{account_id}"
    return name if len(name.encode()) <= MAX_NAME_BYTES else None
