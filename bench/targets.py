"""What the worker is to reach, and whether it does."""

from dataclasses import dataclass
from typing import Final

PEERS: Final = {"faststream": 2.0, "node-batched": 1.75, "node": 10.0}
"""How many times as fast as each peer."""

OF_CEILING: Final = {"worker": 0.75, "two-workers": 0.9}
RSS_BYTES: Final = 80_000_000
P99_MS: Final = 10.0
AT_SCALE: Final = 0.85


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure beside its target: at least it, or at most; `measured` None where it is missing."""

    figure: str
    measured: float | None
    target: float
    unit: str = ""
    at_most: bool = False
    remark: str = ""

    @property
    def is_met(self) -> bool:
        """Tell whether it was measured and is good enough."""
        if self.measured is None:
            return False
        return self.measured <= self.target if self.at_most else self.measured >= self.target

    @property
    def word(self) -> str:
        """What the table says."""
        if self.measured is None:
            return "missing"
        return "met" if self.is_met else "missed"
