"""`acl`: the least rights that Redis must grant, as lines for an ACL file."""

import argparse
import sys
from typing import Final, get_args

import msgspec

from worker.core.tooling.acl_rules import Role, rules
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings, is_valid_name

_ROLES: Final[tuple[Role, ...]] = get_args(Role)


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "acl",
        help="print the Redis ACL of the worker, a producer, a reader or the operator",
        description="Print the least rights that a role needs, as a line for Redis' ACL file; "
        "behind ACL SETUSER it does the same at once. The line has no password, so nobody can "
        "log in until you add one: >PASSWORD, or #SHA256.",
        epilog="worker: `run`. producer: whoever adds events to the stream. reader: whoever reads "
        "one instance. operator: bindings, dead, audit and purge.",
    )
    parser.add_argument("role", nargs="?", choices=_ROLES, help="one role; all unless stated")
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help="what a reader may read")
    parser.add_argument("--user", metavar="NAME", help="the user's name (chatwoot-cache-ROLE)")
    parser.add_argument("--json", action="store_true", help="print users and rules as JSON lines")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Print a line for each role asked for."""
    instance = arguments.instance
    if arguments.role == "reader" and instance is None:
        raise ConfigurationError("acl reader needs an instance: chatwoot-cache acl reader INSTANCE")
    if instance is not None and (arguments.role != "reader" or not is_valid_name(instance)):
        raise ConfigurationError("only a reader has an instance, of 1 to 255 bytes of UTF-8")
    if arguments.user is not None and not _is_user(arguments.user):
        raise ConfigurationError("--user must be a name without spaces and control characters")
    roles = [arguments.role] if arguments.role else [r for r in _ROLES if r != "reader"]
    for role in roles:
        _print(role, arguments, loaded)
    return 0


def _is_user(name: str) -> bool:
    return bool(name) and name.isprintable() and " " not in name


def _print(role: Role, arguments: argparse.Namespace, loaded: LoadedSettings) -> None:
    settings = loaded.settings
    granted = rules(
        role,
        prefix=settings.cache_redis_prefix_key,
        stream=settings.stream_key,
        instance=arguments.instance,
    )
    user = arguments.user or f"chatwoot-cache-{role}"
    if arguments.json:
        line = msgspec.json.encode({"user": user, "rules": ["on", *granted]}).decode()
    else:
        line = " ".join(("user", user, "on", *granted))
    sys.stdout.write(line + "\n")
