"""A way to a server that can swallow one reply: the server has done the work, nobody learns it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream, SocketStream


class Proxy:
    """Passes bytes both ways, until a reply holds `swallow`: then it cuts that connection, once."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self.port = 0
        self.swallow: bytes | None = None
        self.is_mute = False
        """Whether replies are lost while the connections stay, as on a broken network."""

    async def handle(self, client: SocketStream) -> None:
        """Serve one connection."""
        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", self._server_port) as server,
            anyio.create_task_group() as both,
        ):
            both.start_soon(self._pass, client, server)
            await self._pass(server, client, replies=True)
            both.cancel_scope.cancel()

    async def _pass(self, source: ByteStream, sink: ByteStream, *, replies: bool = False) -> None:
        try:
            async for chunk in source:
                if replies and self.swallow is not None and self.swallow in chunk:
                    self.swallow = None
                    return
                if not (replies and self.is_mute):
                    await sink.send(chunk)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return


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
