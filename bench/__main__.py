"""The command line: what is measured, on which server, how much of it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench import growth, hotpath, latency, progress, throughput
from bench.environment import raised
from bench.process import ProcessFailedError
from bench.report import Report
from bench.workload import StuckError

RESULTS: Final = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for; 1 when something under measurement failed."""
    options = _parser().parse_args(argv)
    try:
        with raised(options.server) as stage, progress.shown() as bar:
            found: Report = options.func(options, stage, bar)
        found.deliver(options.results)
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
    _add_latency(subparsers)
    _add_growth(subparsers)
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
            stage, bar, events=options.events, runs=options.runs
        )
    )


def _add_latency(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser("latency", help="time from an event to its place in the cache")
    _number(parser, "rate", 1_000, "events a second")
    _number(parser, "seconds", 30, "how long, by each way")
    parser.set_defaults(
        func=lambda options, stage, bar: latency.measure(
            stage, bar, rate=options.rate, seconds=options.seconds
        )
    )


def _add_growth(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser("growth", help="speed and memory as data and workers grow")
    _number(parser, "runs", 3, "runs in each world")
    parser.add_argument(
        "--scale",
        type=float,
        default=os.environ.get("BENCH_SCALE", "1"),
        metavar="X",
        help="times all sizes, for a short run (BENCH_SCALE; 1)",
    )
    parser.set_defaults(
        func=lambda options, stage, bar: growth.measure(
            stage, bar, runs=options.runs, scale=options.scale
        )
    )


def _add_profile(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser("profile", help="where the worker spends its time")
    _number(parser, "events", 100_000, "entries on the stream")
    parser.set_defaults(
        func=lambda options, stage, bar: hotpath.measure(stage, bar, events=options.events)
    )


def _number(parser: argparse.ArgumentParser, name: str, default: int, what: str) -> None:
    """Add a number that the environment can give too: BENCH_EVENTS for `--events`."""
    variable = f"BENCH_{name.upper()}"
    parser.add_argument(
        f"--{name}",
        type=_at_least_one,
        default=os.environ.get(variable, default),
        metavar="N",
        help=f"{what} ({variable}; {default:,})",
    )


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
