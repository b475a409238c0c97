"""Print the Redis ACL of the worker, a producer, a reader or the operator.

Each line has the least permissions that a role needs, for the ACL file of Redis or for ACL
SETUSER. It has no password, so nobody can log in until you add one: >PASSWORD, or
#SHA256.
"""

import sys
from argparse import ArgumentParser, Namespace
from typing import Final, get_args

from worker.cli.output import print_json
from worker.core.operations.acl_rules import Role, rules
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings, is_valid_name

_ROLES: Final[tuple[Role, ...]] = get_args(Role)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = (
        "worker: `run`. producer: a program that adds events to the stream. reader: a program "
        "that reads one instance. operator: bindings, dead, audit, backfill and purge."
    )
    parser.add_argument("role", nargs="?", choices=_ROLES, help="one role; the default is all")
    parser.add_argument("instance", nargs="?", metavar="INSTANCE", help="what a reader may read")
    parser.add_argument("--user", metavar="NAME", help="user name (default chatwoot-cache-ROLE)")
    parser.add_argument("--json", action="store_true", help="print users and rules as JSON lines")


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """Print a line for each requested role."""
    instance, user = arguments.instance, arguments.user
    if arguments.role == "reader" and instance is None:
        raise ConfigurationError("acl reader needs an instance: chatwoot-cache acl reader INSTANCE")
    if instance is not None and (arguments.role != "reader" or not is_valid_name(instance)):
        raise ConfigurationError("only a reader has an instance, of 1 to 255 bytes of UTF-8")
    if user is not None and not (user and user.isprintable() and " " not in user):
        raise ConfigurationError("--user must be a name without spaces and control characters")
    roles = [arguments.role] if arguments.role else [r for r in _ROLES if r != "reader"]
    for role in roles:
        _print(role, user or f"chatwoot-cache-{role}", arguments, loaded)
    return 0


def _print(role: Role, user: str, arguments: Namespace, loaded: LoadedSettings) -> None:
    settings = loaded.settings
    permissions = rules(
        role,
        prefix=settings.cache_redis_prefix_key,
        stream=settings.stream_key,
        instance=arguments.instance,
    )
    if arguments.json:
        print_json({"user": user, "rules": ["on", *permissions]})
    else:
        sys.stdout.write(" ".join(("user", user, "on", *permissions)) + "\n")
