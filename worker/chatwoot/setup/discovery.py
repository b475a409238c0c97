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
class ConnectRequest:
    """The services to connect, with credentials; `account_id` limits it to one account.

    `binds` are the values of `--bind`.
    """

    webhook_url: str
    evolution_url: str | None = None
    apikey: str | None = field(default=None, repr=False)
    chatwoot_url: str | None = None
    token: str | None = field(default=None, repr=False)
    account_id: int | None = None
    timeout_s: float = 10.0
    binds: Sequence[str] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class DiscoveredAccount:
    """A Chatwoot account, with a client for each user whose token is known.

    `reader_token` is the token that shows the most inboxes; without one, `error` says why.
    """

    id: int
    clients: Sequence[ChatwootClient]
    inboxes: Sequence[Inbox] = ()
    reader_token: str | None = field(default=None, repr=False)
    error: UpstreamError | None = None


async def discover_instances(request: ConnectRequest) -> list[EvolutionInstance]:
    """Return Evolution's instances, none without its URL. Raises `UpstreamError`."""
    url, apikey = request.evolution_url, request.apikey or ""
    if url is None:
        return []
    async with aclosing(EvolutionClient(url, apikey, timeout_s=request.timeout_s)) as client:
        return await client.instances()


def choose_chatwoot(
    request: ConnectRequest, instances: Sequence[EvolutionInstance]
) -> tuple[str, list[EvolutionInstance]]:
    """Return the URL of the Chatwoot to connect, and the instances that use no other one.

    Raises `ConfigurationError` for several: ids of accounts and messages are unique within one
    Chatwoot only, so one cache serves one.
    """
    known = sorted({instance.chatwoot.url for instance in instances if instance.chatwoot})
    url = request.chatwoot_url
    if len(known) > 1 and url not in known:
        raise ConfigurationError(
            f"the instances have {len(known)} Chatwoots: {', '.join(known)}. One cache (prefix) "
            "serves one Chatwoot: choose it with --chatwoot, as it is written here, and give the "
            "others a CACHE_REDIS_PREFIX_KEY of their own"
        )
    if url is None and not known:
        raise ConfigurationError(
            "no instance has its Chatwoot enabled in Evolution: do that first, "
            "or ask Chatwoot alone: --chatwoot URL --token TOKEN --account N"
        )
    if len(known) > 1:
        instances = [i for i in instances if i.chatwoot is None or i.chatwoot.url == url]
    # A single other URL is another way to the same Chatwoot.
    return url or known[0], list(instances)


@asynccontextmanager
async def discover_accounts(
    request: ConnectRequest, url: str, instances: Iterable[EvolutionInstance]
) -> AsyncIterator[list[DiscoveredAccount]]:
    """Give the accounts, whose clients are closed at the end of the block."""
    policy = RequestPolicy(request.timeout_s)
    async with AsyncExitStack() as stack:
        accounts = []
        for account_id, tokens in sorted(_tokens(request, instances).items()):
            clients = {token: ChatwootClient(url, token, account_id, policy) for token in tokens}
            for client in clients.values():
                stack.push_async_callback(client.aclose)
            accounts.append(await _discover_account(account_id, clients))
        yield accounts


def _tokens(
    request: ConnectRequest, instances: Iterable[EvolutionInstance]
) -> dict[int, list[str]]:
    """Return the known tokens of each account, the stated one first."""
    stated = [request.token] if request.token else []
    tokens = {} if request.account_id is None else {request.account_id: [*stated]}
    for config in (instance.chatwoot for instance in instances):
        if config and request.account_id in (None, config.account_id):
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
