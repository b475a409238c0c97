"""Whether webhooks arrive; if none does, the most likely reason."""

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Final
from urllib.parse import urlsplit

import anyio.to_thread
from prometheus_client.parser import text_string_to_metric_families

from worker.chatwoot.account_clients import AccountClients
from worker.chatwoot.redirect_probe import redirect_of
from worker.chatwoot.rest_client import Webhook
from worker.cli.checks.check_result import CheckResult, ok, problem, unknown, warning
from worker.cli.context import CheckContext
from worker.cli.healthcheck import TIMEOUT_S, local_address
from worker.core.chatwoot_event import EVENTS
from worker.errors import UpstreamError
from worker.ingest.webhook import PATH
from worker.ops.metrics import PREFIX
from worker.settings import Settings

_FAMILY: Final = f"{PREFIX}webhook_requests"
_ACCEPTED: Final = ("accepted", "spooled", "bot_contact")
_PATH: Final = PATH.decode()
_NONE: Final = "none has arrived since the worker started"
_SSRF: Final = (
    "Chatwoot 4.14 and newer send to a private address only with "
    "SAFE_FETCH_ALLOW_PRIVATE_NETWORK=true on its web and sidekiq"
)
_CONNECT: Final = "run `chatwoot-cache connect`, and restart the worker"

_ADVICE: Final[Mapping[str, str]] = {
    "no_credentials": "Chatwoot before 4.11.2 signs nothing: "
    f"{_CONNECT}, or set CHATWOOT_CACHE_WEBHOOK_TOKEN and add ?token= to the webhook's URL",
    "bad_signature": f"the secret is not that of this webhook, or was replaced: {_CONNECT}",
    "wrong_account": "they are signed with the secret of another account: "
    f"correct CHATWOOT_CACHE_WEBHOOK_SECRETS, or {_CONNECT}",
    "signature_required": "a secret is set for the account, but its webhook does not sign: "
    f"{_CONNECT}",
    "no_account": "they name no account, so a token is not enough for them: "
    "add the webhook's secret to CHATWOOT_CACHE_WEBHOOK_SECRETS",
    "bad_timestamp": "the clocks of Chatwoot and this machine differ by minutes: "
    "synchronize both by NTP",
    "bad_token": f"the token in the webhook's URL is not CHATWOOT_CACHE_WEBHOOK_TOKEN: {_CONNECT}",
    "bad_method": "a redirect turns them into GET, such as one from http to https: "
    "give Chatwoot the final address",
    "not_found": f"the webhook's URL must end in {_PATH}",
    "redis_unavailable": "Redis was unavailable: set CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR",
}
_OTHER_ADVICE: Final = "see webhook.rejected in the worker's log"
_SETUP_ADVICE: Final = (
    f"run `chatwoot-cache connect`, which sets up the webhook; {_SSRF}; Chatwoot's form refuses "
    "names without a dot: use the alias chatwoot-cache.internal; it follows no redirect"
)


async def webhooks(context: CheckContext) -> CheckResult:
    """Whether webhooks were accepted since the worker started, and why not."""
    if not context.settings.webhook_enabled:
        return ok("the webhook is off")
    requests = await anyio.to_thread.run_sync(_count_requests, context.settings)
    if requests is None:
        return unknown("no running worker found on this machine", "start it: chatwoot-cache run")
    accepted = sum(requests[reason] for reason in _ACCEPTED)
    refused = {r: n for r, n in requests.most_common() if n and r not in _ACCEPTED}
    if refused:
        return _refused(accepted, refused)
    if accepted:
        return ok(f"{accepted} accepted since the worker started")
    return await _none_arrived(context.settings)


def _count_requests(settings: Settings) -> Counter[str] | None:
    """Return the worker's webhook requests by reason, None where no worker answers."""
    host = local_address(settings.ops_host)
    connection = HTTPConnection(host, settings.ops_port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        samples = families[_FAMILY].samples
    except (OSError, HTTPException, ValueError, KeyError):
        return None
    finally:
        connection.close()
    counts: Counter[str] = Counter()
    for sample in samples:
        if sample.name.endswith("_total"):
            counts[sample.labels["reason"]] += int(sample.value)
    return counts


def _refused(accepted: int, refused: Mapping[str, int]) -> CheckResult:
    reasons = ", ".join(f"{reason} {count}" for reason, count in refused.items())
    total = sum(refused.values())
    says = f"{accepted} accepted, {total} refused since the worker started: {reasons}"
    advice = _ADVICE.get(next(iter(refused)), _OTHER_ADVICE)
    return warning(says, advice) if accepted else problem(says, advice)


async def _none_arrived(settings: Settings) -> CheckResult:
    """Find the reason in the webhooks of each account, where a token for Chatwoot is known."""
    accounts = AccountClients(settings, timeout_s=settings.chatwoot_timeout_s)
    known = sorted({*settings.chatwoot_tokens, *settings.webhook_secrets})
    clients = [client for number in known if (client := accounts.of(number))]
    try:
        for client in clients:
            if finding := await _check_account(client.account_id, await client.webhooks()):
                return finding
    except UpstreamError as error:
        return warning(f"{_NONE}; {error}", _SETUP_ADVICE)
    finally:
        await accounts.close()
    if not clients:
        return warning(_NONE, _SETUP_ADVICE)
    return warning(
        f"{_NONE}, though Chatwoot has a webhook for it", "write a message, and check again"
    )


async def _check_account(account_id: int, webhooks: Sequence[Webhook]) -> CheckResult | None:
    """Return what is wrong with an account's webhook, None where nothing is visible from here."""
    webhook = next((w for w in webhooks if _PATH in urlsplit(w.url).path), None)
    if webhook is None:
        return problem(f"account {account_id} has no webhook to {_PATH}", _CONNECT)
    missing = [event for event in EVENTS if event not in webhook.subscriptions]
    if missing:
        return problem(f"the webhook of account {account_id} lacks {', '.join(missing)}", _CONNECT)
    url = urlsplit(webhook.url)
    # Without the query, which may hold the token.
    shown = f"{url.scheme}://{url.netloc}{url.path}"
    if target := await redirect_of(webhook.url, timeout_s=TIMEOUT_S):
        return problem(
            f"{_NONE}: {shown} redirects to {target}, and Chatwoot follows no redirect",
            f"chatwoot-cache connect --webhook-url {target}{url.path}",
        )
    if _is_private(url.hostname or ""):
        return problem(f"{_NONE}; Chatwoot sends to {shown}, a private address", _SSRF)
    return None


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".internal", ".local", ".localhost"))
