"""FastStream reading batches of 500; its handler writes and acknowledges in one pipeline."""

from typing import Any

import uvloop
from faststream import AckPolicy, FastStream
from faststream.redis import RedisBroker, RedisMessage, StreamSub
from redis.asyncio import Redis

from bench.peers.place import BATCH, CONSUMER, GROUP, STREAM, TTL_S, URI, key


async def main() -> None:
    """Consume until the process is ended."""
    client = Redis.from_url(URI)

    async def handle(message: RedisMessage) -> None:
        raw: Any = message.raw_message
        async with client.pipeline(transaction=False) as pipeline:
            for fields in raw["data"]:
                payload = fields[b"payload"]
                pipeline.set(key(payload), payload, ex=TTL_S)
            pipeline.xack(STREAM, GROUP, *raw["message_ids"])
            await pipeline.execute()

    broker = RedisBroker(URI, logger=None)
    stream = StreamSub(STREAM, group=GROUP, consumer=CONSUMER, batch=True, max_records=BATCH)
    broker.subscriber(stream=stream, ack_policy=AckPolicy.MANUAL)(handle)
    await FastStream(broker, logger=None).run()


if __name__ == "__main__":
    uvloop.run(main())
