"""How the project logs: one pipeline to one stream, for ourselves and for our libraries.

Event names are in dotted past tense (`entry.buried`). Never logged: a message's text, a phone
number, a secret; so tracebacks are plain, without local variables.
"""

import contextlib
import logging
import math
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from worker.settings import LogFormat, LogLevel

_HANDLER: Final = "chatwoot-cache"


def configure(level: LogLevel, format: LogFormat, stream: TextIO = sys.stderr) -> None:  # noqa: A002  # named as the setting
    """Log to `stream` from `level` up, libraries from WARNING up; may be called again.

    `auto` is JSON lines unless the stream is a terminal.
    A server with a logging set-up of its own (uvicorn: `log_config=None`) must leave it out.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared = _shared()
    ending = _ending(as_json=format == "json" or (format == "auto" and not stream.isatty()))
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Unfailing(stream))),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
    )
    _route_libraries(formatter, stream, max(threshold, logging.WARNING))


class _Unfailing:
    """A stream whose reader may go away, like a closed terminal: no line is worth our end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, or lose the text."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, or lose what was written."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _ending(*, as_json: bool) -> list[Processor]:
    if as_json:
        return [
            structlog.processors.format_exc_info,
            _in_order,
            structlog.processors.JSONRenderer(),
        ]
    # Not the default formatter: through rich it would show local variables, secrets among them.
    return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]


def _in_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = {key: event.pop(key, None) for key in ("timestamp", "level", "event")}
    return {**first, **event}


def _route_libraries(formatter: logging.Formatter, stream: TextIO, threshold: int) -> None:
    root = logging.getLogger()
    for former in [handler for handler in root.handlers if handler.get_name() == _HANDLER]:
        root.removeHandler(former)
    handler = logging.StreamHandler(stream)
    handler.set_name(_HANDLER)
    handler.setFormatter(formatter)
    root.addHandler(handler)
    root.setLevel(threshold)


def error_site(error: Exception) -> str:
    """Name an error by type and place: its text, like a traceback, could quote a message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.name}:{frame.lineno}"


@dataclass(slots=True)
class _Last:
    """When an event was last logged, and how many were suppressed since."""

    logged_at: float = -math.inf
    suppressed: int = 0


class LogThrottle:
    """Lets an event be logged at most once per period and key.

    Beyond `max_keys` keys within a period, all further ones share one line, so the log's rate has
    a limit whatever the keys are. `clock` gives seconds and never goes back.
    """

    def __init__(
        self,
        period_s: float,
        *,
        max_keys: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._period_s = period_s
        self._max_keys = max_keys
        self._clock = clock
        self._by_key: OrderedDict[Hashable, _Last] = OrderedDict()  # the longest ago first
        self._others = _Last()

    def ready(self, key: Hashable) -> int | None:
        """Return None to stay silent, else how many of this key were suppressed since the last."""
        now = self._clock()
        last = self._last(key, now)
        if not self._is_over(last, now):
            last.suppressed += 1
            return None
        suppressed, last.suppressed, last.logged_at = last.suppressed, 0, now
        if last is not self._others:
            self._by_key.move_to_end(key)
        return suppressed

    def _last(self, key: Hashable, now: float) -> _Last:
        if key not in self._by_key and not self._has_room(now):
            return self._others
        return self._by_key.setdefault(key, _Last())

    def _has_room(self, now: float) -> bool:
        """Forget the key that was logged longest ago, if that makes room."""
        if len(self._by_key) < self._max_keys:
            return True
        oldest, last = next(iter(self._by_key.items()))
        if not self._is_over(last, now):
            return False
        del self._by_key[oldest]
        self._others.suppressed += last.suppressed
        return True

    def _is_over(self, last: _Last, now: float) -> bool:
        return now - last.logged_at >= self._period_s
