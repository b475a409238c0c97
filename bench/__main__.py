"""The command line: what is measured, on which server, how much of it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench import hotpath, progress, throughput
from bench.course import StuckError
from bench.process import ProcessFailedError
from bench.stage import raised

RESULTS: Final = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for; 1 when something under measurement failed."""
    options = _parser().parse_args(argv)
    try:
        with raised(options.server) as stage, progress.shown() as bar:
            options.func(options, stage, bar)
    except (ProcessFailedError, StuckError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the worker as shipped, on a real server, beside its peers.",
    )
    subparsers = parser.add_subparsers(metavar="WHAT", required=True)
    _add_throughput(subparsers)
    _add_profile(subparsers)
    for subparser in subparsers.choices.values():
        subparser.add_argument(
            "--server",
            type=Path,
            default=os.environ.get("BENCH_SERVER") or None,
            metavar="PATH",
            help="another server's binary (BENCH_SERVER); Valkey of the locked dependencies else",
        )
        subparser.add_argument(
            "--results",
            type=Path,
            default=RESULTS,
            metavar="FOLDER",
            help="where figures and charts go",
        )
    return parser


def _add_throughput(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "throughput", help="events per second, side by side with the peers"
    )
    _number(parser, "events", 100_000, "entries on the stream")
    _number(parser, "runs", 5, "rounds, in each of which everybody runs once")
    parser.set_defaults(
        func=lambda options, stage, bar: throughput.measure(
            stage, bar, events=options.events, runs=options.runs, results=options.results
        )
    )


def _add_profile(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser("profile", help="where the worker spends its time")
    _number(parser, "events", 100_000, "entries on the stream")
    parser.set_defaults(
        func=lambda options, stage, bar: hotpath.measure(
            stage, bar, events=options.events, results=options.results
        )
    )


def _number(parser: argparse.ArgumentParser, name: str, default: int, what: str) -> None:
    """Add a number that the environment can give too: BENCH_EVENTS for `--events`."""
    variable = f"BENCH_{name.upper()}"
    parser.add_argument(
        f"--{name}",
        type=int,
        default=os.environ.get(variable, default),
        metavar="N",
        help=f"{what} ({variable}; {default:,})",
    )


if __name__ == "__main__":
    sys.exit(main())
