"""The result of a check."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem", "unknown"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A finding in one sentence; `advice` is what to do about it."""

    level: Level
    says: str
    advice: str | None = None


def ok(says: str) -> CheckResult:
    """Nothing to do."""
    return CheckResult("ok", says)


def warning(says: str, advice: str) -> CheckResult:
    """It works, but may fail or lose events under some conditions."""
    return CheckResult("warning", says, advice)


def problem(says: str, advice: str) -> CheckResult:
    """It does not work, or loses events."""
    return CheckResult("problem", says, advice)


def unknown(says: str, advice: str | None = None) -> CheckResult:
    """The check could not be made."""
    return CheckResult("unknown", says, advice)
