"""The whole of `connect`: ask, pair, bind, see to the webhooks, keep what the worker needs."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from worker.connecting import asking, stating, webhook
from worker.connecting.asking import Account, Where
from worker.connecting.binding import BindingTable, Row, bind
from worker.connecting.keeping import Kept, Knowledge, keep
from worker.connecting.webhook import Hook
from worker.core.inboxes import Instance, Judged, Left, Pair, pair, pair_alone
from worker.settings import Loaded


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asks for; `binds` are the words of `--bind`."""

    where: Where
    webhook_url: str
    binds: Sequence[str] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What was found and done; `problems` are lines about what could not be."""

    chatwoot_url: str
    rows: Sequence[Row] = ()
    hooks: Sequence[Hook] = ()
    kept: Kept = field(default_factory=Kept)
    problems: Sequence[str] = ()


async def connect(asked: Asked, table: BindingTable, loaded: Loaded, path: Path) -> Report:
    """Connect everything that can be told apart for certain; `path` is what the worker reads.

    Raises `Declined` where Evolution does not answer, `Misconfigured` and what Redis may raise;
    what one account refuses is told in the report.
    """
    instances = await asking.ask_evolution(asked.where)
    url = asking.chatwoot_url(asked.where, instances)
    ours, others = asking.of_chatwoot(instances, url)
    async with _accounts(asked.where, url, ours) as accounts:
        judged = [*_judge(asked, ours, accounts), *_elsewhere(others)]
        rows = await bind(table, judged, loaded.settings.instances, dry_run=asked.dry_run)
        hooks = [await _hook(asked, account, rows, loaded) for account in accounts]
    known = _knowledge(url, accounts, rows, hooks)
    kept = keep(known, loaded, path, dry_run=asked.dry_run) if known.tokens else Kept()
    return Report(url, rows, hooks, kept, _problems(accounts, kept))


@asynccontextmanager
async def _accounts(
    where: Where, url: str, instances: Sequence[Instance]
) -> AsyncIterator[list[Account]]:
    async with AsyncExitStack() as stack:
        yield await asking.ask_accounts(where, url, instances, stack)


def _judge(
    asked: Asked, instances: Sequence[Instance], accounts: Sequence[Account]
) -> list[Judged]:
    inboxes = [inbox for account in accounts for inbox in account.inboxes]
    stated = stating.read(asked.binds, inboxes)
    if asked.where.evolution_url is None:
        return list(pair_alone(inboxes, stated))
    unread = {account.id for account in accounts if account.declined}
    told = set(stated.values())
    rest = [i for i in instances if i.name not in told]
    seen = [i for i in rest if not (i.link and i.link.account_id in unread)]
    judged: list[Judged] = [Pair(i, stated[i.key]) for i in inboxes if i.key in stated]
    judged += pair(seen, [i for i in inboxes if i.key not in stated])
    judged += [
        Left(None, i.name, f"account {i.link.account_id} could not be read")
        for i in rest
        if i.link and i.link.account_id in unread
    ]
    return judged


def _elsewhere(instances: Sequence[Instance]) -> list[Judged]:
    return [
        Left(None, i.name, f"its Chatwoot is another one: {i.link.url}")
        for i in instances
        if i.link
    ]


async def _hook(asked: Asked, account: Account, rows: Sequence[Row], loaded: Loaded) -> Hook:
    if account.declined or not account.users:
        return Hook(account.id, "none", "the account could not be read")
    if not any(_is_connected(row, account.id) for row in rows):
        return Hook(account.id, "none", "no inbox of this account is bound")
    token = loaded.settings.webhook_token
    return await webhook.ensure(
        account.users,
        asked.webhook_url,
        token.get_secret_value() if token else None,
        dry_run=asked.dry_run,
    )


def _is_connected(row: Row, account_id: int) -> bool:
    is_of = row.inbox is not None and row.inbox.account_id == account_id
    return is_of and row.state != "not bound"


def _knowledge(
    url: str, accounts: Sequence[Account], rows: Sequence[Row], hooks: Sequence[Hook]
) -> Knowledge:
    return Knowledge(
        chatwoot_url=url,
        tokens={
            account.id: account.reader
            for account in accounts
            if account.reader and any(_is_connected(row, account.id) for row in rows)
        },
        secrets={hook.account_id: hook.secret for hook in hooks if hook.secret},
        webhook_token=next((hook.token for hook in hooks if hook.token), None),
    )


def _problems(accounts: Sequence[Account], kept: Kept) -> list[str]:
    declined = [f"account {a.id}: {a.declined}" for a in accounts if a.declined]
    unasked = [f"account {a.id}: no token: give one with --token" for a in accounts if not a.users]
    return [*declined, *unasked, *kept.problems]
