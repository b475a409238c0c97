"""Parses Chatwoot's two time formats, Unix seconds and ISO-8601, to microseconds since 1970."""

import re
from datetime import UTC, datetime, timedelta
from typing import cast

from worker.core.documents import Time
from worker.core.merge import MAX_TIME_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000
_US = 1_000_000
_MAX_CHARACTERS = 64
_CANONICAL = re.compile(r"\d{4}-\d{2}-\d{2}T(?:[01]\d|2[0-3]):\d{2}:\d{2}\.\d{3}Z", re.ASCII)
"""The format of `to_iso` for whole milliseconds; excludes hour 24, which Python 3.13 accepts."""


def to_us(time: Time) -> int:
    """Return microseconds since 1970; 0 for no time, or one outside the years 1970 to 2286.

    Numbers are Unix seconds; text is ISO-8601, in UTC if it states no offset.
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
    """Return `to_iso(us)` of a time whose `to_us` is `us`; mostly the time itself."""
    is_canonical = us and isinstance(time, str) and _CANONICAL.fullmatch(time)
    return cast("str", time) if is_canonical else to_iso(us)


def to_iso(us: int) -> str | None:
    """Format a time as Chatwoot does, in milliseconds, or microseconds if needed; 0 is None.

    Each time has one format, so that equal stamps have equal texts.
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
