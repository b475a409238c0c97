"""Addresses of Redis: which are accepted, when two are the same, how one is shown."""

import posixpath
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Secret

LATER: Final = ("redis+sentinel", "redis+cluster")
MASK: Final = "***"

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORT: Final = 6379


class RedisUri(Secret[str]):
    """An address whose `str()` and `repr()` never show the password.

    `get_secret_value()` is for the one who connects.
    """

    def _display(self) -> str:
        return mask(self.get_secret_value())


def mask(uri: str) -> str:
    """Show an address, a malformed one too, with `***` where a password stands or may stand."""
    scheme = re.match(r"([a-z][a-z+]*://)?", uri)
    head = scheme[0] if scheme else ""
    credentials, at, place = uri.removeprefix(head).rpartition("@")
    user, colon, _password = credentials.partition(":")
    if at:
        shown = f"{head}{user}:{MASK}@{place}" if colon else f"{head}{MASK}@{place}"
    else:
        shown = head + _mask_port(place)
    return re.sub(r"([?&][^=&]*password=)[^&]*", rf"\1{MASK}", shown, flags=re.IGNORECASE)


def _mask_port(place: str) -> str:
    """Mask what stands in a port's place and is none: a password whose host was forgotten."""
    return re.sub(r"^([^/:?\[]*):(?!\d{1,5}(?:[/?]|$)).*|^:.*", rf"\1:{MASK}", place)


def check(uri: RedisUri) -> RedisUri:
    """Return an address of a form this version can connect to.

    Raises `ValueError`, whose message says what is allowed and shows nothing of the address.
    """
    text = uri.get_secret_value()
    scheme = text.partition("://")[0]
    if scheme in LATER:
        raise ValueError(f"{scheme}:// is not in this version: use one server, redis://host:6379/0")
    if not text.isprintable() or " " in text:
        raise ValueError("must not contain spaces or control characters")
    if scheme not in _FORMS:
        raise ValueError("must start with redis://, rediss://, unix:// or embedded://")
    is_usable, form = _FORMS[scheme]
    if not is_usable(text):
        raise ValueError(form)
    _check_options(urlsplit(text).query)
    return uri


def _check_options(query: str) -> None:
    """Allow the client library's options that change where and how we connect, and no others.

    It fails late on unknown ones, and some (time-outs, decoding) would break what we rely on.
    """
    for name, values in parse_qs(query, keep_blank_values=True).items():
        allowed = _OPTIONS.get(name)
        if allowed is None:
            raise ValueError(f"has an option that cannot be set; allowed: {', '.join(_OPTIONS)}")
        if not all(re.fullmatch(allowed, value) for value in values):
            raise ValueError(f"has a value of the option {name} that cannot be used")


def _is_network(text: str) -> bool:
    try:
        parts = urlsplit(text)
        usable = bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        # Its message may quote the password, so it goes no further.
        return False
    # The client library reads a path that is no number as database 0, in silence.
    return usable and re.fullmatch(r"(/[0-9]{0,5})?", parts.path) is not None


def _is_socket(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    # Of unix://run/redis.sock the client library would take /redis.sock, in silence.
    return parts.path.startswith("/") and not parts.netloc.rpartition("@")[2]


def _is_directory(text: str) -> bool:
    return len(text) > len("embedded://")


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
_NETWORK_FORM: Final = (
    "must be redis://[user:password@]host[:port][/database];"
    " in a password, write each of / ? # @ : % as %XX"
)
_FORMS: Final[dict[str, tuple[Callable[[str], bool], str]]] = {
    "redis": (_is_network, _NETWORK_FORM),
    "rediss": (_is_network, _NETWORK_FORM),
    "unix": (_is_socket, "must name the socket by its whole path: unix:///run/redis.sock"),
    "embedded": (_is_directory, "must name a directory: embedded://.data"),
}


def server(uri: str) -> tuple[str, ...] | None:
    """Return what all addresses of one database have in common; None for a malformed one.

    The names of this machine are one, the default port is 6379, the default database is 0.
    """
    try:
        check(RedisUri(uri))
    except ValueError:
        return None
    if uri.startswith("embedded://"):
        return "embedded", posixpath.normpath(uri.removeprefix("embedded://"))
    parts = urlsplit(uri)
    if parts.scheme == "unix":
        return "unix", posixpath.normpath(unquote(parts.path)), _database(parts.query, "")
    host = (parts.hostname or "").rstrip(".")
    host = "localhost" if host in _LOOPBACK else host
    return "network", host, str(parts.port or _DEFAULT_PORT), _database(parts.query, parts.path)


def _database(query: str, path: str) -> str:
    return parse_qs(query).get("db", [path.strip("/")])[0].lstrip("0") or "0"
