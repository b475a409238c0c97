"""The keys of a consumer group, or of a spool, beside its stream. No other module builds them.

    <stream>:group:<group>:position             the group's position, should the group be lost
    <stream>:group:<group>:lease:<task>         the worker that runs a task for the group
    <stream>:spool:<identity>                   the last row of a spool that was added

A spool's record expires `SPOOL_RECORD_S` after its last use; it is renewed while rows that were
added cannot be deleted from the disk.
The group's name is escaped, so that a `:` in it is no separator.
"""

from typing import Final, Literal

from worker.core.cache_keys import escape

Task = Literal["sweep", "upkeep"]
"""A task that one worker at a time runs for its group."""


SPOOL_RECORD_S: Final = 30 * 86_400
"""Longer than a worker is down with drained rows on its disk; they would be added again."""


class StreamKeys:
    """Builds the keys of one group."""

    def __init__(self, stream: str, group: str) -> None:
        self._group: Final = group_key_prefix(stream) + escape(group)
        self.position: Final = f"{self._group}:position"

    def lease(self, task: Task) -> str:
        """Return the key that holds the worker which runs a task."""
        return f"{self._group}:lease:{task}"


def spool_key(stream: str, identity: str) -> str:
    """Return the key that records which row of a spool was the last to be added to the stream."""
    return f"{stream}:spool:{identity}"


def group_key_prefix(stream: str) -> str:
    """Return the common prefix of the keys of all groups of a stream."""
    return f"{stream}:group:"
