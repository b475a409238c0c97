"""Runs `connect`: discovers, matches and binds inboxes, sets up webhooks, and saves settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worker.chatwoot.setup import discovery
from worker.chatwoot.setup.bind_option import parse_bind_options
from worker.chatwoot.setup.discovery import DiscoveredAccount, Targets
from worker.chatwoot.setup.env_file import ConnectionSettings, SavedSettings, save_settings
from worker.chatwoot.setup.inbox_binding import BindingRow, bind_inboxes
from worker.chatwoot.setup.webhook_setup import WebhookStatus, ensure_webhook
from worker.core.inbox_matching import (
    EvolutionInstance,
    MatchedInbox,
    MatchResult,
    Unmatched,
    match_by_name,
    match_inboxes,
)
from worker.settings import LoadedSettings
from worker.store.cache.binding_table import BindingTable


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What to connect; `binds` are the values of `--bind`."""

    targets: Targets
    webhook_url: str
    binds: Sequence[str] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ConnectReport:
    """What was found and done, and a line for each problem."""

    chatwoot_url: str
    rows: Sequence[BindingRow] = ()
    webhooks: Sequence[WebhookStatus] = ()
    saved: SavedSettings = field(default_factory=SavedSettings)
    problems: Sequence[str] = ()


async def connect(
    request: ConnectRequest, table: BindingTable, loaded: LoadedSettings, path: Path
) -> ConnectReport:
    """Connect every inbox that matches exactly; `path` is the file to save settings to.

    Raises `UpstreamError` for Evolution, `ConfigurationError`, and errors of Redis; an error of
    one Chatwoot account is a problem of the report.
    """
    targets, dry_run = request.targets, request.dry_run
    instances = await discovery.discover_instances(targets)
    url = discovery.choose_chatwoot_url(targets, instances)
    ours, others = discovery.split_by_chatwoot(instances, url)
    async with discovery.discover_accounts(targets, url, ours) as accounts:
        results = [*_match(request, ours, accounts), *_of_other_chatwoots(others)]
        rows = await bind_inboxes(table, results, loaded.settings.instances, dry_run=dry_run)
        webhooks = [await _set_up_webhook(request, a, rows, loaded) for a in accounts]
    found = _connection_settings(url, accounts, rows, webhooks)
    saved = SavedSettings()
    if found.tokens:
        saved = save_settings(found, loaded, path, dry_run=dry_run)
    return ConnectReport(url, rows, webhooks, saved, _problems(accounts, saved))


def _match(
    request: ConnectRequest,
    instances: Sequence[EvolutionInstance],
    accounts: Sequence[DiscoveredAccount],
) -> list[MatchResult]:
    inboxes = [inbox for account in accounts for inbox in account.inboxes]
    stated = parse_bind_options(request.binds, inboxes)
    if request.targets.evolution_url is None:
        return list(match_by_name(inboxes, stated))
    results: list[MatchResult] = [
        MatchedInbox(inbox, stated[inbox.key]) for inbox in inboxes if inbox.key in stated
    ]
    unreadable = {account.id for account in accounts if account.error}
    readable: list[EvolutionInstance] = []
    for instance in instances:
        if instance.name in stated.values():
            continue
        if instance.chatwoot and instance.chatwoot.account_id in unreadable:
            reason = f"account {instance.chatwoot.account_id} could not be read"
            results.append(Unmatched(None, instance.name, reason))
        else:
            readable.append(instance)
    results += match_inboxes(readable, [i for i in inboxes if i.key not in stated])
    return results


def _of_other_chatwoots(instances: Sequence[EvolutionInstance]) -> list[MatchResult]:
    return [
        Unmatched(None, i.name, f"it uses another Chatwoot: {i.chatwoot.url}")
        for i in instances
        if i.chatwoot
    ]


async def _set_up_webhook(
    request: ConnectRequest,
    account: DiscoveredAccount,
    rows: Sequence[BindingRow],
    loaded: LoadedSettings,
) -> WebhookStatus:
    if account.error or not account.clients:
        return WebhookStatus(account.id, "none", "the account could not be read")
    if not _has_binding(rows, account.id):
        return WebhookStatus(account.id, "none", "no inbox of this account is bound")
    token = loaded.settings.webhook_token
    return await ensure_webhook(
        account.clients,
        request.webhook_url,
        token.get_secret_value() if token else None,
        dry_run=request.dry_run,
    )


def _has_binding(rows: Sequence[BindingRow], account_id: int) -> bool:
    return any(
        row.inbox and row.inbox.account_id == account_id and row.state != "not bound"
        for row in rows
    )


def _connection_settings(
    url: str,
    accounts: Sequence[DiscoveredAccount],
    rows: Sequence[BindingRow],
    webhooks: Sequence[WebhookStatus],
) -> ConnectionSettings:
    return ConnectionSettings(
        chatwoot_url=url,
        tokens={
            a.id: a.reader_token for a in accounts if a.reader_token and _has_binding(rows, a.id)
        },
        secrets={hook.account_id: hook.secret for hook in webhooks if hook.secret},
        webhook_token=next((hook.token for hook in webhooks if hook.token), None),
    )


def _problems(accounts: Sequence[DiscoveredAccount], saved: SavedSettings) -> list[str]:
    errors = [f"account {a.id}: {a.error}" for a in accounts if a.error]
    no_token = [
        f"account {a.id}: no token: give one with --token" for a in accounts if not a.clients
    ]
    return [*errors, *no_token, *saved.problems]
