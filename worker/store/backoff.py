"""Delays between attempts that are repeated until they succeed."""


class Backoff:
    """Delays in seconds: `first_s`, then twice the last one, at most `max_s`."""

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._delay_s = first_s

    def next_delay_s(self) -> float:
        """Return how long to wait after a failed attempt."""
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, self._max_s)
        return delay_s

    def reset(self) -> None:
        """Start again with `first_s`, after a success."""
        self._delay_s = self._first_s
