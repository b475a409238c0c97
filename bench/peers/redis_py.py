"""redis-py as most programs use it: one SETEX and one XACK awaited for each event."""

from typing import Any

import uvloop
from redis.asyncio import Redis

from bench.peers.place import BATCH, BLOCK_MS, CONSUMER, GROUP, STREAM, TTL_S, URI, key


async def main() -> None:
    """Consume until the process is ended."""
    client = Redis.from_url(URI)
    while True:
        reply: Any = await client.xreadgroup(
            GROUP, CONSUMER, {STREAM: ">"}, count=BATCH, block=BLOCK_MS
        )
        for _, entries in reply:
            for entry_id, fields in entries:
                payload = fields[b"payload"]
                await client.setex(key(payload), TTL_S, payload)
                await client.xack(STREAM, GROUP, entry_id)


if __name__ == "__main__":
    uvloop.run(main())
