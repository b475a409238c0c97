"""Resolves the instance of each event by a local copy of the bindings, and claims new bindings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import anyio
import structlog

from worker.core.binding_rules import BindingClaim, BindingResolver, Bindings, bind_command
from worker.core.chatwoot_event import ChatwootEvent, Destination
from worker.core.stream_entry import Envelope
from worker.errors import UnusableEntry
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.memory_bindings import MemoryBindings

log = structlog.get_logger()

REFRESH_S: Final = 60.0
"""Age at which the copy is loaded again, which renews the bindings' time to live."""

CHECK_S: Final = 1.0
"""Age at which the copy's version is checked."""

Resolution = Destination | UnusableEntry | None
"""Where an event belongs, why it is refused, or None when its inbox is not of Evolution."""

_FINAL_TYPES: Final = {Destination, type(None)}

BindingStore = BindingTable | MemoryBindings
"""The bindings of all workers in Redis, or of this process in memory."""


class InstanceResolver:
    """Resolves the events of a batch."""

    def __init__(
        self,
        bindings: BindingStore,
        *,
        operator: Mapping[str, str],
        from_inbox_name: bool,
        clock: Callable[[], float],
    ) -> None:
        self._store = bindings
        self._operator = Bindings.of_operator(operator)
        self._from_inbox_name = from_inbox_name
        self._clock = clock
        self._loaded_at: float | None = None
        self._checked_at = 0.0
        # Two batches may be resolved at once: what one claims must not replace a later copy.
        self._lock = anyio.Lock(fast_acquire=True)
        self._use(Bindings())

    @property
    def version(self) -> bytes:
        """The version of the bindings that events are resolved by."""
        return self._bindings.version

    async def resolve(self, events: Sequence[tuple[ChatwootEvent, Envelope]]) -> list[Resolution]:
        """Resolve the events of a batch; new bindings are claimed in one step.

        A binding that one event claims applies to the whole batch, whatever the order.
        """
        if not events:
            return []
        async with self._lock:
            return await self._resolve(events)

    def invalidate(self) -> None:
        """Load the bindings again before the next event is resolved."""
        self._loaded_at = None

    async def _resolve(self, events: Sequence[tuple[ChatwootEvent, Envelope]]) -> list[Resolution]:
        await self._refresh()
        results = self._apply_rules(events)
        types = set(map(type, results))
        if types <= _FINAL_TYPES:
            return cast("list[Resolution]", results)

        if any(issubclass(kind, UnusableEntry) for kind in types) and await self._may_be_outdated():
            # The inbox may have been bound since: no event is refused by an outdated copy.
            self.invalidate()
            await self._refresh()
            results = self._apply_rules(events)
        if claims := list(dict.fromkeys(r for r in results if isinstance(r, BindingClaim))):
            granted = await self._store.claim(claims)
            self._use(self._bindings.overruled_by(granted))
            results = self._apply_rules(events)
        return [_require_resolution(result) for result in results]

    def _apply_rules(
        self, events: Sequence[tuple[ChatwootEvent, Envelope]]
    ) -> list[Resolution | BindingClaim]:
        resolve = self._resolver.resolve
        results: list[Resolution | BindingClaim] = []
        for event, envelope in events:
            try:
                results.append(resolve(event, envelope))
            except UnusableEntry as error:
                results.append(error.detached())
        return results

    async def _refresh(self) -> None:
        now = self._clock()
        if self._loaded_at is not None and now - self._loaded_at < REFRESH_S:
            if now - self._checked_at < CHECK_S:
                return
            if not await self._is_outdated():
                self._checked_at = now
                return
        self._report_replaced(await self._store.put(self._operator))
        self._use(await self._store.load())
        self._loaded_at = self._checked_at = now

    async def _may_be_outdated(self) -> bool:
        """Return whether there may be bindings that the copy lacks.

        A copy that is older than `CHECK_S` counts as outdated without asking, so a flood of refused
        events loads the bindings once a second.
        """
        loaded_at = self._loaded_at or 0.0
        return self._clock() - loaded_at >= CHECK_S or await self._is_outdated()

    async def _is_outdated(self) -> bool:
        return await self._store.version() != self._bindings.version

    def _use(self, bindings: Bindings) -> None:
        self._bindings = bindings.overruled_by(self._operator)
        self._resolver = BindingResolver(
            self._bindings,
            from_inbox_name=self._from_inbox_name,
            fixed=self._operator.instances.keys(),
        )

    def _report_replaced(self, replaced: Mapping[str, str]) -> None:
        """Log the inboxes that the settings moved, and the command that deletes their documents."""
        for inbox, was in replaced.items():
            now = self._operator.instances[inbox]
            command = bind_command(inbox, now)
            log.warning("binding.overruled", inbox=inbox, was=was, now=now, clean=command)


def _require_resolution(result: Resolution | BindingClaim) -> Resolution:
    if isinstance(result, BindingClaim):
        raise TypeError(f"the claim of inbox {result.inbox} was neither granted nor refused")
    return result
