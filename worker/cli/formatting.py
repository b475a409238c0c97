"""Formats sizes, counts and times for people."""

from typing import Final

_KIB: Final = 1024
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def format_bytes(number: float) -> str:
    """Return a size, such as `256 MiB`."""
    for unit in _UNITS:
        if number < _KIB or unit == _UNITS[-1]:
            break
        number /= _KIB
    return f"{number:.0f} {unit}"


def format_count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as `1 key` or `2,000 keys`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def format_age(seconds: float) -> str:
    """Return how long ago something was, such as `now` or `2 min ago`."""
    return "now" if seconds < 1 else f"{format_seconds(seconds)} ago"


def format_seconds(seconds: float) -> str:
    """Return a span of time in its greatest unit, such as `2 s` or `3 d`."""
    seconds = max(0.0, seconds)
    for length, unit in _SPANS:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
