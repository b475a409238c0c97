"""Shows the server's name and version, which change with an upgrade."""

from worker.errors import PermissionRefused
from worker.ops.metrics import Metrics
from worker.store.client import Client
from worker.store.stream.server_identity import identify


async def show_server(client: Client, metrics: Metrics) -> None:
    """Set the metric; a user without the right to INFO shows none."""
    try:
        name, version = await identify(client)
    except PermissionRefused:
        return
    metrics.redis_server_info.info({"server": name, "version": version})
