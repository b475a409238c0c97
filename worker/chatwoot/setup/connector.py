"""The whole of `connect`: ask, pair, bind, see to the webhooks, keep what the worker needs."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from worker.chatwoot.setup import bind_option, discovery, webhook_setup
from worker.chatwoot.setup.discovery import DiscoveredAccount, Targets
from worker.chatwoot.setup.env_file import ConnectionSettings, SavedSettings, save_settings
from worker.chatwoot.setup.inbox_binding import BindingRow, BindingTable, bind_inboxes
from worker.chatwoot.setup.webhook_setup import WebhookStatus
from worker.core.inbox_matching import (
    EvolutionInstance,
    MatchedInbox,
    MatchResult,
    Unmatched,
    match_by_name,
    match_inboxes,
)
from worker.settings import LoadedSettings


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What a person asks for; `binds` are the words of `--bind`."""

    where: Targets
    webhook_url: str
    binds: Sequence[str] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ConnectReport:
    """What was found and done; `problems` are lines about what could not be."""

    chatwoot_url: str
    rows: Sequence[BindingRow] = ()
    hooks: Sequence[WebhookStatus] = ()
    kept: SavedSettings = field(default_factory=SavedSettings)
    problems: Sequence[str] = ()


async def connect(
    asked: ConnectRequest, table: BindingTable, loaded: LoadedSettings, path: Path
) -> ConnectReport:
    """Connect everything that can be told apart for certain; `path` is what the worker reads.

    Raises `UpstreamError` where Evolution does not answer, `ConfigurationError`, and Redis errors;
    what one account refuses is told in the report.
    """
    instances = await discovery.ask_evolution(asked.where)
    url = discovery.chatwoot_url(asked.where, instances)
    ours, others = discovery.targets_for(instances, url)
    async with _accounts(asked.where, url, ours) as accounts:
        judged = [*_judge(asked, ours, accounts), *_elsewhere(others)]
        rows = await bind_inboxes(table, judged, loaded.settings.instances, dry_run=asked.dry_run)
        hooks = [await _hook(asked, account, rows, loaded) for account in accounts]
    known = _knowledge(url, accounts, rows, hooks)
    kept = (
        save_settings(known, loaded, path, dry_run=asked.dry_run)
        if known.tokens
        else SavedSettings()
    )
    return ConnectReport(url, rows, hooks, kept, _problems(accounts, kept))


@asynccontextmanager
async def _accounts(
    where: Targets, url: str, instances: Sequence[EvolutionInstance]
) -> AsyncIterator[list[DiscoveredAccount]]:
    async with AsyncExitStack() as stack:
        yield await discovery.ask_accounts(where, url, instances, stack)


def _judge(
    asked: ConnectRequest,
    instances: Sequence[EvolutionInstance],
    accounts: Sequence[DiscoveredAccount],
) -> list[MatchResult]:
    inboxes = [inbox for account in accounts for inbox in account.inboxes]
    stated = bind_option.parse_bind_options(asked.binds, inboxes)
    if asked.where.evolution_url is None:
        return list(match_by_name(inboxes, stated))
    unread = {account.id for account in accounts if account.declined}
    told = set(stated.values())
    rest = [i for i in instances if i.name not in told]
    seen = [i for i in rest if not (i.link and i.link.account_id in unread)]
    judged: list[MatchResult] = [MatchedInbox(i, stated[i.key]) for i in inboxes if i.key in stated]
    judged += match_inboxes(seen, [i for i in inboxes if i.key not in stated])
    judged += [
        Unmatched(None, i.name, f"account {i.link.account_id} could not be read")
        for i in rest
        if i.link and i.link.account_id in unread
    ]
    return judged


def _elsewhere(instances: Sequence[EvolutionInstance]) -> list[MatchResult]:
    return [
        Unmatched(None, i.name, f"its Chatwoot is another one: {i.link.url}")
        for i in instances
        if i.link
    ]


async def _hook(
    asked: ConnectRequest,
    account: DiscoveredAccount,
    rows: Sequence[BindingRow],
    loaded: LoadedSettings,
) -> WebhookStatus:
    if account.declined or not account.users:
        return WebhookStatus(account.id, "none", "the account could not be read")
    if not any(_is_connected(row, account.id) for row in rows):
        return WebhookStatus(account.id, "none", "no inbox of this account is bound")
    token = loaded.settings.webhook_token
    return await webhook_setup.ensure_webhook(
        account.users,
        asked.webhook_url,
        token.get_secret_value() if token else None,
        dry_run=asked.dry_run,
    )


def _is_connected(row: BindingRow, account_id: int) -> bool:
    is_of = row.inbox is not None and row.inbox.account_id == account_id
    return is_of and row.state != "not bound"


def _knowledge(
    url: str,
    accounts: Sequence[DiscoveredAccount],
    rows: Sequence[BindingRow],
    hooks: Sequence[WebhookStatus],
) -> ConnectionSettings:
    return ConnectionSettings(
        chatwoot_url=url,
        tokens={
            account.id: account.reader
            for account in accounts
            if account.reader and any(_is_connected(row, account.id) for row in rows)
        },
        secrets={hook.account_id: hook.secret for hook in hooks if hook.secret},
        webhook_token=next((hook.token for hook in hooks if hook.token), None),
    )


def _problems(accounts: Sequence[DiscoveredAccount], kept: SavedSettings) -> list[str]:
    declined = [f"account {a.id}: {a.declined}" for a in accounts if a.declined]
    unasked = [f"account {a.id}: no token: give one with --token" for a in accounts if not a.users]
    return [*declined, *unasked, *kept.problems]
