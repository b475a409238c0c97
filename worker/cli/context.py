"""What the commands share: the settings in effect, the clients for them, and the bindings."""

import os
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.core.binding_rules import Bindings
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings, Settings, is_valid_name
from worker.store.admin.server_probe import ServerProbe
from worker.store.admin.stream_info import StreamInspector
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings
from worker.store.client import Client, open_client

_LISTED: Final = 10
_CONTAINER_FILES: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))
_CONTAINER_VARIABLES: Final = ("container", "KUBERNETES_SERVICE_HOST")


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The settings in effect, and access to the servers they name."""

    loaded: LoadedSettings

    @property
    def settings(self) -> Settings:
        """The settings in effect."""
        return self.loaded.settings

    @property
    def cache_settings(self) -> CacheSettings:
        """Prefix and time to live of the cache."""
        return CacheSettings(self.settings.cache_redis_prefix_key, self.settings.cache_redis_ttl)

    def open_cache(self) -> AbstractAsyncContextManager[Client]:
        """Open a client of the cache's server."""
        return open_client(self.settings.cache_uri.get_secret_value())

    def open_stream(self) -> AbstractAsyncContextManager[Client]:
        """Open a client of the stream's server."""
        return open_client(self.settings.stream_uri.get_secret_value())

    def binding_table(self, cache: Client) -> BindingTable:
        """Return the bindings in the cache."""
        return BindingTable(cache, self.cache_settings)

    async def bindings(self, cache: Client) -> Bindings:
        """Return the bindings in effect: CHATWOOT_CACHE_INSTANCES overrules the cache."""
        stored = await self.binding_table(cache).peek()
        return stored.overruled_by(Bindings.of_operator(self.settings.instances))


@dataclass(frozen=True, slots=True)
class CheckContext(CommandContext):
    """An installation and one of its servers; a read on `blocking` may take as long as a worker's.

    Checks that need no server get `None` for both clients.
    """

    client: Client
    blocking: Client

    @property
    def probe(self) -> ServerProbe:
        """Questions to the server."""
        return ServerProbe(self.client)

    @property
    def inspector(self) -> StreamInspector:
        """The stream on the server."""
        return StreamInspector(self.client, self.settings.stream_key, self.settings.stream_group)


def check_instance_name(instance: str) -> None:
    """Raise `ConfigurationError` unless this can be the name of an instance."""
    if not is_valid_name(instance):
        raise ConfigurationError("INSTANCE must be 1 to 255 bytes of UTF-8")


def describe_unknown(instance: str, bindings: Bindings) -> str | None:
    """Return a line that names the known instances, None for an instance that has an inbox."""
    known = sorted(set(bindings.instances.values()))
    if instance in known:
        return None
    if not known:
        return f"instance {instance!r} is not known: no inbox is bound to an instance"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    names = ", ".join(map(repr, known[:_LISTED]))
    return f"instance {instance!r} is not known: known are {names}{more}"


def is_in_container() -> bool:
    """Whether this process runs in a container, as far as Docker, Podman and Kubernetes tell."""
    return any(name in os.environ for name in _CONTAINER_VARIABLES) or any(
        file.exists() for file in _CONTAINER_FILES
    )
