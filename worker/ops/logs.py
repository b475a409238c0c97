"""Logging: one structlog pipeline to one stream, for the worker and its libraries.

Event names are in dotted past tense (`entry.buried`). Message texts, phone numbers and secrets are
never logged; therefore tracebacks have no local variables.
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

_ENRICH: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure(level: LogLevel, format: LogFormat, stream: TextIO = sys.stderr) -> None:  # noqa: A002  # named as the setting
    """Log to `stream` from `level` up, libraries from WARNING up; may be called again.

    `auto` is JSON lines unless the stream is a terminal.
    A server that configures logging itself must be told not to (uvicorn: `log_config=None`).
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    render = _renderers(as_json=format == "json" or (format == "auto" and not stream.isatty()))
    structlog.configure(
        processors=[*_ENRICH, *render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _SafeStream(stream))),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_ENRICH],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)


class _SafeStream:
    """A stream that ignores write errors: a closed terminal must not stop the worker."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write the text if the stream accepts it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush if the stream accepts it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _renderers(*, as_json: bool) -> list[Processor]:
    if as_json:
        return [
            structlog.processors.format_exc_info,
            _order_keys,
            structlog.processors.JSONRenderer(),
        ]
    # The default formatter shows local variables, through rich, and they may hold secrets.
    return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]


def _order_keys(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = {key: event.pop(key, None) for key in ("timestamp", "level", "event")}
    return {**first, **event}


def error_site(error: Exception) -> str:
    """Return the type and place of an error; its text or traceback could quote a message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.name}:{frame.lineno}"


@dataclass(slots=True)
class _KeyState:
    logged_at: float = -math.inf
    suppressed: int = 0


class LogThrottle:
    """Allows one log line per period and key.

    Keys beyond `max_keys` within a period share one line, so the log rate is bounded for any keys.
    `clock` is monotonic, in seconds.
    """

    def __init__(
        self, period_s: float, *, max_keys: int = 1000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._period_s = period_s
        self._max_keys = max_keys
        self._clock = clock
        self._by_key: OrderedDict[Hashable, _KeyState] = OrderedDict()  # least recent first
        self._shared = _KeyState()

    def ready(self, key: Hashable) -> int | None:
        """Return None to suppress the line, else the number suppressed since the last line."""
        now = self._clock()
        has_own = key in self._by_key or self._make_room(now)
        state = self._by_key.setdefault(key, _KeyState()) if has_own else self._shared
        if not self._is_due(state, now):
            state.suppressed += 1
            return None
        suppressed, state.suppressed, state.logged_at = state.suppressed, 0, now
        if has_own:
            self._by_key.move_to_end(key)
        return suppressed

    def _make_room(self, now: float) -> bool:
        """Forget the least recent key if the limit is reached and its period is over."""
        if len(self._by_key) < self._max_keys:
            return True
        oldest, state = next(iter(self._by_key.items()))
        if not self._is_due(state, now):
            return False
        del self._by_key[oldest]
        self._shared.suppressed += state.suppressed
        return True

    def _is_due(self, state: _KeyState, now: float) -> bool:
        return now - state.logged_at >= self._period_s
