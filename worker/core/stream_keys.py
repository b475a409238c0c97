"""The keys of a consumer group beside its stream. No other module builds them.

    <stream>:group:<group>:position             the group's position, should the group be lost
    <stream>:group:<group>:lease:<task>         the worker that runs a task for the group

The group's name is escaped, so that a `:` in it is no separator.
"""

from typing import Final, Literal

from worker.core.cache_keys import escape

Task = Literal["sweep", "upkeep"]
"""A task that one worker at a time runs for its group."""


class StreamKeys:
    """Builds the keys of one group."""

    def __init__(self, stream: str, group: str) -> None:
        self._group: Final = group_root(stream) + escape(group)
        self.position: Final = f"{self._group}:position"

    def lease(self, task: Task) -> str:
        """Return the key that holds the worker which runs a task."""
        return f"{self._group}:lease:{task}"


def group_root(stream: str) -> str:
    """Return the common prefix of the keys of all groups of a stream."""
    return f"{stream}:group:"
