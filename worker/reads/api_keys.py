"""API keys: the operator's key reads every instance, an instance's key only that instance.

A key is sent in the header `apikey`, as for Evolution, or as `Authorization: Bearer`.
"""

import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.types import Scope

from worker.web.http_error import HttpError

_BEARER: Final = b"bearer "


@dataclass(frozen=True, slots=True)
class Permission:
    """What a key may read: one instance, or every instance with private notes (None)."""

    instance: str | None = None

    def check(self, instance: str, *, notes: bool) -> None:
        """Raise `HttpError` (403) unless the key may read this instance, and its notes if needed.

        Checked before any look-up, so the answer does not tell whether the instance exists.
        """
        if self.instance not in (None, instance):
            raise HttpError(403, "wrong_instance", "this key belongs to another instance")
        if notes and self.instance is not None:
            raise HttpError(
                403, "notes_forbidden", "private notes are read with CHATWOOT_CACHE_HTTP_API_KEY"
            )


class ApiKeys:
    """The permission of each key. Keys are stored as digests under a secret of this process.

    A dictionary look-up may take different times for different digests, but a client cannot
    choose a digest without the secret, so the time tells nothing about a key.
    """

    def __init__(self, api_key: str | None, instance_keys: Mapping[str, Sequence[str]]) -> None:
        self._secret = secrets.token_bytes(32)
        self._permissions = {
            self._digest(key.encode()): Permission(instance)
            for instance, keys in instance_keys.items()
            for key in keys
        }
        if api_key is not None:
            self._permissions[self._digest(api_key.encode())] = Permission()

    def __bool__(self) -> bool:
        return bool(self._permissions)

    def authorize(self, scope: Scope) -> Permission:
        """Return the permission of the key in a request. Raises `HttpError` (401)."""
        keys = {key for name, value in scope["headers"] if (key := _key(name, value))}
        if not keys:
            raise HttpError(
                401, "no_key", "send a key in the header apikey, or as Authorization: Bearer"
            )
        permission = self._permissions.get(self._digest(keys.pop()))
        if keys or permission is None:
            raise HttpError(
                401,
                "bad_key",
                "the key is not one of CHATWOOT_CACHE_HTTP_API_KEY or"
                " CHATWOOT_CACHE_HTTP_INSTANCE_KEYS",
            )
        return permission

    def _digest(self, key: bytes) -> bytes:
        return hmac.digest(self._secret, key, "sha256")


def _key(name: bytes, value: bytes) -> bytes | None:
    if name == b"apikey":
        return value.strip()
    if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
        return value[len(_BEARER) :].strip()
    return None
