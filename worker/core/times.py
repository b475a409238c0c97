"""Chatwoot's two ways to write a time, read as microseconds since 1970."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from worker.core.merge import MAX_TIME_US
from worker.core.model import Time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000
_US = 1_000_000
_MAX_CHARACTERS = 64


def to_us(time: Time) -> int:
    """Return microseconds since 1970, or 0 where there is no time or one outside 1970 to 2286.

    Numbers are Unix seconds; text is ISO-8601, in UTC unless it says otherwise.
    """
    if time is None:
        return 0
    us = _from_text(time) if isinstance(time, str) else _from_seconds(time)
    return us if 0 <= us <= MAX_TIME_US else 0


def to_iso(us: int) -> str | None:
    """Write a time of `to_us` as Chatwoot does, in milliseconds, finer only where it is; 0 is None.

    One spelling per time, so that equal stamps mean equal text.
    """
    if us == 0:
        return None
    time = _EPOCH + timedelta(microseconds=us)
    timespec = "milliseconds" if us % 1000 == 0 else "microseconds"
    return time.isoformat(timespec=timespec).replace("+00:00", "Z")


def _from_seconds(seconds: float) -> int:
    if isinstance(seconds, int):
        return seconds * _US
    if not 0 <= seconds <= MAX_TIME_US:
        return 0
    return round(seconds * _US)


def _from_text(text: str) -> int:
    """Read a text of a length that a time may have: what is parsed is remembered for a while."""
    return _parse(text) if len(text) <= _MAX_CHARACTERS else 0


@lru_cache(maxsize=1024)
def _parse(text: str) -> int:
    try:
        time = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        return 0
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    since = time - _EPOCH
    return since.days * _DAY_US + since.seconds * _US + since.microseconds
