"""Where a Chatwoot webhook names accounts and people; the values may be of any type.

`chatwoot_event` decodes the events that are cached; this module also reads bodies it rejects.
Both functions raise `msgspec.DecodeError`, `UnicodeDecodeError` and `RecursionError`.
"""

from typing import Any, Final, TypedDict

import msgspec


class _Accounts(TypedDict, total=False):
    account: Any
    conversation: Any
    messages: Any


class _People(TypedDict, total=False):
    identifier: Any
    phone_number: Any
    sender: Any
    contact: Any
    meta: Any
    messages: Any
    conversation: Any


# Members that are not listed are skipped without being built.
_ACCOUNTS: Final = msgspec.json.Decoder(_Accounts)
_PEOPLE: Final = msgspec.json.Decoder(_People)


def account_ids(payload: bytes) -> list[Any]:
    """Return every account id in a webhook body, as it is written there."""
    body = _ACCOUNTS.decode(payload)
    conversation = body.get("conversation")
    messages = [*_items(body, "messages"), *_items(conversation, "messages")]
    found = [
        _member(body, "account", "id"),
        _member(conversation, "account", "id"),
        *(_member(message, "account_id") for message in messages),
    ]
    return [account_id for account_id in found if account_id is not None]


def people(payload: bytes) -> list[dict[str, Any]]:
    """Return the objects of a webhook body that describe its contact or a sender."""
    body = _PEOPLE.decode(payload)
    found = [*_people(body), *_people(body.get("conversation"))]
    return [person for person in found if isinstance(person, dict)]


def _people(body: Any) -> list[Any]:
    senders = [_member(message, "sender") for message in _items(body, "messages")]
    named = (_member(body, "sender"), _member(body, "contact"), _member(body, "meta", "sender"))
    return [body, *named, *senders]


def _member(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _items(value: Any, name: str) -> list[Any]:
    found = _member(value, name)
    return found if isinstance(found, list) else []
