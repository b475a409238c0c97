"""Which server this is."""

from worker.store.client import Client


async def identify(client: Client) -> tuple[str, str]:
    """Return the server's name and version; Valkey calls itself Redis 7.2.4 beside its own."""
    info = await client.info("server")
    name = str(info.get("server_name", "redis"))
    return name, str(info.get(f"{name}_version", info["redis_version"]))
