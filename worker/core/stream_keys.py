"""The keys that a consumer group, or a spool, has beside the stream. Nothing else formats one.

    <stream>:group:<group>:position             how far the group is settled, should it vanish
    <stream>:group:<group>:lease:<task>         who does what only one worker should do
    <stream>:spool:<identity>                   the last row of a spool that is on the stream

The record of a spool lives `SPOOL_RECORD_S` from its last use, and is renewed while rows that are
on the stream cannot be deleted from the disk.
The group's name is escaped, so that no `:` in one looks like a separator.
"""

from typing import Final, Literal

from worker.core.cache_keys import escape

Task = Literal["sweep", "upkeep"]
"""What one worker at a time does for its group."""


SPOOL_RECORD_S: Final = 30 * 86_400
"""Longer than a worker is down with drained rows on its disk; they would be added again."""


class StreamKeys:
    """Builds the keys of one group."""

    def __init__(self, stream: str, group: str) -> None:
        self._group: Final = group_root(stream) + escape(group)
        self.position: Final = f"{self._group}:position"

    def lease(self, task: Task) -> str:
        """Return the key that names the worker which does a task now."""
        return f"{self._group}:lease:{task}"


def spool_key(stream: str, identity: str) -> str:
    """Return the key that records which row of a spool was the last to be added to the stream."""
    return f"{stream}:spool:{identity}"


def group_root(stream: str) -> str:
    """Return what the keys of every group of a stream begin with."""
    return f"{stream}:group:"
