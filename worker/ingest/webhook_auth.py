"""Who may post an event, and for which account.

Chatwoot signs since 4.11.2 (account webhooks) and 4.13.0 (API inboxes): HMAC-SHA256 with the
webhook's secret over `<X-Chatwoot-Timestamp>.<raw body>`, in `X-Chatwoot-Signature`.
Older versions can only send a token in the URL.
"""

import hmac
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.requests import Request

from worker.errors import ConfigurationError
from worker.web.http_error import HttpError

MAX_SKEW_S: Final = 300
"""How far X-Chatwoot-Timestamp may be from our clock, either way."""

_SECRETS: Final = "CHATWOOT_CACHE_WEBHOOK_SECRETS"
_TOKEN: Final = "CHATWOOT_CACHE_WEBHOOK_TOKEN"  # noqa: S105  (the name of a setting)
_TIMESTAMP_DIGITS: Final = 12

_HINTS: Final = {
    "bad_signature": "X-Chatwoot-Signature matches no secret; copy the webhook's secret from"
    f" Chatwoot to {_SECRETS}",
    "bad_timestamp": f"X-Chatwoot-Timestamp must be Unix time within {MAX_SKEW_S} s of this"
    " worker's clock; set both clocks by NTP",
    "bad_token": f"the token in the URL is not the one of {_TOKEN}",
    "no_credentials": f"add ?token=… with the value of {_TOKEN} to the webhook's URL in Chatwoot",
    "wrong_account": "the body belongs to another account than the secret that signed it; check"
    f" which account has which secret in {_SECRETS}",
    "no_account": "the body states no account, so it could belong to one that signs; a token is"
    f" not enough for it: put this webhook's secret into {_SECRETS}",
    "signature_required": f"this account has a secret in {_SECRETS}, so a token is not enough for"
    " it; its body must come signed with that secret",
}
"""What to change, by the reason of a 401."""

_NO_SIGNATURE: Final = (
    "X-Chatwoot-Signature is missing; use a Chatwoot that signs webhooks (4.13 or newer), or set "
    f"{_TOKEN}"
)
"""What to change where no token is set: the reason is `no_credentials`."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a request as sent; a header may be absent or repeated."""

    signatures: tuple[bytes, ...] = field(repr=False)
    timestamps: tuple[bytes, ...]
    tokens: tuple[bytes, ...] = field(repr=False)

    def is_fresh(self, now: float) -> bool:
        """Say whether the timestamp is valid at this Unix time."""
        if len(self.timestamps) != 1:
            return False

        stamp = self.timestamps[0]
        is_valid = stamp.isdigit() and len(stamp) <= _TIMESTAMP_DIGITS
        return is_valid and abs(now - int(stamp)) <= MAX_SKEW_S


def read_credentials(request: Request) -> Credentials:
    """Read the credentials in headers and query string."""
    return Credentials(
        signatures=_values(request, b"x-chatwoot-signature"),
        timestamps=_values(request, b"x-chatwoot-timestamp"),
        tokens=tuple(_tokens(request.scope["query_string"])),
    )


def _values(request: Request, name: bytes) -> tuple[bytes, ...]:
    return tuple(value for key, value in request.scope["headers"] if key == name)


def _tokens(query: bytes) -> Iterator[bytes]:
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name == b"token":
            # `+` may have been pasted as it is, or may stand for a space.
            yield unquote_to_bytes(value)
            yield unquote_to_bytes(value.replace(b"+", b"%20"))


