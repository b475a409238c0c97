"""Which inbox is which instance, by what Evolution and Chatwoot say: exact pairs, no guesses.

Evolution writes its own address into the inbox it uses: an API inbox's `webhook_url` ends in
`/chatwoot/webhook/<instance>`, percent-encoded. Names of inboxes are free text, and agencies
have one called "Whatsapp" in every account, so a name alone pairs nothing here.
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
    """Where an instance's Chatwoot is, as Evolution has it set."""

    url: str
    account_id: int
    token: str
    inbox_name: str


class EvolutionInstance(Struct, frozen=True):
    """An Evolution instance; without a link where its Chatwoot is off."""

    name: str
    link: ChatwootConfig | None


class Inbox(Struct, frozen=True):
    """An inbox of Chatwoot's."""

    id: int
    account_id: int
    name: str
    channel: str
    webhook_url: str | None = None

    @property
    def key(self) -> str:
        """The inbox as bindings name it."""
        return inbox_key(self.account_id, self.id)


class MatchedInbox(NamedTuple):
    """An inbox, and the instance it is."""

    inbox: Inbox
    instance: str


class Unmatched(NamedTuple):
    """An inbox or an instance that was not paired, and why; `usual` where nothing is amiss."""

    inbox: Inbox | None
    instance: str | None
    reason: str
    usual: bool = False


MatchResult = MatchedInbox | Unmatched


def instance_named_in(webhook_url: str | None) -> str | None:
    """Return the instance that a webhook URL of Evolution's names, decoded exactly once."""
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
    """Judge every inbox and every instance: paired only where both sides say the same."""
    links = {instance.name: instance.link for instance in instances}
    exact: defaultdict[str, list[Inbox]] = defaultdict(list)
    for inbox in inboxes:
        name = instance_named_in(inbox.webhook_url)
        if reason := _why_not(inbox, name, links):
            yield Unmatched(inbox, None, reason, usual=name is None)
        elif name is not None:
            exact[name].append(inbox)
    for name, link in links.items():
        if link is None:
            yield Unmatched(
                None, name, "its Chatwoot is off, or not set completely, in Evolution", usual=True
            )
        elif name not in exact:
            yield Unmatched(None, name, _why_alone(link, inboxes))
        else:
            rivals = [n for n, other in links.items() if n not in exact and other]
            yield from _choose(name, link, exact[name], [(n, links[n]) for n in rivals])


def _why_not(
    inbox: Inbox, name: str | None, links: Mapping[str, ChatwootConfig | None]
) -> str | None:
    if inbox.channel != API_CHANNEL:
        return f"its channel is {inbox.channel or 'unknown'}: Evolution's inboxes are {API_CHANNEL}"
    if name is None:
        return "its webhook URL names no instance of Evolution's"
    if name not in links:
        return f"its webhook URL names instance {name!r}, which this Evolution does not have"
    link = links[name]
    if link is None:
        return f"it is that of instance {name!r}, whose Chatwoot is off in Evolution"
    if link.account_id != inbox.account_id:
        return f"it names instance {name!r}, which Evolution has set to account {link.account_id}"
    return None


def _why_alone(link: ChatwootConfig, inboxes: Iterable[Inbox]) -> str:
    alone = f"no inbox of account {link.account_id} has a webhook URL that names it"
    for inbox in inboxes:
        if _is_of(link, inbox):
            return f"{alone}; inbox {inbox.key} has its inbox's name, which alone proves nothing"
    return alone


def _choose(
    name: str,
    link: ChatwootConfig,
    inboxes: Sequence[Inbox],
    rivals: Sequence[tuple[str, ChatwootConfig | None]],
) -> Iterator[MatchResult]:
    """Settle an instance's inbox: of several, only one that also has the name Evolution uses."""
    named = [inbox for inbox in inboxes if inbox.name == link.inbox_name]
    chosen = inboxes[0] if len(inboxes) == 1 else named[0] if len(named) == 1 else None
    for inbox in inboxes:
        if inbox is not chosen:
            others = ", ".join(other.key for other in inboxes if other is not inbox)
            yield Unmatched(inbox, name, f"{others} names this instance too")
    if chosen is None:
        return
    shared = [n for n, other in rivals if other and _is_of(other, chosen)]
    if shared:
        names = " and ".join(map(repr, (name, *shared)))
        yield Unmatched(
            chosen, name, f"instances {names} use this one inbox: an inbox is one instance"
        )
    else:
        yield MatchedInbox(chosen, name)


def _is_of(link: ChatwootConfig, inbox: Inbox) -> bool:
    return link.account_id == inbox.account_id and link.inbox_name == inbox.name


def match_by_name(inboxes: Sequence[Inbox], stated: Mapping[str, str]) -> Iterator[MatchResult]:
    """Judge inboxes where only Chatwoot was asked.

    `stated` (inbox key to instance) outranks all; else an API inbox is the instance that its
    webhook URL names, else the one of its own name, where no other inbox says the same.
    """
    named = {inbox.key: _name_alone(inbox) for inbox in inboxes if inbox.channel == API_CHANNEL}
    said = [name for key, name in named.items() if key not in stated]
    said += set(stated.values())
    for inbox in inboxes:
        name = named.get(inbox.key)
        if inbox.key in stated:
            yield MatchedInbox(inbox, stated[inbox.key])
        elif inbox.channel != API_CHANNEL:
            yield Unmatched(inbox, None, _why_not(inbox, None, {}) or "", usual=True)
        elif not name or len(name.encode()) > MAX_NAME_BYTES:
            yield Unmatched(inbox, None, f"its name is not 1 to {MAX_NAME_BYTES} bytes long")
        elif said.count(name) > 1:
            yield Unmatched(inbox, name, "another inbox says the same: state which with --bind")
        else:
            yield MatchedInbox(inbox, name)


def _name_alone(inbox: Inbox) -> str:
    return instance_named_in(inbox.webhook_url) or inbox.name
