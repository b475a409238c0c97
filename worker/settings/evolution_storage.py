"""Evolution's deprecated instance storage, which the worker detects and never uses.

Evolution API deprecated it because "with multiple instances Redis ends up mixing information of
messages sometimes" (its documentation of the Redis cache, December 2023).
"""

from collections.abc import Mapping
from typing import Final

from worker.errors import ConfigurationError
from worker.settings import redis_uri
from worker.settings.model import Settings
from worker.settings.sources import SourcedValue

NAMES: Final = ("REDIS_ENABLED", "REDIS_URI", "REDIS_PREFIX_KEY", "CACHE_REDIS_SAVE_INSTANCES")

_TRUE: Final = frozenset({"1", "on", "t", "true", "y", "yes"})


def check_evolution_storage(found: Mapping[str, SourcedValue], settings: Settings) -> list[str]:
    """Return a warning for each part of the instance storage that is enabled.

    Raises `ConfigurationError` when it shares server, database and prefix with the cache, which
    mixes instances.
    """
    enabled = [
        name
        for name in ("REDIS_ENABLED", "CACHE_REDIS_SAVE_INSTANCES")
        if name in found and str(found[name].value).strip().lower() in _TRUE
    ]
    if "REDIS_ENABLED" in enabled and _is_shared(found, settings):
        raise ConfigurationError(
            f"REDIS_PREFIX_KEY={settings.cache_redis_prefix_key}"
            f" ({found['REDIS_PREFIX_KEY'].origin}): Evolution's instance storage must not share"
            " server and prefix with the cache, or instances get mixed:"
            " set REDIS_ENABLED=false, or another CACHE_REDIS_PREFIX_KEY"
        )
    return [
        f"{name}={found[name].value} ({found[name].origin}): Evolution's deprecated instance"
        f" storage can mix instances, and this worker never uses it; set {name}=false"
        for name in enabled
    ]


def _is_shared(found: Mapping[str, SourcedValue], settings: Settings) -> bool:
    if settings.local_only or not {"REDIS_URI", "REDIS_PREFIX_KEY"} <= found.keys():
        return False
    storage = redis_uri.server(str(found["REDIS_URI"].value))
    cache = redis_uri.server(settings.cache_uri.get_secret_value())
    same_prefix = str(found["REDIS_PREFIX_KEY"].value) == settings.cache_redis_prefix_key
    return same_prefix and storage is not None and storage == cache
