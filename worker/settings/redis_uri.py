"""Redis addresses: validation, comparison, masking."""

import posixpath
import re
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Secret

MASK: Final = "***"

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_NETWORK_FORM: Final = (
    "must be redis://[user:password@]host[:port][/database];"
    " in a password, write each of / ? # @ : % as %XX"
)
_FORMS: Final = {
    "redis": _NETWORK_FORM,
    "rediss": _NETWORK_FORM,
    "unix": "must name the socket by its absolute path: unix:///run/redis.sock",
    "embedded": "must name a directory: embedded://.data",
}
# The client library reports unknown options late, and some of its options (timeouts, decoding)
# would break the worker.
_OPTIONS: Final = {
    "db": r"[0-9]{1,5}",
    "username": r".+",
    "password": r".+",
    "protocol": r"[23]",
    "ssl_ca_certs": r".+",
    "ssl_certfile": r".+",
    "ssl_keyfile": r".+",
    "ssl_cert_reqs": r"none|optional|required",
    "ssl_check_hostname": r"(?i)true|false|yes|no|1|0",
}


class RedisUri(Secret[str]):
    """An address whose `str()` and `repr()` never show the password.

    Only the code that connects calls `get_secret_value()`.
    """

    def _display(self) -> str:
        return mask(self.get_secret_value())


def mask(uri: str) -> str:
    """Return an address, valid or not, with `***` where a password is or may be."""
    scheme = re.match(r"([a-z][a-z+]*://)?", uri)
    head = scheme[0] if scheme else ""
    credentials, at, location = uri.removeprefix(head).rpartition("@")
    user, colon, _password = credentials.partition(":")
    if at:
        shown = f"{head}{user}:{MASK}@{location}" if colon else f"{head}{MASK}@{location}"
    else:
        # What is not a port in the place of a port may be a password whose host is missing.
        port = r"^([^/:?\[]*):(?!\d{1,5}(?:[/?]|$)).*|^:.*"
        shown = head + re.sub(port, rf"\1:{MASK}", location)
    return re.sub(r"([?&][^=&]*password=)[^&]*", rf"\1{MASK}", shown, flags=re.IGNORECASE)


def check(uri: RedisUri) -> RedisUri:
    """Return an address that this version can connect to, else raise `ValueError` without it."""
    text = uri.get_secret_value()
    scheme = text.partition("://")[0]
    if scheme in ("redis+sentinel", "redis+cluster"):
        raise ValueError(f"{scheme}:// is not in this version: use one server, redis://host:6379/0")
    if not text.isprintable() or " " in text:
        raise ValueError("must not contain spaces or control characters")
    if scheme not in _FORMS:
        raise ValueError("must start with redis://, rediss://, unix:// or embedded://")
    if not _has_form(scheme, text):
        raise ValueError(_FORMS[scheme])
    for name, values in parse_qs(urlsplit(text).query, keep_blank_values=True).items():
        if name not in _OPTIONS:
            raise ValueError(f"has an option that cannot be set; allowed: {', '.join(_OPTIONS)}")
        if not all(re.fullmatch(_OPTIONS[name], value) for value in values):
            raise ValueError(f"has a value of the option {name} that cannot be used")
    return uri


def _has_form(scheme: str, text: str) -> bool:
    if scheme == "embedded":
        return text != "embedded://"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # its message may quote the password
        return False
    if scheme == "unix":
        # The client library would read unix://run/redis.sock as /redis.sock.
        return parts.path.startswith("/") and not parts.netloc.rpartition("@")[2]
    # The client library would read a path that is not a number as database 0.
    has_database = re.fullmatch(r"(/[0-9]{0,5})?", parts.path) is not None
    return bool(parts.hostname) and port != 0 and not parts.fragment and has_database


def server(uri: str) -> tuple[str, ...] | None:
    """Return the same tuple for all addresses of one database; None for an invalid address.

    The loopback names are equal, the default port is 6379, the default database is 0.
    """
    try:
        check(RedisUri(uri))
    except ValueError:
        return None
    if uri.startswith("embedded://"):
        return "embedded", posixpath.normpath(uri.removeprefix("embedded://"))
    parts = urlsplit(uri)
    path = "" if parts.scheme == "unix" else parts.path
    database = parse_qs(parts.query).get("db", [path.strip("/")])[0].lstrip("0") or "0"
    if parts.scheme == "unix":
        return "unix", posixpath.normpath(unquote(parts.path)), database
    host = (parts.hostname or "").rstrip(".")
    return "network", "localhost" if host in _LOOPBACK else host, str(parts.port or 6379), database
