"""The keys beside a stream. Nothing else in the project formats one.

    <stream>:dead                               the dead letters
    <stream>:group:<group>:position             how far the group is settled, should it vanish
    <stream>:group:<group>:lease:<task>         who does what only one worker should do

The group's name is escaped, so that no `:` in one looks like a separator.
"""

from typing import Final, Literal

from worker.core.keys import escape

Task = Literal["sweep", "upkeep"]
"""What one worker at a time does for its group."""


class StreamKeys:
    """Builds the keys beside one stream, for one group."""

    def __init__(self, stream: str, group: str) -> None:
        self._group: Final = f"{stream}:group:{escape(group)}"
        self.dead: Final = f"{stream}:dead"
        self.position: Final = f"{self._group}:position"

    def lease(self, task: Task) -> str:
        """Return the key that names the worker which does a task now."""
        return f"{self._group}:lease:{task}"
