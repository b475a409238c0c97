"""Logs: the pipeline for the worker and its libraries, and the throttle."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import cast

import pytest
import structlog
from pydantic import SecretStr

from worker.ops import logs
from worker.settings import LogFormat


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    structlog.reset_defaults()
    root.setLevel(level)
    root.handlers[:] = handlers


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class TestPipeline:
    def test_a_line_starts_with_timestamp_level_and_event(self) -> None:
        stream = io.StringIO()
        logs.configure("info", "auto", stream)

        structlog.get_logger().warning("entry.buried", reason="bad_json", attempts=5)

        (line,) = lines(stream)
        assert list(line) == ["timestamp", "level", "event", "reason", "attempts"]
        assert (line["level"], line["event"]) == ("warning", "entry.buried")
        written_at = datetime.fromisoformat(cast("str", line["timestamp"]))
        assert written_at.utcoffset() == timedelta(0)

    def test_a_closed_stream_is_ignored(self) -> None:
        stream = io.StringIO()
        logs.configure("info", "json", stream)
        stream.close()

        structlog.get_logger().warning("entry.buried")

    def test_bound_context_is_in_every_line(self) -> None:
        stream = io.StringIO()
        logs.configure("info", "json", stream)

        with structlog.contextvars.bound_contextvars(consumer="host-1"):
            structlog.get_logger().info("worker.started")
            logging.getLogger("library.of.others").error("lost")

        assert [line["consumer"] for line in lines(stream)] == ["host-1", "host-1"]

    def test_events_below_the_level_are_not_logged(self) -> None:
        stream = io.StringIO()
        logs.configure("warning", "json", stream)

        structlog.get_logger().info("worker.started")

        assert stream.getvalue() == ""

    @pytest.mark.parametrize(
        ("log_format", "stream", "is_json"),
        [
            ("auto", io.StringIO, True),
            ("auto", Terminal, False),
            ("json", Terminal, True),
            ("console", io.StringIO, False),
        ],
    )
    def test_json_unless_on_a_terminal(
        self, log_format: LogFormat, stream: type[io.StringIO], *, is_json: bool
    ) -> None:
        to = stream()
        logs.configure("info", log_format, to)

        structlog.get_logger().info("worker.started")

        assert to.getvalue().startswith("{") is is_json
        assert "worker.started" in to.getvalue()

    def test_libraries_log_in_the_same_format_from_warning_up(self) -> None:
        stream = io.StringIO()
        logs.configure("debug", "json", stream)
        library = logging.getLogger("library.of.others")

        library.info("Started server process")
        library.warning("Invalid %s", "request")

        (line,) = lines(stream)
        assert line["event"] == "Invalid request"
        assert (line["level"], line["logger"]) == ("warning", "library.of.others")

    def test_libraries_respect_a_higher_level(self) -> None:
        stream = io.StringIO()
        logs.configure("error", "json", stream)

        logging.getLogger("library.of.others").warning("Invalid request")

        assert stream.getvalue() == ""

    def test_configured_again_it_writes_once(self) -> None:
        former, stream = io.StringIO(), io.StringIO()
        logs.configure("info", "json", former)
        logs.configure("info", "json", stream)

        logging.getLogger("library.of.others").error("lost")
        structlog.get_logger().error("worker.failed")

        assert former.getvalue() == ""
        assert len(lines(stream)) == 2

    @pytest.mark.parametrize("log_format", ["json", "console"])
    def test_a_traceback_has_no_local_variables(self, log_format: LogFormat) -> None:
        stream = io.StringIO()
        logs.configure("info", log_format, stream)
        token = "s3cret" * 2

        try:
            int("x", base=len(token))
        except ValueError:
            structlog.get_logger().exception("entry.failed")
            logging.getLogger("library.of.others").exception("lost")

        assert stream.getvalue().count("invalid literal for int()") == 2
        assert token not in stream.getvalue()

    def test_secrets_are_masked(self) -> None:
        stream = io.StringIO()
        logs.configure("info", "json", stream)

        structlog.get_logger().info("worker.started", token=SecretStr("s3cret"))

        assert "s3cret" not in stream.getvalue()


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestThrottle:
    def test_the_first_is_logged_and_repetitions_are_counted(self, clock: Clock) -> None:
        throttle = logs.LogThrottle(60, clock=clock)

        answers = [throttle.ready("conflict") for _ in range(3)]
        clock.now_s = 59.9
        answers.append(throttle.ready("conflict"))
        clock.now_s = 60
        answers.append(throttle.ready("conflict"))
        clock.now_s = 120
        answers.append(throttle.ready("conflict"))

        assert answers == [0, None, None, None, 3, 0]

    def test_keys_are_throttled_separately(self, clock: Clock) -> None:
        throttle = logs.LogThrottle(60, clock=clock)

        assert throttle.ready("a") == 0
        assert throttle.ready("b") == 0

    def test_further_keys_share_one_line(self, clock: Clock) -> None:
        """An unbounded number of keys must fill neither the log nor the memory."""
        throttle = logs.LogThrottle(60, max_keys=2, clock=clock)

        answers = [throttle.ready(key) for key in range(10)]
        clock.now_s = 60

        assert answers == [0, 0, 0, *[None] * 7]
        assert [throttle.ready(key) for key in (7, 8, 9)] == [0, 0, 7]

    def test_counts_of_forgotten_keys_are_added_to_the_shared_line(self, clock: Clock) -> None:
        throttle = logs.LogThrottle(60, max_keys=1, clock=clock)

        first = [throttle.ready("a") for _ in range(3)]
        clock.now_s = 60
        later = [throttle.ready("b"), throttle.ready("c")]

        assert (first, later) == ([0, None, None], [0, 2])

    def test_memory_is_bounded(self, clock: Clock) -> None:
        throttle = logs.LogThrottle(60, max_keys=5, clock=clock)

        for key in range(1000):
            clock.now_s += 7
            throttle.ready(key)

        assert len(throttle._by_key) == 5

    def test_the_default_clock(self) -> None:
        throttle = logs.LogThrottle(3600)

        assert [throttle.ready("a"), throttle.ready("a")] == [0, None]
