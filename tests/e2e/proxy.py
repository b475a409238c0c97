"""A way to a server that can spoil it: swallow or cut a reply, be slow, be cut altogether."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream, SocketStream


class Proxy:
    """Passes bytes both ways, in chunks.

    When a reply holds `swallow`, that connection is cut before it, once; when one holds `cut`,
    in the middle of it, once: the server has done the work, and nobody learns it.
    Each chunk is late by up to `delay_s`, and cuts its connection by a chance of `drops`;
    half of it may have been passed on by then.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self.port = 0
        self.swallow: bytes | None = None
        self.cut: bytes | None = None
        self.delay_s = 0.0
        self.drops = 0.0
        self.is_mute = False
        """Whether replies are lost while the connections stay, as on a broken network."""

    async def handle(self, client: SocketStream) -> None:
        """Serve one connection."""
        async with client:
            try:
                server = await anyio.connect_tcp("127.0.0.1", self._server_port)
            except OSError:
                return
            async with server, anyio.create_task_group() as both:
                both.start_soon(self._pass, client, server)
                await self._pass(server, client, replies=True)
                both.cancel_scope.cancel()

    async def _pass(self, source: ByteStream, sink: ByteStream, *, replies: bool = False) -> None:
        try:
            async for chunk in source:
                if self.delay_s:
                    await anyio.sleep(random.uniform(0, self.delay_s))
                if replies and self.is_mute:
                    continue
                passed = self._spoiled(chunk) if replies else chunk
                await sink.send(passed)
                if len(passed) < len(chunk):
                    return
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    def _spoiled(self, chunk: bytes) -> bytes:
        if self.swallow is not None and self.swallow in chunk:
            self.swallow = None
            return b""
        if self.cut is not None and self.cut in chunk:
            at = chunk.index(self.cut)
            self.cut = None
            return chunk[:at]
        if self.drops and random.random() < self.drops:
            return chunk[: random.randrange(len(chunk))]
        return chunk


@asynccontextmanager
async def proxied(server_port: int) -> AsyncIterator[Proxy]:
    """A proxy on a free port, until the end of the block."""
    proxy = Proxy(server_port)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        proxy.port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  (anyio's)
        async with anyio.create_task_group() as serving:
            serving.start_soon(listener.serve, proxy.handle)
            yield proxy
            serving.cancel_scope.cancel()
