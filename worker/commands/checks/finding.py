"""What a check found: how bad it is, in a sentence, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence for a person; `advice` is what to do, where there is something."""

    level: Level
    says: str
    advice: str | None = None


def ok(says: str) -> Finding:
    """All is well."""
    return Finding("ok", says)


def warning(says: str, advice: str) -> Finding:
    """It works, and may cost something one day."""
    return Finding("warning", says, advice)


def problem(says: str, advice: str) -> Finding:
    """It does not work, or loses events."""
    return Finding("problem", says, advice)


def unknown(says: str, advice: str | None = None) -> Finding:
    """It cannot be told."""
    return Finding("unknown", says, advice)
