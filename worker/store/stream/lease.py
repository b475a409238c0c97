"""A lease: lets one worker of a group do a task for all."""

import secrets
from typing import Final

from worker.store.client import Client, load_script, translate_errors


class Lease:
    """A key that names its holder and expires, so that a crash does not block other workers."""

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self._key = key
        self._token: Final = secrets.token_hex(16)
        self._script = load_script(client, __file__, "hold_lease")

    async def hold(self, ttl_s: float) -> bool:
        """Take or renew the lease for `ttl_s` seconds; False when another worker holds it."""
        return await self._run(max(1, round(ttl_s * 1000)))

    async def release(self) -> None:
        """Give the lease up; one that another worker holds stays."""
        await self._run(0)

    async def _run(self, ttl_ms: int) -> bool:
        async with translate_errors(self._client):
            return bool(await self._script([self._key], [self._token, ttl_ms]))
