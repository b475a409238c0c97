"""Maps written as YAML or JSON, in which every scalar keeps its text: 0123, yes and 1.10 too."""

import re
from collections.abc import Mapping
from types import MappingProxyType
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
_KEYS_FORM: Final = (
    "must be a map of instance to one key or a list of keys, such as"
    ' {"shop": "key", "bakery": ["new", "old"]}'
)


class _TextLoader(yaml.BaseLoader):
    """YAML without types, as `BaseLoader` has it, in which no key may stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  # PyYAML's signature
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(problem_mark=node.start_mark)
        return mapping

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        """JSON writes an emoji as two escapes; PyYAML leaves them two halves."""
        text = str(super().construct_scalar(node))
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def parse(text: str) -> object:
    """Read YAML or JSON into maps, lists and strings.

    Raises `ValueError`, which says where the text is wrong and shows nothing of it.
    """
    try:
        return yaml.load(text, Loader=_TextLoader)  # noqa: S506  # builds strings, lists, maps only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        # Without the cause: PyYAML quotes the text, and the text may hold secrets.
        raise ValueError(f"must be YAML or JSON in which no key stands twice{where}") from None


def instances(value: object) -> Mapping[str, str]:
    """Check a map `account/inbox` → instance, given as text or as a mapping.

    Raises `ValueError` for a malformed pair, and for one instance in two accounts.
    """
    given = _mapping(value, _INSTANCES_FORM)
    accounts: dict[str, str] = {}
    for inbox, instance in given.items():
        account = _checked_account(inbox, instance)
        first = accounts.setdefault(instance, account)
        if first != account:
            raise ValueError(
                f"must not give instance {instance!r} to two accounts ({first} and {account})"
            )
    return MappingProxyType(dict(given))


def _checked_account(inbox: object, instance: object) -> str:
    matched = _INBOX.fullmatch(inbox) if isinstance(inbox, str) else None
    if not matched or not isinstance(instance, str):
        raise ValueError(_INSTANCES_FORM)
    if not is_valid_name(instance):
        raise ValueError(f"must name instances of 1 to {NAME_MAX_BYTES} bytes of UTF-8")
    return matched[1]


def is_valid_name(name: str) -> bool:
    """Tell whether a name is 1 to 255 bytes of UTF-8."""
    try:
        return 1 <= len(name.encode()) <= NAME_MAX_BYTES
    except UnicodeEncodeError:
        return False


def secrets(value: object) -> Mapping[int, tuple[SecretStr, ...]]:
    """Check a map of account id → one secret or several, given as text or as a mapping.

    Raises `ValueError`, which never shows a key either: `{7:x}` without a space is one key.
    """
    return MappingProxyType(
        {
            _account(account): _one_or_more(given, _SECRETS_FORM)
            for account, given in _mapping(value, _SECRETS_FORM).items()
        }
    )


def instance_keys(value: object) -> Mapping[str, tuple[SecretStr, ...]]:
    """Check a map of instance → one key or several, given as text or as a mapping.

    Raises `ValueError`, which never shows a name either: `{shop:x}` without a space is one name.
    """
    found = {}
    for instance, given in _mapping(value, _KEYS_FORM).items():
        if not isinstance(instance, str) or not is_valid_name(instance):
            raise ValueError(_KEYS_FORM)
        found[instance] = tuple(read_key(key) for key in _one_or_more(given, _KEYS_FORM))
    return MappingProxyType(found)


def read_key(key: SecretStr) -> SecretStr:
    """Check a key that is sent in a header, which loses spaces around it.

    Raises `ValueError`, which shows nothing of it.
    """
    text = key.get_secret_value()
    if not text or not text.isprintable() or text != text.strip():
        raise ValueError("must be a key that can be sent in a header: no spaces around it")
    return key


def _account(key: object) -> int:
    if not re.fullmatch(_ID, str(key)):
        raise ValueError(_SECRETS_FORM)
    return int(str(key))


def _one_or_more(given: object, form: str) -> tuple[SecretStr, ...]:
    several = given if isinstance(given, list | tuple) else [given]
    if not several:
        raise ValueError(form)
    return tuple(_secret(one, form) for one in several)


def _secret(given: object, form: str) -> SecretStr:
    text = given.get_secret_value() if isinstance(given, SecretStr) else given
    if not isinstance(text, str) or not text:
        raise ValueError(form)
    return SecretStr(text)


def _mapping(value: object, form: str) -> Mapping[Any, Any]:
    parsed = parse(value) if isinstance(value, str) else value
    if not isinstance(parsed, Mapping):
        raise ValueError(form)  # noqa: TRY004  # pydantic turns ValueError into a line for the user
    return parsed
