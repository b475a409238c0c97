"""The command line: parses arguments, loads the settings, runs a command."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from worker import __version__, settings
from worker.errors import ConfigurationError, RedisUnavailable, UpstreamError, WorkerError

_FOUND_PROBLEM = 1
_USAGE_ERROR = 2
_REDIS_UNAVAILABLE = 3
_INTERRUPTED = 128 + 2
_BROKEN_PIPE = 128 + 13
"""The exit codes of shells for SIGINT and SIGPIPE."""

_COMMANDS: Final = (
    "run",
    "connect",
    "backfill",
    "publish",
    "get",
    "status",
    "doctor",
    "bindings",
    "dead",
    "audit",
    "purge",
    "acl",
    "config",
    "healthcheck",
)
"""Modules of `worker.cli`, in the order of the help text."""

_EXIT_CODES = """
exit codes: 0 done, 1 found something wrong, 2 wrong usage or settings,
3 Redis unavailable

settings come from the command line (--set, after the command), the
environment, <NAME>_FILE, .env, connect.env and env.yml, in this order;
`chatwoot-cache config` shows each with its origin
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; without arguments, print the help."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        parser().print_help()
        return 0
    # An orchestrator runs `healthcheck` every few seconds: only the module of the command is
    # imported.
    arguments = parser(argv[:1] if argv[0] in _COMMANDS else _COMMANDS).parse_args(argv)
    try:
        loaded = settings.load(_overrides(arguments.set))
        code: int = arguments.func(arguments, loaded)
        sys.stdout.flush()
    except RedisUnavailable as error:
        _print_error(f"Redis is unavailable: {error} (`chatwoot-cache doctor` says more)")
        return _REDIS_UNAVAILABLE
    except UpstreamError as error:
        _print_error(str(error))
        return _FOUND_PROBLEM
    except WorkerError as error:
        _print_error(str(error))
        return _USAGE_ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader is gone, as `head` after its last line. The rest of the output is dropped.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return code


def _print_error(message: str) -> None:
    sys.stderr.write("".join(f"chatwoot-cache: {line}\n" for line in message.splitlines()))


def parser(commands: Sequence[str] = _COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the command line with these commands."""
    parser = argparse.ArgumentParser(
        prog="chatwoot-cache",
        description="A sidecar for Evolution API and Chatwoot: keeps messages and conversations\n"
        "in a Redis cache, one sealed namespace for each instance.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"chatwoot-cache {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands:
        module = importlib.import_module(f"worker.cli.{command}")
        description = module.__doc__ or ""
        summary = description.partition(".\n")[0]
        subparser = subparsers.add_parser(
            command, help=summary[:1].lower() + summary[1:], description=description
        )
        module.add_arguments(subparser)
        subparser.set_defaults(func=module.run)
        subparser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="a setting, which overrides all other sources; may be repeated",
        )
    return parser


def _overrides(assignments: Sequence[str]) -> dict[str, str]:
    overrides = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {assignment}: write it as NAME=VALUE")
        overrides[name] = value
    return overrides


if __name__ == "__main__":
    sys.exit(main())
