"""Matches Chatwoot's inboxes with Evolution's instances, exactly or not at all.

Evolution writes its own address into the inbox it uses: an API inbox's `webhook_url` ends in
`/chatwoot/webhook/<instance>`, percent-encoded. Names of inboxes are free text, and agencies
have one called "Whatsapp" in every account, so a name alone matches nothing here.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote

from msgspec import Struct

from worker.core.binding_rules import inbox_key
from worker.core.cache_keys import MAX_NAME_BYTES
from worker.core.chatwoot_event import API_CHANNEL

_ROUTE: Final = "/chatwoot/webhook/"


class ChatwootConfig(Struct, frozen=True):
    """The Chatwoot settings of an instance in Evolution."""

    url: str
    account_id: int
    token: str
    inbox_name: str


class EvolutionInstance(Struct, frozen=True):
    """An Evolution instance; without `chatwoot` where that is off or incomplete."""

    name: str
    chatwoot: ChatwootConfig | None


class Inbox(Struct, frozen=True):
    """An inbox of a Chatwoot account."""

    id: int
    account_id: int
    name: str
    channel: str
    webhook_url: str | None = None

    @property
    def key(self) -> str:
        """The inbox as bindings name it: `account/inbox`."""
        return inbox_key(self.account_id, self.id)

    @classmethod
    def from_key(cls, key: str) -> "Inbox":
        """Return the bound inbox with this key; its name is not known."""
        account_id, _, inbox_id = key.partition("/")
        return cls(int(inbox_id), int(account_id), "", API_CHANNEL)


class MatchedInbox(NamedTuple):
    """An inbox, and the instance it belongs to."""

    inbox: Inbox
    instance: str


class Unmatched(NamedTuple):
    """An inbox or an instance without a match; `is_normal` where nobody has to act."""

    inbox: Inbox | None
    instance: str | None
    reason: str
    is_normal: bool = False


MatchResult = MatchedInbox | Unmatched


def instance_named_in(webhook_url: str | None) -> str | None:
    """Return the instance that a webhook URL of Evolution names, decoded exactly once."""
    path = (webhook_url or "").partition("#")[0].partition("?")[0]
    _, route, encoded = path.rpartition(_ROUTE)
    if not route or not encoded.strip("/"):
        return None
    try:
        name = unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        return None
    return name if len(name.encode(errors="surrogatepass")) <= MAX_NAME_BYTES else None


def match_inboxes(
    instances: Sequence[EvolutionInstance], inboxes: Sequence[Inbox]
) -> Iterator[MatchResult]:
    """Yield a result for every inbox and every instance; both sides must agree to match."""
    configs = {instance.name: instance.chatwoot for instance in instances}
    named: defaultdict[str, list[Inbox]] = defaultdict(list)
    for inbox in inboxes:
        name = instance_named_in(inbox.webhook_url)
        if reason := _mismatch(inbox, name, configs):
            yield Unmatched(inbox, None, reason, is_normal=name is None)
        elif name is not None:
            named[name].append(inbox)
    for name, config in configs.items():
        if config is None:
            reason = "its Chatwoot is off, or incomplete, in Evolution"
            yield Unmatched(None, name, reason, is_normal=True)
        elif name not in named:
            yield Unmatched(None, name, _no_inbox(config, inboxes))
        else:
            others = {n: c for n, c in configs.items() if n not in named and c}
            yield from _choose(name, config, named[name], others)


def _mismatch(
    inbox: Inbox, name: str | None, configs: Mapping[str, ChatwootConfig | None]
) -> str | None:
    """Return why an inbox is not the instance that its webhook URL names, None where it is."""
    if inbox.channel != API_CHANNEL:
        return f"its channel is {inbox.channel or 'unknown'}: Evolution's inboxes are {API_CHANNEL}"
    if name is None:
        return "its webhook URL names no Evolution instance"
    if name not in configs:
        return f"its webhook URL names instance {name!r}, which this Evolution does not have"
    config = configs[name]
    if config is None:
        return f"its webhook URL names instance {name!r}, whose Chatwoot is off in Evolution"
    if config.account_id != inbox.account_id:
        return (
            f"its webhook URL names instance {name!r}, "
            f"which Evolution has set to account {config.account_id}"
        )
    return None


def _no_inbox(config: ChatwootConfig, inboxes: Iterable[Inbox]) -> str:
    reason = f"no inbox of account {config.account_id} has a webhook URL that names it"
    for inbox in inboxes:
        if _has_name_of(config, inbox):
            return f"{reason}; inbox {inbox.key} has its inbox's name, which alone proves nothing"
    return reason


def _choose(
    name: str,
    config: ChatwootConfig,
    inboxes: Sequence[Inbox],
    others: Mapping[str, ChatwootConfig],
) -> Iterator[MatchResult]:
    """Choose an instance's inbox: of several, only one that also has the name Evolution uses.

    `others` are the instances that no webhook URL names.
    """
    candidates = inboxes
    if len(inboxes) > 1:
        candidates = [inbox for inbox in inboxes if inbox.name == config.inbox_name]
    chosen = candidates[0] if len(candidates) == 1 else None
    for inbox in inboxes:
        if inbox is not chosen:
            rivals = ", ".join(other.key for other in inboxes if other is not inbox)
            yield Unmatched(inbox, name, f"{rivals} names this instance too")
    if chosen is None:
        return
    sharing = [n for n, other in others.items() if _has_name_of(other, chosen)]
    if sharing:
        names = " and ".join(map(repr, (name, *sharing)))
        reason = f"instances {names} use this one inbox: an inbox belongs to one instance"
        yield Unmatched(chosen, name, reason)
    else:
        yield MatchedInbox(chosen, name)


def _has_name_of(config: ChatwootConfig, inbox: Inbox) -> bool:
    return config.account_id == inbox.account_id and config.inbox_name == inbox.name


def match_by_name(inboxes: Sequence[Inbox], stated: Mapping[str, str]) -> Iterator[MatchResult]:
    """Yield a result for every inbox where only Chatwoot was asked.

    `stated` (inbox key to instance) has precedence. Otherwise an API inbox is the instance that
    its webhook URL names, else the one of its own name, where no other inbox has the same.
    """
    names = {
        inbox.key: instance_named_in(inbox.webhook_url) or inbox.name
        for inbox in inboxes
        if inbox.channel == API_CHANNEL
    }
    taken = [name for key, name in names.items() if key not in stated]
    taken += set(stated.values())
    for inbox in inboxes:
        name = names.get(inbox.key)
        if inbox.key in stated:
            yield MatchedInbox(inbox, stated[inbox.key])
        elif inbox.channel != API_CHANNEL:
            yield Unmatched(inbox, None, _mismatch(inbox, None, {}) or "", is_normal=True)
        elif not name or len(name.encode()) > MAX_NAME_BYTES:
            yield Unmatched(inbox, None, f"its name is not 1 to {MAX_NAME_BYTES} bytes long")
        elif taken.count(name) > 1:
            yield Unmatched(inbox, name, "another inbox has the same name: state it with --bind")
        else:
            yield MatchedInbox(inbox, name)
