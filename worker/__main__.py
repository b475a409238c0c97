"""The command line: parse, load settings, hand over."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from worker import __version__, settings
from worker.errors import ConfigurationError, RedisUnavailable, UpstreamError, WorkerError

_FOUND_WRONG = 1
_WRONG_USAGE = 2
_REDIS_UNAVAILABLE = 3
_INTERRUPTED = 128 + 2
_NOBODY_READS = 128 + 13
"""By signal, as a shell tells it: SIGINT and SIGPIPE."""

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
"""Each is a module of `worker.cli`, in the order of the help text."""

_EXIT_CODES = """
exit codes: 0 done, 1 found something wrong, 2 wrong usage or settings,
3 Redis unavailable

settings come from the command line (--set, behind the command), the
environment, <NAME>_FILE, .env and env.yml, in this order;
`chatwoot-cache config` shows each with its origin
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser(_named(argv)).parse_args(argv)
    try:
        loaded = settings.load(_overrides(arguments.set))
        code: int = arguments.func(arguments, loaded)
        sys.stdout.flush()
    except RedisUnavailable as error:
        _say(f"Redis is unavailable: {error} (`chatwoot-cache doctor` says more)")
        return _REDIS_UNAVAILABLE
    except UpstreamError as error:
        _say(str(error))
        return _FOUND_WRONG
    except WorkerError as error:
        _say(str(error))
        return _WRONG_USAGE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # As `head` does once it has enough. What is still to be written goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOBODY_READS
    return code


def _say(message: str) -> None:
    sys.stderr.write("".join(f"chatwoot-cache: {line}\n" for line in message.splitlines()))


def _named(argv: Sequence[str]) -> Sequence[str]:
    """Return the command that is asked for, or all of them where none is.

    Only that one's module is imported: an orchestrator runs `healthcheck` every few seconds.
    """
    return argv[:1] if argv and argv[0] in _COMMANDS else _COMMANDS


def parser(commands: Sequence[str] = _COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the command line, or of some of its commands."""
    parser = argparse.ArgumentParser(
        prog="chatwoot-cache",
        description="A sidecar for Evolution API and Chatwoot: keeps messages and conversations\n"
        "in a Redis cache, one sealed namespace for each instance.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"chatwoot-cache {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
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
            help="a setting that overrides all other sources; may be repeated",
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