@dataclass(frozen=True, slots=True)
class WebhookPolicy:
    """The settings of the webhook; raises `ConfigurationError` for an empty or shared secret.

    `secrets` maps an account to its webhooks' secrets, more than one during a rotation.
    `loopback`: only programs on this machine can reach the endpoint.
    """

    secrets: Mapping[int, tuple[str, ...]] = field(repr=False)
    token: str | None = field(repr=False)
    max_body_bytes: int
    loopback: bool

    def __post_init__(self) -> None:
        if self.token == "":
            raise ConfigurationError(f"{_TOKEN} is empty; give it a value or leave it out")
        for account, secrets in self.secrets.items():
            if not secrets or "" in secrets:
                raise ConfigurationError(f"{_SECRETS}: account {account} has an empty secret")

        # The secret that matches determines the account.
        owners = Counter(secret for secrets in self.secrets.values() for secret in set(secrets))
        if max(owners.values(), default=1) > 1:
            raise ConfigurationError(f"{_SECRETS}: two accounts have the same secret")

    @property
    def requires_credentials(self) -> bool:
        """Whether a request needs a signature or a token."""
        return bool(self.secrets) or self.token is not None

    @property
    def closed(self) -> str | None:
        """Why every request is rejected with 503, if so."""
        if self.requires_credentials or self.loopback:
            return None
        return (
            "the webhook can be reached from other machines and has neither a secret nor a token; "
            f"set {_SECRETS} or {_TOKEN}"
        )

    def has_valid_token(self, credentials: Credentials) -> bool:
        """Say whether the URL has the right token."""
        if self.token is None:
            return False

        token = self.token.encode()
        return any([hmac.compare_digest(token, given) for given in credentials.tokens])  # noqa: C419  (constant time)

    def check_headers(self, credentials: Credentials, now: float) -> None:
        """Raise `HttpError` (401) where no body could be accepted with these credentials."""
        has_one = len(credentials.signatures) == 1
        may_be_signed = self.secrets and has_one and credentials.is_fresh(now)
        if self.requires_credentials and not (may_be_signed or self.has_valid_token(credentials)):
            raise self._unauthenticated(credentials, now)

    def authenticate(self, credentials: Credentials, body: bytes, now: float) -> int | None:
        """Return the account whose secret signed the body, None where only the token is valid.

        `now` is Unix time in seconds. Takes the time of one HMAC of the body per secret.
        Raises `HttpError` (401) when signature and token are both invalid.
        """
        signer = self._signer(credentials, body, now)
        if self.requires_credentials and signer is None and not self.has_valid_token(credentials):
            raise self._unauthenticated(credentials, now)
        return signer

    def authorize(
        self, signer: int | None, accounts: frozenset[int | None], *, has_token: bool
    ) -> int | None:
        """Return the account that signed this body, None where no signature is needed.

        `accounts` are those the body names, None among them for one that is not a whole number.
        Raises `HttpError` (401) when the credentials do not cover them.
        """
        if signer is not None and accounts <= {signer}:
            return signer

        if not has_token:
            if signer is not None:
                raise _unauthorized("wrong_account")
            return None

        if self.secrets and (not accounts or None in accounts):
            raise _unauthorized("no_account")
        if not accounts.isdisjoint(self.secrets):
            raise _unauthorized("signature_required")
        return None

    def _signer(self, credentials: Credentials, body: bytes, now: float) -> int | None:
        if len(credentials.signatures) != 1 or not credentials.is_fresh(now):
            return None

        given = credentials.signatures[0].lower()
        signed = b"".join((credentials.timestamps[0], b".", body))
        # Every secret is tried, also after a match: the time taken must not tell which matched.
        matches = [
            account
            for account, secrets in self.secrets.items()
            for secret in secrets
            if hmac.compare_digest(_signature(secret, signed), given)
        ]
        return matches[0] if matches else None

    def _unauthenticated(self, credentials: Credentials, now: float) -> HttpError:
        if self.secrets and credentials.signatures:
            return _unauthorized("bad_signature" if credentials.is_fresh(now) else "bad_timestamp")
        if self.token is None:
            return HttpError(401, "no_credentials", _NO_SIGNATURE)
        return _unauthorized("bad_token" if credentials.tokens else "no_credentials")


def _unauthorized(reason: str) -> HttpError:
    return HttpError(401, reason, _HINTS[reason])


def _signature(secret: str, signed: bytes) -> bytes:
    return b"sha256=" + hmac.digest(secret.encode(), signed, "sha256").hex().encode()


def is_loopback(host: str) -> bool:
    """Whether a server bound to this host is reached from this machine only."""
    if host.lower() == "localhost":
        return True

    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
