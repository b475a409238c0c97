"""What a check found: how bad it is, in a sentence, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem", "unknown"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One sentence for a person; `advice` is what to do, where there is something."""

    level: Level
    says: str
    advice: str | None = None


def ok(says: str) -> CheckResult:
    """All is well."""
    return CheckResult("ok", says)


def warning(says: str, advice: str) -> CheckResult:
    """It works, and may cost something one day."""
    return CheckResult("warning", says, advice)


def problem(says: str, advice: str) -> CheckResult:
    """It does not work, or loses events."""
    return CheckResult("problem", says, advice)


def unknown(says: str, advice: str | None = None) -> CheckResult:
    """It cannot be told."""
    return CheckResult("unknown", says, advice)
