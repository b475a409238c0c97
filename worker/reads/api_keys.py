"""Who may read what: a key of the operator's reads all, an instance's key its own instance.

A key comes in the header `apikey`, as Evolution has it, or as `Authorization: Bearer`.
"""

import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.types import Scope

from worker.web.http_error import HttpError

_BEARER: Final = b"bearer "
_HEADERS: Final = frozenset({b"apikey", b"authorization"})


@dataclass(frozen=True, slots=True)
class Permission:
    """What a key opens: one instance, or every one (None) and private notes with it."""

    instance: str | None = None

    def check(self, instance: str, *, notes: bool) -> None:
        """Raise Rejected (403) unless this instance may be read, and private notes if asked for.

        Nothing is looked up before, so whether the instance exists cannot show.
        """
        if self.instance not in (None, instance):
            raise HttpError(403, "wrong_instance", "this key is another instance's")
        if notes and self.instance is not None:
            raise HttpError(
                403, "notes_forbidden", "private notes are read with CHATWOOT_CACHE_HTTP_API_KEY"
            )


class ApiKeys:
    """The keys that open something, kept as digests under a secret of this process.

    A dictionary of such digests takes the same time for every wrong key: to learn anything from
    when its comparisons end, one would have to choose digests, and nobody can.
    """

    def __init__(self, api_key: str | None, instance_keys: Mapping[str, Sequence[str]]) -> None:
        self._secret = secrets.token_bytes(32)
        self._grants = {
            self._digest(key.encode()): Permission(instance)
            for instance, keys in instance_keys.items()
            for key in keys
        }
        if api_key is not None:
            self._grants[self._digest(api_key.encode())] = Permission()

    def __bool__(self) -> bool:
        return bool(self._grants)

    def grant(self, scope: Scope) -> Permission:
        """Return what a request's key opens; raises Rejected (401)."""
        shown = {key for name, value in scope["headers"] if (key := _key(name, value))}
        if not shown:
            raise HttpError(
                401, "no_key", "send a key in the header apikey, or as Authorization: Bearer"
            )
        grants = [self._grants.get(self._digest(key)) for key in shown]
        if len(grants) > 1 or grants[0] is None:
            raise HttpError(
                401,
                "bad_key",
                "the key is not one of CHATWOOT_CACHE_HTTP_API_KEY or"
                " CHATWOOT_CACHE_HTTP_INSTANCE_KEYS",
            )
        return grants[0]

    def _digest(self, key: bytes) -> bytes:
        return hmac.digest(self._secret, key, "sha256")


def _key(name: bytes, value: bytes) -> bytes | None:
    if name not in _HEADERS:
        return None
    if name == b"apikey":
        return value.strip()
    is_bearer = value[: len(_BEARER)].lower() == _BEARER
    return value[len(_BEARER) :].strip() if is_bearer else None
