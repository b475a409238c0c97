"""The keys that a consumer group has beside its stream. Nothing else formats one.

    <stream>:group:<group>:position             how far the group is settled, should it vanish
    <stream>:group:<group>:lease:<task>         who does what only one worker should do

The group's name is escaped, so that no `:` in one looks like a separator.
"""

from typing import Final, Literal

from worker.core.cache_keys import escape

Task = Literal["sweep", "upkeep"]
"""What one worker at a time does for its group."""


class StreamKeys:
    """Builds the keys of one group."""

    def __init__(self, stream: str, group: str) -> None:
        self._group: Final = group_root(stream) + escape(group)
        self.position: Final = f"{self._group}:position"

    def lease(self, task: Task) -> str:
        """Return the key that names the worker which does a task now."""
        return f"{self._group}:lease:{task}"


def group_root(stream: str) -> str:
    """Return what the keys of every group of a stream begin with."""
    return f"{stream}:group:"
