"""Which instance an event belongs to, and when that is a conflict.

A *binding* says that an inbox (`account/inbox`) is cached under an instance.
Who may bind: the operator, whose word never changes and outranks everything;
a producer that states the instance; or the inbox's name, where its channel is the one
that Evolution creates, because Evolution names the inbox after the instance.

What a binding forbids: an inbox under a second instance, an instance in a second account,
a further inbox of an instance by name alone, an expectation that is not what the binding says.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from worker.core.chatwoot import API_CHANNEL, Address, Event
from worker.core.entry import Statement
from worker.core.keys import MAX_NAME_BYTES
from worker.errors import Conflict, Unusable


def inbox_key(account_id: int, inbox_id: int) -> str:
    """Return the field of the bindings hash, and how an operator writes an inbox."""
    return f"{account_id}/{inbox_id}"


@dataclass(frozen=True, slots=True)
class Bindings:
    """All bindings at one time: inbox to instance, and instance to its one account."""

    instances: Mapping[str, str] = field(default_factory=dict)
    accounts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_operator(cls, instances: Mapping[str, str]) -> "Bindings":
        """Return the bindings that the setting `INSTANCES` states."""
        accounts = {name: int(inbox.partition("/")[0]) for inbox, name in instances.items()}
        return cls(dict(instances), accounts)

    def overruled_by(self, other: "Bindings") -> "Bindings":
        """Return these bindings, with those of `other` in their place where they differ."""
        return Bindings({**self.instances, **other.instances}, {**self.accounts, **other.accounts})

    def accounts_of_inboxes(self) -> Mapping[int, list[int]]:
        """Return the accounts that have an inbox of that id, for events that state none."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for inbox in self.instances:
            account_id, _, inbox_id = inbox.partition("/")
            found[int(inbox_id)].append(int(account_id))
        return found


@dataclass(frozen=True, slots=True)
class Claim:
    """A new binding that an event asks for; `further` may join others of the same instance."""

    account_id: int
    inbox_id: int
    instance: str
    further: bool

    @property
    def inbox(self) -> str:
        """The inbox as the bindings hash names it."""
        return inbox_key(self.account_id, self.inbox_id)


class Resolver:
    """Judges events by one state of the bindings."""

    def __init__(self, bindings: Bindings, *, from_inbox_name: bool) -> None:
        self._bindings = bindings
        self._accounts_of_inboxes = bindings.accounts_of_inboxes()
        self._from_inbox_name = from_inbox_name

    def resolve(self, event: Event, said: Statement) -> Address | Claim | None:
        """Return where an event belongs, or the claim that must be granted first.

        None when its inbox is of another channel and nobody bound it.
        Raises `Unusable("no_instance")` and `Conflict`.
        """
        account_id = self._account(event, said)
        inbox = inbox_key(account_id, event.inbox_id)
        bound = self._bindings.instances.get(inbox)
        if bound is None:
            return self._claim(event, said, account_id)

        self._check_stated(inbox, bound, said.instance, "the producer states")
        self._check_stated(inbox, bound, said.expect, "the webhook's URL names")
        self._check_account(inbox, bound, account_id)
        return Address(bound, account_id)

    def _account(self, event: Event, said: Statement) -> int:
        if event.account_id and said.account_id and event.account_id != said.account_id:
            raise Conflict(
                f"the body names account {event.account_id}, "
                f"but was signed with the secret of account {said.account_id}",
                inbox=inbox_key(event.account_id, event.inbox_id),
            )
        stated = event.account_id or said.account_id
        if stated:
            return stated

        known = self._accounts_of_inboxes.get(event.inbox_id, [])
        if len(known) != 1:
            raise Unusable(
                "no_instance",
                f"the event states no account, and {len(known)} bindings have inbox "
                f"{event.inbox_id}: replay it once a message of that inbox was cached",
            )
        return known[0]

    def _claim(self, event: Event, said: Statement, account_id: int) -> Claim | None:
        if said.instance is None and event.channel not in (API_CHANNEL, None):
            return None

        inbox = inbox_key(account_id, event.inbox_id)
        instance = said.instance or self._name(event, inbox)
        self._check_stated(inbox, instance, said.expect, "the webhook's URL names")
        self._check_account(inbox, instance, account_id)
        if said.instance is None and instance in self._bindings.accounts:
            raise Conflict(
                f"inbox {inbox} is named like instance {instance!r}, which has an inbox already",
                inbox=inbox,
                instance=instance,
                bound=self._inbox_of(instance),
                allow=instance,
            )
        return Claim(account_id, event.inbox_id, instance, further=said.instance is not None)

    def _name(self, event: Event, inbox: str) -> str:
        """Return the instance that the inbox's name says."""
        name = event.inbox_name if self._from_inbox_name and event.channel else None
        if not name or len(name.encode()) > MAX_NAME_BYTES:
            raise Unusable(
                "no_instance",
                f"inbox {inbox} is not bound and nothing says which instance it is: "
                "state it in CHATWOOT_CACHE_INSTANCES, or replay once it is known",
            )
        return name

    def _check_stated(self, inbox: str, bound: str, stated: str | None, who: str) -> None:
        if stated is not None and stated != bound:
            raise Conflict(
                f"inbox {inbox} is instance {bound!r}, but {who} {stated!r}",
                inbox=inbox,
                instance=stated,
                bound=bound,
                allow=stated,
            )

    def _check_account(self, inbox: str, instance: str, account_id: int) -> None:
        owner = self._bindings.accounts.get(instance, account_id)
        if owner != account_id:
            raise Conflict(
                f"inbox {inbox} claims instance {instance!r}, which belongs to account {owner}",
                inbox=inbox,
                instance=instance,
                bound=self._inbox_of(instance),
            )

    def _inbox_of(self, instance: str) -> str | None:
        return next((i for i, name in self._bindings.instances.items() if name == instance), None)
