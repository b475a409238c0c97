"""Maps written as YAML or JSON. Every scalar keeps its text: 0123, yes and 1.10 too.

Validation raises `ValueError`, which says what is allowed. It never quotes a value that may be
a secret, nor a key of a map of secrets: `{7:x}` without a space is one key.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml
from pydantic import SecretStr

NAME_MAX_BYTES: Final = 255

_ID: Final = "[1-9][0-9]{0,17}"
_INBOX: Final = re.compile(f"({_ID})/{_ID}")
_INSTANCES_FORM: Final = "must be a map of account/inbox to instance, such as {7/1: shop}"
_SECRETS_FORM: Final = (
    "must be a map of account id to one secret or a list of secrets, such as"
    ' {"7": "secret", "8": ["new", "old"]}'
)
_USERS_FORM: Final = (
    "must be a map of account id to one user id or a list of user ids, such as"
    ' {"7": 27, "8": [27, 30]}'
)
_KEYS_FORM: Final = (
    "must be a map of instance to one key or a list of keys, such as"
    ' {"shop": "key", "bakery": ["new", "old"]}'
)


class _TextLoader(yaml.BaseLoader):
    """Loads every scalar as text; a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  # PyYAML's signature
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(problem_mark=node.start_mark)
        return mapping

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        """Join the surrogate pairs by which JSON writes an emoji; PyYAML leaves them apart."""
        text = str(super().construct_scalar(node))
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def parse(text: str) -> object:
    """Parse YAML or JSON into maps, lists and strings."""
    try:
        return yaml.load(text, Loader=_TextLoader)  # noqa: S506  # builds strings, lists, maps only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        position = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        # Without the cause: PyYAML quotes the text, and the text may hold secrets.
        raise ValueError(f"must be YAML or JSON without duplicate keys{position}") from None


def is_valid_name(name: str) -> bool:
    """Tell whether a name is 1 to 255 bytes of UTF-8."""
    try:
        return 1 <= len(name.encode()) <= NAME_MAX_BYTES
    except UnicodeEncodeError:
        return False


def instances(value: object) -> Mapping[str, str]:
    """Validate a map of `account/inbox` to instance, where an instance has one account."""
    pairs = _mapping(value, _INSTANCES_FORM)
    accounts: dict[str, str] = {}
    for inbox, instance in pairs.items():
        matched = _INBOX.fullmatch(inbox) if isinstance(inbox, str) else None
        if not matched or not isinstance(instance, str):
            raise ValueError(_INSTANCES_FORM)
        if not is_valid_name(instance):
            raise ValueError(f"must name instances of 1 to {NAME_MAX_BYTES} bytes of UTF-8")
        first = accounts.setdefault(instance, matched[1])
        if first != matched[1]:
            raise ValueError(
                f"must not give instance {instance!r} to two accounts ({first} and {matched[1]})"
            )
    return pairs


def account_secrets(value: object) -> Mapping[int, tuple[SecretStr, ...]]:
    """Validate a map of account id to one secret or several."""
    found = {}
    for account, secrets in _mapping(value, _SECRETS_FORM).items():
        if not re.fullmatch(_ID, str(account)):
            raise ValueError(_SECRETS_FORM)
        found[int(account)] = _secrets(secrets, _SECRETS_FORM)
    return found


def account_users(value: object) -> Mapping[int, tuple[int, ...]]:
    """Validate a map of account id to one user id or several."""
    found = {}
    for account, users in _mapping(value, _USERS_FORM).items():
        several = users if isinstance(users, list | tuple) else [users]
        if not several or not all(re.fullmatch(_ID, str(i)) for i in (account, *several)):
            raise ValueError(_USERS_FORM)
        found[int(account)] = tuple(map(int, several))
    return found


def instance_keys(value: object) -> Mapping[str, tuple[SecretStr, ...]]:
    """Validate a map of instance to one key or several."""
    found = {}
    for instance, keys in _mapping(value, _KEYS_FORM).items():
        if not isinstance(instance, str) or not is_valid_name(instance):
            raise ValueError(_KEYS_FORM)
        found[instance] = tuple(check_key(key) for key in _secrets(keys, _KEYS_FORM))
    return found


def check_key(key: SecretStr) -> SecretStr:
    """Validate a key that is sent in an HTTP header, where spaces around it would be lost."""
    text = key.get_secret_value()
    if not text or not text.isprintable() or text != text.strip():
        raise ValueError("must be a key that can be sent in a header: no spaces around it")
    return key


def _secrets(value: object, form: str) -> tuple[SecretStr, ...]:
    several = value if isinstance(value, list | tuple) else [value]
    texts = [s.get_secret_value() if isinstance(s, SecretStr) else s for s in several]
    secrets = tuple(SecretStr(text) for text in texts if isinstance(text, str) and text)
    if not secrets or len(secrets) < len(several):
        raise ValueError(form)
    return secrets


def _mapping(value: object, form: str) -> Mapping[Any, Any]:
    parsed = parse(value) if isinstance(value, str) else value
    if not isinstance(parsed, Mapping):
        raise ValueError(form)  # noqa: TRY004  # pydantic turns ValueError into a line for the user
    return parsed
