"""Who may post an event, and for which account.

Chatwoot signs since 4.11.2 (account webhooks) and 4.13.0 (API inboxes): HMAC-SHA256 with the
webhook's secret over `<X-Chatwoot-Timestamp>.<raw body>`, in `X-Chatwoot-Signature`.
Before that, a token in the URL is all there is.
"""

import hmac
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.requests import Request

from worker.errors import ConfigurationError
from worker.web.http_error import HttpError

SKEW_S: Final = 300
"""How far X-Chatwoot-Timestamp may be from our clock, either way, in seconds."""

_SECRETS: Final = "CHATWOOT_CACHE_WEBHOOK_SECRETS"
_TOKEN: Final = "CHATWOOT_CACHE_WEBHOOK_TOKEN"  # noqa: S105  (the name of a setting)
_TIMESTAMP_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class WebhookPolicy:
    """What the settings say about posting; raises ConfigurationError where they say too little.

    `secrets` maps an account to its webhooks' secrets, several of them while one is rotated.
    `loopback`: only programs on this machine reach the endpoint.
    """

    secrets: Mapping[int, tuple[str, ...]] = field(repr=False)
    token: str | None = field(repr=False)
    max_body_bytes: int
    loopback: bool

    def __post_init__(self) -> None:
        if self.token == "":
            raise ConfigurationError(f"{_TOKEN} is empty; give it a value or leave it out")

        self._check_secrets()

    @property
    def guarded(self) -> bool:
        """Whether a request must show a signature or a token."""
        return bool(self.secrets) or self.token is not None

    @property
    def closed(self) -> str | None:
        """Why every request is refused with 503; None when it is not."""
        if self.guarded or self.loopback:
            return None
        return (
            "the webhook can be reached from other machines and has neither a secret nor a token; "
            f"set {_SECRETS} or {_TOKEN}"
        )

    def _check_secrets(self) -> None:
        for account, secrets in self.secrets.items():
            if not secrets or "" in secrets:
                raise ConfigurationError(f"{_SECRETS}: account {account} has an empty secret")

        # A secret names its account, so it must not name two.
        owners = Counter(secret for secrets in self.secrets.values() for secret in set(secrets))
        if max(owners.values(), default=1) > 1:
            raise ConfigurationError(f"{_SECRETS}: two accounts have the same secret")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows of itself, as sent; a header may come several times, or not at all."""

    signatures: tuple[bytes, ...] = field(repr=False)
    timestamps: tuple[bytes, ...]
    tokens: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthResult:
    """What the credentials are worth: the account whose secret signed, and a token that holds."""

    signer: int | None
    token: bool


def credentials(request: Request) -> Credentials:
    """Take the credentials out of headers and query string."""
    return Credentials(
        signatures=_values(request, b"x-chatwoot-signature"),
        timestamps=_values(request, b"x-chatwoot-timestamp"),
        tokens=tuple(_tokens(request.scope["query_string"])),
    )


def authenticate(policy: WebhookPolicy, shown: Credentials, body: bytes, now: float) -> AuthResult:
    """Check signature and token; raises Rejected (401) when neither holds.

    `now` is Unix time in seconds. Takes the time of one HMAC of the body per secret.
    """
    proof = AuthResult(_signer(policy, shown, body, now), token_holds(policy, shown))
    if policy.guarded and proof.signer is None and not proof.token:
        raise _why_not(policy, shown, now)

    return proof


def token_holds(policy: WebhookPolicy, shown: Credentials) -> bool:
    """Tell whether the URL has the right token, before the body is read."""
    if policy.token is None:
        return False

    token = policy.token.encode()
    return any([hmac.compare_digest(token, given) for given in shown.tokens])  # noqa: C419  (constant time)


def precheck(policy: WebhookPolicy, shown: Credentials, now: float) -> None:
    """Raise Rejected (401) for what cannot be enough whatever the body is, before it is read."""
    may_be_signed = policy.secrets and len(shown.signatures) == 1 and _is_fresh(shown, now)
    if policy.guarded and not may_be_signed and not token_holds(policy, shown):
        raise _why_not(policy, shown, now)


def authorize(
    policy: WebhookPolicy, proof: AuthResult, stated: frozenset[int | None]
) -> int | None:
    """Give the account whose secret vouches for this body, None when a token or nothing does.

    `stated` are the accounts the body names, None among them for a name that is no number.
    Raises Rejected (401) when the proof is not enough for them.
    """
    if proof.signer is not None and stated <= {proof.signer}:
        return proof.signer

    if proof.token:
        _check_token_is_enough(policy, stated)
        return None

    if proof.signer is not None:
        raise HttpError(
            401,
            "wrong_account",
            "the body belongs to another account than the secret that signed it; "
            f"check which account has which secret in {_SECRETS}",
        )
    return None


def is_loopback(host: str) -> bool:
    """Whether a server bound to this host is reached from this machine only."""
    if host.lower() == "localhost":
        return True

    try:
        address: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        return False

    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback


def _values(request: Request, name: bytes) -> tuple[bytes, ...]:
    return tuple(value for key, value in request.scope["headers"] if key == name)


def _tokens(query: bytes) -> Iterator[bytes]:
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name == b"token":
            # A `+` pasted into a URL as it is, and one that stands for a space.
            yield unquote_to_bytes(value)
            yield unquote_to_bytes(value.replace(b"+", b"%20"))


def _signer(policy: WebhookPolicy, shown: Credentials, body: bytes, now: float) -> int | None:
    if len(shown.signatures) != 1 or not _is_fresh(shown, now):
        return None

    given = shown.signatures[0].lower()
    signed = b"".join((shown.timestamps[0], b".", body))
    # Every secret is tried, also after a match: the time taken must not tell which one it was.
    matches = [
        account
        for account, secrets in policy.secrets.items()
        for secret in secrets
        if hmac.compare_digest(_signature(secret, signed), given)
    ]
    return matches[0] if matches else None


def _signature(secret: str, signed: bytes) -> bytes:
    return b"sha256=" + hmac.digest(secret.encode(), signed, "sha256").hex().encode()


def _is_fresh(shown: Credentials, now: float) -> bool:
    if len(shown.timestamps) != 1:
        return False

    stamp = shown.timestamps[0]
    return stamp.isdigit() and len(stamp) <= _TIMESTAMP_DIGITS and abs(now - int(stamp)) <= SKEW_S


def _why_not(policy: WebhookPolicy, shown: Credentials, now: float) -> HttpError:
    if policy.secrets and shown.signatures:
        return _why_no_signature(shown, now)

    if policy.token is not None and shown.tokens:
        return HttpError(401, "bad_token", f"the token in the URL is not the one of {_TOKEN}")

    if policy.token is None:
        wanted = "X-Chatwoot-Signature is missing; use a Chatwoot that signs webhooks (4.13 or "
        return HttpError(401, "no_credentials", f"{wanted}newer), or set {_TOKEN}")

    wanted = "add ?token=… with the value of"
    return HttpError(401, "no_credentials", f"{wanted} {_TOKEN} to the webhook's URL in Chatwoot")


def _why_no_signature(shown: Credentials, now: float) -> HttpError:
    if not _is_fresh(shown, now):
        return HttpError(
            401,
            "bad_timestamp",
            f"X-Chatwoot-Timestamp must be Unix time within {SKEW_S} s of this worker's clock; "
            "set both clocks by NTP",
        )
    return HttpError(
        401,
        "bad_signature",
        "X-Chatwoot-Signature matches no secret; "
        f"copy the webhook's secret from Chatwoot to {_SECRETS}",
    )


def _check_token_is_enough(policy: WebhookPolicy, stated: frozenset[int | None]) -> None:
    if not policy.secrets:
        return

    if not stated or None in stated:
        raise HttpError(
            401,
            "no_account",
            "the body states no account, so it could belong to one that signs; a token is not "
            f"enough for it: put this webhook's secret into {_SECRETS}",
        )
    if not stated.isdisjoint(policy.secrets):
        raise HttpError(
            401,
            "signature_required",
            f"this account has a secret in {_SECRETS}, so a token is not enough for it; "
            "its body must come signed with that secret",
        )
