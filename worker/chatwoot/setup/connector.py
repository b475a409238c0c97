"""Runs `connect`: discovers, matches and binds inboxes, sets up webhooks, and saves settings."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.chatwoot.setup.bind_option import parse_bind_options
from worker.chatwoot.setup.discovery import (
    ConnectRequest,
    DiscoveredAccount,
    choose_chatwoot,
    discover_accounts,
    discover_instances,
)
from worker.chatwoot.setup.env_file import ConnectionSettings, save_settings
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
class ConnectReport:
    """What was found and done: the files that were written, and a line for each problem."""

    chatwoot_url: str
    rows: Sequence[BindingRow]
    webhooks: Sequence[WebhookStatus]
    files: Sequence[str]
    problems: Sequence[str]


async def connect(
    request: ConnectRequest, table: BindingTable, loaded: LoadedSettings, path: Path
) -> ConnectReport:
    """Connect every inbox that matches exactly; `path` is the file to save settings to.

    Raises `UpstreamError` for Evolution, `ConfigurationError`, and errors of Redis; an error of
    one Chatwoot account is a problem of the report.
    """
    settings, dry_run = loaded.settings, request.dry_run
    instances = await discover_instances(request)
    url, ours = choose_chatwoot(request, instances)
    async with discover_accounts(request, url, ours) as accounts:
        results = _match(request, ours, accounts)
        results += [
            Unmatched(None, i.name, f"it uses another Chatwoot: {i.chatwoot.url}")
            for i in instances
            if i.chatwoot and i not in ours
        ]
        rows = await bind_inboxes(table, results, settings.instances, dry_run=dry_run)
        bound = {row.inbox.account_id for row in rows if row.inbox and row.state != "not bound"}
        token = settings.webhook_token.get_secret_value() if settings.webhook_token else None
        webhooks = [await _set_up_webhook(request, a, bound, token) for a in accounts]
    problems = [f"account {a.id}: {a.error}" for a in accounts if a.error]
    problems += [
        f"account {a.id}: no token: give one with --token" for a in accounts if not a.clients
    ]
    files: list[str] = []
    tokens = {a.id: a.reader_token for a in accounts if a.reader_token and a.id in bound}
    if tokens:
        secrets = {webhook.account_id: webhook.secret for webhook in webhooks if webhook.secret}
        url_token = next((webhook.token for webhook in webhooks if webhook.token), None)
        found = ConnectionSettings(url, tokens, secrets, url_token)
        files, unsaved = save_settings(found, loaded, path, dry_run=dry_run)
        problems += unsaved
    return ConnectReport(url, rows, webhooks, files, problems)


def _match(
    request: ConnectRequest,
    instances: Sequence[EvolutionInstance],
    accounts: Sequence[DiscoveredAccount],
) -> list[MatchResult]:
    inboxes = [inbox for account in accounts for inbox in account.inboxes]
    stated = parse_bind_options(request.binds, inboxes)
    if request.evolution_url is None:
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


async def _set_up_webhook(
    request: ConnectRequest,
    account: DiscoveredAccount,
    bound_accounts: Collection[int],
    token: str | None,
) -> WebhookStatus:
    if account.error or not account.clients:
        return WebhookStatus(account.id, "none", "the account could not be read")
    if account.id not in bound_accounts:
        return WebhookStatus(account.id, "none", "no inbox of this account is bound")
    url, dry_run = request.webhook_url, request.dry_run
    return await ensure_webhook(account.clients, url, token, dry_run=dry_run)
