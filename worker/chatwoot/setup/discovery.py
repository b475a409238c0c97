"""Discovery of Evolution's instances, and of the Chatwoot accounts and inboxes they use."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field

from worker.chatwoot.evolution_client import EvolutionClient
from worker.chatwoot.http_client import RequestPolicy
from worker.chatwoot.rest_client import ChatwootClient
from worker.core.inbox_matching import EvolutionInstance, Inbox
from worker.errors import ConfigurationError, UpstreamError


@dataclass(frozen=True, slots=True)
class Targets:
    """The services to ask, with their credentials; `account_id` limits it to one account."""

    evolution_url: str | None = None
    apikey: str | None = field(default=None, repr=False)
    chatwoot_url: str | None = None
    token: str | None = field(default=None, repr=False)
    account_id: int | None = None
    timeout_s: float = 10.0


@dataclass(slots=True)
class DiscoveredAccount:
    """A Chatwoot account, with a client for each user whose token is known.

    `reader_token` is the token that shows the most inboxes; without one, `error` says why.
    """

    id: int
    clients: Sequence[ChatwootClient]
    inboxes: Sequence[Inbox] = ()
    reader_token: str | None = field(default=None, repr=False)
    error: UpstreamError | None = None


async def discover_instances(targets: Targets) -> list[EvolutionInstance]:
    """Return Evolution's instances, none without its URL. Raises `UpstreamError`."""
    if targets.evolution_url is None:
        return []
    client = EvolutionClient(
        targets.evolution_url, targets.apikey or "", timeout_s=targets.timeout_s
    )
    async with aclosing(client):
        return await client.instances()


def choose_chatwoot_url(targets: Targets, instances: Iterable[EvolutionInstance]) -> str:
    """Return the stated URL of Chatwoot, else the one that all instances have.

    Raises `ConfigurationError` for several: ids of accounts and messages are unique within one
    Chatwoot only, so one cache serves one.
    """
    known = sorted({instance.chatwoot.url for instance in instances if instance.chatwoot})
    if len(known) > 1 and targets.chatwoot_url not in known:
        raise ConfigurationError(
            f"the instances have {len(known)} Chatwoots: {', '.join(known)}. One cache (prefix) "
            "serves one Chatwoot: choose it with --chatwoot, as it is written here, and give the "
            "others a CACHE_REDIS_PREFIX_KEY of their own"
        )
    if targets.chatwoot_url:
        return targets.chatwoot_url
    if not known:
        raise ConfigurationError(
            "no instance has its Chatwoot enabled in Evolution: do that first, "
            "or ask Chatwoot alone: --chatwoot URL --token TOKEN --account N"
        )
    return known[0]


def split_by_chatwoot(
    instances: Sequence[EvolutionInstance], url: str
) -> tuple[list[EvolutionInstance], list[EvolutionInstance]]:
    """Return the instances of this Chatwoot or of none, and those of another Chatwoot."""
    known = {instance.chatwoot.url for instance in instances if instance.chatwoot}
    if len(known) < 2:  # noqa: PLR2004 - the URL may be another way to the only one
        return list(instances), []
    ours = [i for i in instances if i.chatwoot is None or i.chatwoot.url == url]
    return ours, [i for i in instances if i not in ours]


@asynccontextmanager
async def discover_accounts(
    targets: Targets, url: str, instances: Iterable[EvolutionInstance]
) -> AsyncIterator[list[DiscoveredAccount]]:
    """Give the accounts, whose clients are closed at the end of the block."""
    policy = RequestPolicy(targets.timeout_s)
    async with AsyncExitStack() as stack:
        accounts = []
        for account_id, tokens in sorted(_tokens(targets, instances).items()):
            clients = {token: ChatwootClient(url, token, account_id, policy) for token in tokens}
            for client in clients.values():
                stack.push_async_callback(client.aclose)
            accounts.append(await _discover_account(account_id, clients))
        yield accounts


def _tokens(targets: Targets, instances: Iterable[EvolutionInstance]) -> dict[int, list[str]]:
    """Return the known tokens of each account, the stated one first."""
    stated = [targets.token] if targets.token else []
    tokens = {} if targets.account_id is None else {targets.account_id: [*stated]}
    for config in (instance.chatwoot for instance in instances):
        if config and targets.account_id in (None, config.account_id):
            known = tokens.setdefault(config.account_id, [*stated])
            if config.token not in known:
                known.append(config.token)
    return tokens


async def _discover_account(
    account_id: int, clients: Mapping[str, ChatwootClient]
) -> DiscoveredAccount:
    """Ask as each user: an agent sees only the inboxes they are a member of."""
    inboxes: dict[int, Inbox] = {}
    reader_token: str | None = None
    error: UpstreamError | None = None
    for token, client in clients.items():
        try:
            visible = await client.inboxes()
        except UpstreamError as refused:
            error = error or refused
            continue
        if reader_token is None or len(visible) > len(inboxes):
            reader_token = token
        inboxes |= {inbox.id: inbox for inbox in visible}
    return DiscoveredAccount(
        account_id,
        list(clients.values()),
        list(inboxes.values()),
        reader_token,
        error if reader_token is None else None,
    )
