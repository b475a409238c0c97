"""Whether webhooks arrive; where none do, which of the ways to lose them fits."""

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
from worker.cli.checks.check_context import CheckContext
from worker.cli.checks.check_result import CheckResult, ok, problem, unknown, warning
from worker.cli.healthcheck import TIMEOUT_S, reachable
from worker.core.chatwoot_event import EVENTS
from worker.errors import UpstreamError
from worker.ingest.webhook import PATH
from worker.ops.metrics import PREFIX
from worker.settings import Settings

_FAMILY: Final = f"{PREFIX}webhook_requests"
_TAKEN: Final = ("accepted", "spooled", "bot_contact")
_OURS: Final = PATH.decode()
_SSRF: Final = (
    "Chatwoot 4.14 and newer send to a private address only with "
    "SAFE_FETCH_ALLOW_PRIVATE_NETWORK=true on its web and sidekiq"
)
_CONNECT: Final = "run `chatwoot-cache connect`, and start the worker anew"

_ADVICE: Final[Mapping[str, str]] = {
    "no_credentials": "Chatwoot before 4.11.2 signs nothing: "
    f"{_CONNECT}, or set CHATWOOT_CACHE_WEBHOOK_TOKEN and add ?token= to the webhook's URL",
    "bad_signature": f"the secret is not this webhook's, as after it was made anew: {_CONNECT}",
    "wrong_account": "they are signed with another account's secret: "
    f"mend CHATWOOT_CACHE_WEBHOOK_SECRETS, or {_CONNECT}",
    "signature_required": "the account has a secret here, and its webhook does not sign: "
    f"{_CONNECT}",
    "no_account": "they state no account, so a token is not enough for them: "
    "put the webhook's secret into CHATWOOT_CACHE_WEBHOOK_SECRETS",
    "bad_timestamp": "the clocks of Chatwoot and this machine are minutes apart: set both by NTP",
    "bad_token": f"the token in the webhook's URL is not CHATWOOT_CACHE_WEBHOOK_TOKEN: {_CONNECT}",
    "bad_method": "something turns them into GET, as a redirect from http to https does: "
    "give Chatwoot the address that answers itself",
    "not_found": f"the webhook's URL must end in {_OURS}",
    "redis_unavailable": "Redis was away: set CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR",
}
_OTHERWISE: Final = "the worker's log says more: webhook.rejected"

_NONE: Final = (
    f"run `chatwoot-cache connect`, which sets the webhook up; {_SSRF}; its form refuses names "
    "without a dot: use the alias chatwoot-cache.internal; it follows no redirect"
)


async def webhooks(subject: CheckContext) -> CheckResult:
    """Whether webhooks were taken since the worker started, and why not."""
    if not subject.settings.webhook_enabled:
        return ok("the webhook is off")
    answers = await anyio.to_thread.run_sync(_answers, subject.settings)
    if answers is None:
        return unknown("no worker runs here that could tell", "start it: chatwoot-cache run")
    taken = sum(answers[reason] for reason in _TAKEN)
    refused = {r: n for r, n in answers.most_common() if n and r not in _TAKEN}
    if refused:
        return _refused(taken, refused)
    if taken:
        return ok(f"{taken} taken since the worker started")
    return await _none(subject.settings)


def _answers(settings: Settings) -> Counter[str] | None:
    """Return the worker's answers to webhooks by reason, None where no worker tells."""
    connection = HTTPConnection(reachable(settings.ops_host), settings.ops_port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        samples = families[_FAMILY].samples
    except (OSError, HTTPException, ValueError, KeyError):
        return None
    finally:
        connection.close()
    counted: Counter[str] = Counter()
    for sample in samples:
        if sample.name.endswith("_total"):
            counted[sample.labels["reason"]] += int(sample.value)
    return counted


def _refused(taken: int, refused: Mapping[str, int]) -> CheckResult:
    reasons = ", ".join(f"{reason} {count}" for reason, count in refused.items())
    says = f"{taken} taken, {sum(refused.values())} refused since the worker started: {reasons}"
    advice = _ADVICE.get(next(iter(refused)), _OTHERWISE)
    return warning(says, advice) if taken else problem(says, advice)


async def _none(settings: Settings) -> CheckResult:
    """Say why none arrived, by what Chatwoot says of its webhooks where it can be asked."""
    none = "none has arrived since the worker started"
    accounts = AccountClients(settings, timeout_s=settings.chatwoot_timeout_s)
    known = sorted({*settings.chatwoot_tokens, *settings.webhook_secrets})
    asked = [chatwoot for number in known if (chatwoot := accounts.of(number))]
    try:
        for chatwoot in asked:
            found = await chatwoot.webhooks()
            if finding := await _judge(none, chatwoot.account_id, found):
                return finding
    except UpstreamError as declined:
        return warning(f"{none}; {declined}", _NONE)
    finally:
        await accounts.close()
    if not asked:
        return warning(none, _NONE)
    return warning(f"{none}, though Chatwoot has a webhook to it", "write a message, look again")


async def _judge(none: str, account_id: int, webhooks: Sequence[Webhook]) -> CheckResult | None:
    """Return what is amiss with an account's webhook, None where it cannot be seen from here."""
    ours = [webhook for webhook in webhooks if _OURS in urlsplit(webhook.url).path]
    if not ours:
        return problem(f"account {account_id} has no webhook to {_OURS}", _CONNECT)
    webhook = ours[0]
    lacking = [event for event in EVENTS if event not in webhook.subscriptions]
    if lacking:
        return problem(f"the webhook of account {account_id} lacks {', '.join(lacking)}", _CONNECT)
    place = urlsplit(webhook.url)
    shown = f"{place.scheme}://{place.netloc}{place.path}"
    if target := await redirect_of(webhook.url, timeout_s=TIMEOUT_S):
        return problem(
            f"{none}: {shown} redirects to {target}, and Chatwoot follows no redirect",
            f"chatwoot-cache connect --webhook-url {target}{place.path}",
        )
    if _is_private(place.hostname or ""):
        return problem(f"{none}; Chatwoot is to send to {shown}, a private address", _SSRF)
    return None


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".internal", ".local", ".localhost"))
