"""Evolution's deprecated instance storage: recognised, never used.

Evolution API deprecated it because "with multiple instances Redis ends up mixing information of
messages sometimes" (its documentation of the Redis cache, December 2023).
"""

from collections.abc import Mapping
from typing import Final

from worker import errors
from worker.settings import redis_uri
from worker.settings.model import Settings
from worker.settings.sources import SourcedValue

NAMES: Final = ("REDIS_ENABLED", "REDIS_URI", "REDIS_PREFIX_KEY", "CACHE_REDIS_SAVE_INSTANCES")

_TRUE: Final = frozenset({"1", "on", "t", "true", "y", "yes"})


def check(found: Mapping[str, SourcedValue], settings: Settings) -> tuple[str, ...]:
    """Return a warning for each part of the old storage that is on.

    Raises `errors.ConfigurationError` when it shares server, database and prefix with the cache:
    that is how instances got mixed.
    """
    if _is_on(found, "REDIS_ENABLED") and _is_shared(found, settings):
        raise errors.ConfigurationError(
            f"REDIS_PREFIX_KEY={settings.cache_redis_prefix_key}"
            f" ({found['REDIS_PREFIX_KEY'].origin}): Evolution's instance storage must not share"
            " server and prefix with the cache, or instances get mixed:"
            " set REDIS_ENABLED=false, or another CACHE_REDIS_PREFIX_KEY"
        )
    return tuple(
        f"{name}={found[name].value} ({found[name].origin}): Evolution's deprecated instance"
        f" storage, which can mix instances and which this worker never uses; set {name}=false"
        for name in ("REDIS_ENABLED", "CACHE_REDIS_SAVE_INSTANCES")
        if _is_on(found, name)
    )


def _is_on(found: Mapping[str, SourcedValue], name: str) -> bool:
    return name in found and str(found[name].value).strip().lower() in _TRUE


def _is_shared(found: Mapping[str, SourcedValue], settings: Settings) -> bool:
    if settings.local_only or not {"REDIS_URI", "REDIS_PREFIX_KEY"} <= found.keys():
        return False
    theirs = redis_uri.server(str(found["REDIS_URI"].value))
    ours = redis_uri.server(settings.cache_uri.get_secret_value())
    same_prefix = str(found["REDIS_PREFIX_KEY"].value) == settings.cache_redis_prefix_key
    return same_prefix and theirs is not None and theirs == ours
