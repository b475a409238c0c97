"""Name and version of a server."""

from worker.store.client import Client, translate_errors


async def identify(client: Client) -> tuple[str, str]:
    """Return the server's name and version; Valkey also calls itself Redis 7.2.4."""
    async with translate_errors(client):
        info = await client.info("server")
    name = str(info.get("server_name", "redis"))
    return name, str(info.get(f"{name}_version", info["redis_version"]))
