"""Trimming of the stream."""

from typing import Final

from msgspec import Struct

from worker.store.client import Client, load_script
from worker.store.stream.stream_errors import stream_errors

_STEP: Final = 5000
"""Most entries trimmed in one call, which blocks the server."""


class Trimmed(Struct, frozen=True, gc=False):
    """Entries trimmed in one call; `unread` of them our group had not read.

    `held_by` names another group that keeps entries beyond the retention, if one does.
    """

    entries: int
    unread: int
    held_by: str | None


class Trimmer:
    """Trims one stream for one group; `max_entries` None keeps any number."""

    def __init__(
        self,
        client: Client,
        stream: str,
        group: str,
        *,
        retention_s: float,
        max_entries: int | None,
    ) -> None:
        self._client = client
        self._stream = stream
        self._arguments = (group, round(retention_s), max_entries or 0, _STEP)
        self._trim = load_script(client, __file__, "trim_stream")

    async def trim(self) -> Trimmed:
        """Trim a limited number of entries; call again until it trims none.

        Entries that a group has not acknowledged stay, unless there are more than `max_entries`.
        """
        async with stream_errors(self._client, self._stream):
            entries, unread, held_by = await self._trim([self._stream], self._arguments)
        return Trimmed(entries, unread, held_by.decode(errors="replace") or None)
