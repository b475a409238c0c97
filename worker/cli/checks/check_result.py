"""The result of a check."""

from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

Level = Literal["ok", "warning", "problem", "unknown"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A finding in one sentence; `advice` is what to do about it, for all but `ok`."""

    level: Level
    says: str
    advice: str | None = None


ok: Final = partial(CheckResult, "ok")

warning: Final = partial(CheckResult, "warning")
"""It works, but may fail or lose events under some conditions."""

problem: Final = partial(CheckResult, "problem")
"""It does not work, or loses events."""

unknown: Final = partial(CheckResult, "unknown")
"""The check could not be made."""
