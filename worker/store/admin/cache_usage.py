"""Counts the keys of each instance; in a large database a part is counted and scaled up."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from worker.core.cache_keys import CacheKeys, KeyKind
from worker.store.admin.server_probe import probe_errors
from worker.store.client import Client

_SCAN_COUNT: Final = 1000
_MAX_KEYS: Final = 100_000
_MAX_NEIGHBOURS: Final = 5


@dataclass(slots=True)
class CacheUsage:
    """Counted keys by instance and kind; multiplied by `scale` they estimate all keys.

    `foreign_keys` counts keys below `<prefix>:chatwoot:` that this program does not write, with an
    example. `neighbours` counts other programs' keys below the prefix, by their second part.
    """

    kinds: dict[str, dict[KeyKind, int]] = field(default_factory=dict)
    scale: float = 1.0
    foreign_keys: int = 0
    foreign_example: str | None = None
    all_neighbours: Counter[str] = field(default_factory=Counter)

    @property
    def is_estimate(self) -> bool:
        """Whether only a part of the database was counted."""
        return self.scale > 1

    @property
    def neighbours(self) -> Mapping[str, int]:
        """The most frequent neighbours."""
        return dict(self.all_neighbours.most_common(_MAX_NEIGHBOURS))

    def add(self, key: bytes, keys: CacheKeys, prefix: str) -> None:
        """Count a key of the database."""
        text = key.decode(errors="replace")
        if not text.startswith(f"{prefix}:"):
            return
        if not text.startswith(keys.root):
            self.all_neighbours[text.removeprefix(f"{prefix}:").partition(":")[0]] += 1
        elif place := keys.parse(key):
            kinds = self.kinds.setdefault(place.instance, {})
            kinds[place.kind] = kinds.get(place.kind, 0) + 1
        elif text not in keys.shared:
            self.foreign_keys += 1
            self.foreign_example = self.foreign_example or text


async def measure_usage(client: Client, prefix: str, *, max_keys: int = _MAX_KEYS) -> CacheUsage:
    """Count the keys of a prefix with SCAN, which returns keys in no particular order."""
    keys, usage = CacheKeys(prefix), CacheUsage()
    counted, cursor = 0, 0
    while counted < max_keys:
        async with probe_errors(client):
            cursor, names = await client.scan(cursor, count=_SCAN_COUNT)
        counted += len(names)
        for name in names:
            usage.add(name, keys, prefix)
        if cursor == 0:
            return usage
    async with probe_errors(client):
        size = await client.dbsize()
    usage.scale = max(1.0, size / counted)
    return usage
