"""Chatwoot's two ways to write a time, read as microseconds since 1970."""

import re
from datetime import UTC, datetime, timedelta
from typing import cast

from worker.core.documents import Time
from worker.core.merge import MAX_TIME_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000
_US = 1_000_000
_MAX_CHARACTERS = 64
_OUR_SPELLING = re.compile(r"\d{4}-\d{2}-\d{2}T(?:[01]\d|2[0-3]):\d{2}:\d{2}\.\d{3}Z", re.ASCII)
"""What `to_iso` makes of whole milliseconds. Python 3.13 reads an hour 24, too."""


def to_us(time: Time) -> int:
    """Return microseconds since 1970, or 0 where there is no time or one outside 1970 to 2286.

    Numbers are Unix seconds; text is ISO-8601, in UTC unless it says otherwise.
    """
    if time is None:
        return 0
    if isinstance(time, str):
        us = _parse(time) if len(time) <= _MAX_CHARACTERS else 0
    elif isinstance(time, int):
        us = time * _US
    else:
        us = round(time * _US) if 0 <= time <= MAX_TIME_US else 0
    return us if 0 <= us <= MAX_TIME_US else 0


def canonical_iso(time: Time, us: int) -> str | None:
    """Return `to_iso` of a time whose `to_us` is `us`, which it mostly is already."""
    is_ours = us and isinstance(time, str) and _OUR_SPELLING.fullmatch(time)
    return cast("str", time) if is_ours else to_iso(us)


def to_iso(us: int) -> str | None:
    """Write a time of `to_us` as Chatwoot does, in milliseconds, finer only where it is; 0 is None.

    One spelling per time, so that equal stamps mean equal text.
    """
    if us == 0:
        return None
    time = _EPOCH + timedelta(microseconds=us)
    timespec = "milliseconds" if us % 1000 == 0 else "microseconds"
    return time.isoformat(timespec=timespec).replace("+00:00", "Z")


def _parse(text: str) -> int:
    try:
        time = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        return 0
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    since = time - _EPOCH
    return since.days * _DAY_US + since.seconds * _US + since.microseconds
