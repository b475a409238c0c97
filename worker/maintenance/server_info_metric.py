"""Shows the server's name and version, which change with an upgrade."""

from worker.errors import PermissionDenied
from worker.ops.metrics import Metrics
from worker.store.client import Client, translate_errors


async def update_server_info(client: Client, metrics: Metrics) -> None:
    """Set the metric; a user without the right to INFO shows none."""
    try:
        async with translate_errors(client):
            info = await client.info("server")
    except PermissionDenied:
        return
    # Valkey also calls itself Redis 7.2.4.
    name = str(info.get("server_name", "redis"))
    version = str(info.get(f"{name}_version", info["redis_version"]))
    metrics.redis_server_info.set({"server": name, "version": version})
