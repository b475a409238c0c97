"""A worker's own copy of the bindings, and the claims it cannot answer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, cast

import anyio
import structlog

from worker.core.binding_rules import BindingClaim, BindingResolver, Bindings, bind_command
from worker.core.chatwoot_event import ChatwootEvent, Destination
from worker.core.stream_entry import Envelope
from worker.errors import UnusableEntry

log = structlog.get_logger()

REFRESH_S: Final = 60.0
"""How long the copy is kept; then it is read anew, which renews the bindings."""

CHECK_S: Final = 1.0
"""How long the copy is trusted; then it is read anew if its version stands no more."""

Resolution = Destination | UnusableEntry | None
"""Where an event belongs, why it belongs nowhere, or None when it is a stranger's."""

Case = tuple[ChatwootEvent, Envelope]

_PLAIN: Final = {Destination, type(None)}
"""Answers that nothing more is to be asked about."""


class BindingTable(Protocol):
    """The bindings that all workers share."""

    async def version(self) -> bytes:
        """Return the version of the bindings that stand now."""

    async def load(self) -> Bindings:
        """Read all bindings, and renew them."""

    async def put(self, bindings: Bindings) -> Mapping[str, str]:
        """Write the operator's bindings over whatever stands; returns what stood against them."""

    async def claim(self, claims: Sequence[BindingClaim]) -> Bindings:
        """Ask for new bindings; returns those that stand now."""


class InstanceResolver:
    """Says which instance each event of a batch belongs to."""

    def __init__(
        self,
        table: BindingTable,
        *,
        operator: Mapping[str, str],
        from_inbox_name: bool,
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._operator = Bindings.of_operator(operator)
        self._from_inbox_name = from_inbox_name
        self._clock = clock
        self._loaded_at: float | None = None
        self._checked_at = 0.0
        # A batch may be resolved anew while the next one is: what a claim granted must not be
        # laid over a copy that was read later.
        self._lock = anyio.Lock(fast_acquire=True)
        self._trust(Bindings())

    @property
    def version(self) -> bytes:
        """The version of the bindings that events are resolved by."""
        return self._bindings.version

    async def resolve(self, cases: Sequence[Case]) -> list[Resolution]:
        """Resolve a batch; new bindings are claimed, all in one step, before anything is said.

        A binding that one event of the batch brings holds for all of them, whatever their order.
        """
        if not cases:
            return []
        async with self._lock:
            return await self._resolve(cases)

    async def _resolve(self, cases: Sequence[Case]) -> list[Resolution]:
        await self._refresh()
        first = self._judge(cases)
        kinds = set(map(type, first))
        if kinds <= _PLAIN:
            return cast("list[Resolution]", first)

        if any(issubclass(kind, UnusableEntry) for kind in kinds) and await self._may_be_behind():
            # Perhaps it was bound just now: nothing is refused by what stands no more.
            self.invalidate()
            await self._refresh()
            first = self._judge(cases)
        if claims := list(dict.fromkeys(a for a in first if isinstance(a, BindingClaim))):
            granted = await self._table.claim(claims)
            self._trust(self._bindings.overruled_by(granted))
            first = self._judge(cases)
        return [_settled(answer) for answer in first]

    def invalidate(self) -> None:
        """Read the bindings anew before anything else is resolved."""
        self._loaded_at = None

    def _judge(self, cases: Sequence[Case]) -> list[Resolution | BindingClaim]:
        resolve = self._resolver.resolve
        answers: list[Resolution | BindingClaim] = []
        for event, said in cases:
            try:
                answers.append(resolve(event, said))
            except UnusableEntry as error:
                answers.append(error.detached())
        return answers

    async def _refresh(self) -> None:
        now = self._clock()
        if self._loaded_at is not None and now - self._loaded_at < REFRESH_S:
            if now - self._checked_at < CHECK_S:
                return
            if not await self._is_old():
                self._checked_at = now
                return
        _report(await self._table.put(self._operator), self._operator)
        self._trust(await self._table.load())
        self._loaded_at = self._checked_at = now

    async def _may_be_behind(self) -> bool:
        """Say whether a binding may stand that the copy lacks.

        For one that was added no more than once a second, so that a flood of refusals costs little.
        """
        seen_at = self._loaded_at or 0.0
        return self._clock() - seen_at >= CHECK_S or await self._is_old()

    async def _is_old(self) -> bool:
        return await self._table.version() != self._bindings.version

    def _trust(self, bindings: Bindings) -> None:
        self._bindings = bindings.overruled_by(self._operator)
        self._resolver = BindingResolver(
            self._bindings,
            from_inbox_name=self._from_inbox_name,
            fixed=self._operator.instances.keys(),
        )


def _report(overruled: Mapping[str, str], operator: Bindings) -> None:
    """Say which inboxes the settings moved: their documents are left, and which command helps."""
    for inbox, was in overruled.items():
        now = operator.instances[inbox]
        command = bind_command(inbox, now)
        log.warning("binding.overruled", inbox=inbox, was=was, now=now, clean=command)


def _settled(answer: Resolution | BindingClaim) -> Resolution:
    if isinstance(answer, BindingClaim):
        raise TypeError(f"the claim of inbox {answer.inbox} was neither granted nor refused")
    return answer
