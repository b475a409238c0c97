"""What Evolution and Chatwoot have: instances, accounts, and the inboxes their tokens show."""

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from worker.chatwoot.evolution_client import EvolutionClient
from worker.chatwoot.rest_client import ChatwootClient
from worker.core.inbox_matching import EvolutionInstance, Inbox
from worker.errors import ConfigurationError, UpstreamError


@dataclass(frozen=True, slots=True)
class Targets:
    """Whom to ask, and with what; `account_ids` and `tokens` are those that a person stated."""

    evolution_url: str | None = None
    apikey: str | None = field(default=None, repr=False)
    chatwoot_url: str | None = None
    token: str | None = field(default=None, repr=False)
    account_id: int | None = None
    timeout_s: float = 10.0


@dataclass(slots=True)
class DiscoveredAccount:
    """An account of Chatwoot's: its inboxes, and the users it was asked as.

    `reader` is the token that showed an inbox; `declined` says why there is none.
    """

    id: int
    users: Sequence[ChatwootClient]
    tokens: Sequence[str] = field(repr=False)
    inboxes: list[Inbox] = field(default_factory=list)
    reader: str | None = field(default=None, repr=False)
    declined: UpstreamError | None = None


async def ask_evolution(where: Targets) -> list[EvolutionInstance]:
    """Return Evolution's instances, none where it is not asked; raises `UpstreamError`."""
    if where.evolution_url is None:
        return []
    async with EvolutionClient(
        where.evolution_url, where.apikey or "", timeout_s=where.timeout_s
    ) as evolution:
        return await evolution.instances()


def chatwoot_url(where: Targets, instances: Iterable[EvolutionInstance]) -> str:
    """Return Chatwoot's address: as a person states it, else the one that all instances have.

    Raises `ConfigurationError` where there are several: a cache serves one Chatwoot, as account and
    message ids mean something else in another.
    """
    known = sorted({instance.link.url for instance in instances if instance.link})
    if len(known) > 1 and where.chatwoot_url not in known:
        raise ConfigurationError(
            f"the instances have {len(known)} Chatwoots: {', '.join(known)}. One cache (prefix) "
            "serves one Chatwoot: say which with --chatwoot, as it is written here, and give the "
            "others a CACHE_REDIS_PREFIX_KEY of their own"
        )
    if where.chatwoot_url:
        return where.chatwoot_url
    if not known:
        raise ConfigurationError(
            "no instance has its Chatwoot switched on in Evolution: do that first, "
            "or ask Chatwoot alone: --chatwoot URL --token TOKEN --account N"
        )
    return known[0]


def targets_for(
    instances: Sequence[EvolutionInstance], url: str
) -> tuple[list[EvolutionInstance], list[EvolutionInstance]]:
    """Part the instances of this Chatwoot, and those that have none, from those of another."""
    known = {instance.link.url for instance in instances if instance.link}
    if len(known) < 2:  # noqa: PLR2004 - the address may be another way to the only one
        return list(instances), []
    ours = [i for i in instances if i.link is None or i.link.url == url]
    return ours, [i for i in instances if i not in ours]


async def ask_accounts(
    where: Targets, url: str, instances: Iterable[EvolutionInstance], stack: AsyncExitStack
) -> list[DiscoveredAccount]:
    """Ask every account for its inboxes, as each user whose token is known.

    An agent sees only the inboxes they are in, so what several see is put together.
    """
    tokens: dict[int, list[str]] = {}
    if where.account_id is not None:
        tokens[where.account_id] = [where.token] if where.token else []
    for link in (instance.link for instance in instances):
        if link and where.account_id in (None, link.account_id):
            stated = [where.token] if where.token else []
            held = tokens.setdefault(link.account_id, stated)
            if link.token not in held:
                held.append(link.token)
    return [
        await _ask_account(where, url, account_id, some, stack)
        for account_id, some in sorted(tokens.items())
    ]


async def _ask_account(
    where: Targets, url: str, account_id: int, tokens: Sequence[str], stack: AsyncExitStack
) -> DiscoveredAccount:
    users = [ChatwootClient(url, token, account_id, timeout_s=where.timeout_s) for token in tokens]
    account = DiscoveredAccount(account_id, users, tokens)
    seen: dict[int, Inbox] = {}
    for user, token in zip(users, tokens, strict=True):
        await stack.enter_async_context(user)
        try:
            inboxes = await user.inboxes()
        except UpstreamError as declined:
            account.declined = account.declined or declined
            continue
        if account.reader is None or len(inboxes) > len(seen):
            account.reader = token
        seen |= {inbox.id: inbox for inbox in inboxes}
    if account.reader is not None:
        account.declined = None
    account.inboxes = list(seen.values())
    return account
