"""How much of the cache belongs to which instance, counted by walking over keys, or estimated."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from worker.core.cache_keys import CacheKeys, KeyKind
from worker.store.admin.server_probe import probe_errors
from worker.store.client import Client

_STEP: Final = 1000
MOST_KEYS: Final = 100_000
"""Keys that are looked at; of a larger database the rest is estimated."""


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """Keys by instance and kind, as many as were looked at; `scale` makes them those of all.

    `strangers` are keys under the prefix's `chatwoot` that are none of ours, with one to show.
    `neighbours` are keys of other programs under the same prefix, by their second part.
    """

    kinds: Mapping[str, Mapping[KeyKind, int]]
    scale: float
    strangers: int
    a_stranger: str | None
    neighbours: Mapping[str, int]

    @property
    def is_estimate(self) -> bool:
        """Whether not every key was looked at."""
        return self.scale > 1


async def measure_usage(client: Client, prefix: str, *, most_keys: int = MOST_KEYS) -> CacheUsage:
    """Count the keys of a prefix, in bounded steps; keys come in no order, so a part will do."""
    keys = CacheKeys(prefix)
    counted = _Counts(keys, prefix)
    looked_at, cursor = 0, 0
    while looked_at < most_keys:
        async with probe_errors(client):
            cursor, names = await client.scan(cursor, count=_STEP)
        looked_at += len(names)
        for name in names:
            counted.add(name)
        if cursor == 0:
            return counted.tally(scale=1.0)
    async with probe_errors(client):
        size = await client.dbsize()
    return counted.tally(scale=max(1.0, size / looked_at))


class _Counts:
    def __init__(self, keys: CacheKeys, prefix: str) -> None:
        self._keys = keys
        self._ours = keys.pattern.removesuffix("*").encode()
        self._prefix = f"{prefix}:".encode()
        self._shared = {key.encode() for key in keys.shared}
        self._kinds: dict[str, Counter[KeyKind]] = {}
        self._strangers: list[bytes] = []
        self._neighbours: Counter[str] = Counter()

    def add(self, key: bytes) -> None:
        if not key.startswith(self._prefix):
            return
        if not key.startswith(self._ours):
            module = key.removeprefix(self._prefix).partition(b":")[0]
            self._neighbours[module.decode(errors="replace")] += 1
        elif place := self._keys.parse(key):
            self._kinds.setdefault(place.instance, Counter())[place.kind] += 1
        elif key not in self._shared:
            self._strangers.append(key)

    def tally(self, *, scale: float) -> CacheUsage:
        strange = self._strangers
        return CacheUsage(
            kinds=self._kinds,
            scale=scale,
            strangers=len(strange),
            a_stranger=strange[0].decode(errors="replace") if strange else None,
            neighbours=dict(self._neighbours.most_common(5)),
        )
