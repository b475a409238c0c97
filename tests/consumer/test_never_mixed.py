"""Whatever happens, in whatever order: no document ever shows under another instance.

Workers come, are cut off at any await point and come again; inboxes are moved and unbound while
they work; everything is read through the public readers after every step.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests import events
from tests.consumer.harness import Harness, harnessed
from tests.core.names import ADVERSARIAL, names
from tests.reading import Documents
from tests.waiting import wait_until
from worker.consumer.batch import Batch
from worker.core.binding_rules import Bindings, inbox_key
from worker.core.documents import Message
from worker.core.operations.audit_rules import examine_document, examine_key
from worker.core.operations.dead_letter import DeadLetter
from worker.store.admin.inbox_erasure import erase_inbox
from worker.store.admin.stream_admin import StreamAdmin
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings
from worker.store.cache.keyspace import Keyspace
from worker.store.client import create_client

RUNS: Final = int(os.environ.get("CHATWOOT_CACHE_TEST_RUNS", "8"))
"""How often a history is tried; `make mix` says more."""

INBOXES: Final = [(account, inbox) for account in (1, 2) for inbox in (1, 2, 3)]


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that was put on the stream."""

    message_id: int
    inbox: str
    moves: int
    """How many changes of bindings there had been."""


class World:
    """One place on the server, and what was done there."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.prefix = f"test-{uuid4().hex}"
        self.stream = f"{self.prefix}:events"
        self.sent: list[Sent] = []
        self.moves = 0
        self.is_running = 0
        self.held: list[tuple[AsyncExitStack, Harness, Batch]] = []

    async def send(self, body: Any, fields: dict[str, str]) -> None:
        async with create_client(self.uri) as client:
            await client.xadd(self.stream, {"payload": events.encode(body), **fields})

    async def work(self, workers: int, ticks: int | None, beside: Callable[[], Any]) -> None:
        """Let workers work until all is done, or cut them off after some turns of the loop."""
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            rigs: list[Harness] = []
            for _ in range(workers):
                self.is_running += 1
                rig = harnessed(
                    self.uri,
                    self.prefix,
                    consumer=f"w{self.is_running}",
                    batch_size=3,
                    max_attempts=1000,
                    reclaim_after_s=0.1,
                )
                rigs.append(await stack.enter_async_context(rig))
                tasks.start_soon(rigs[-1].consumer.run)
            tasks.start_soon(beside)
            if ticks is None:
                await wait_until(rigs[0].is_idle, "everything is settled")
            for _ in range(ticks or 0):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    async def hold(self) -> None:
        """Let a worker resolve a batch and sleep over it: a stopped process, a long outage."""
        self.is_running += 1
        stack = AsyncExitStack()
        rig = await stack.enter_async_context(
            harnessed(self.uri, self.prefix, consumer=f"w{self.is_running}", batch_size=3)
        )
        batch = Batch(await rig.stream.read())
        await rig.consumer._processor.prepare(batch)
        self.held.append((stack, rig, batch))

    async def remove(self) -> None:
        """Let every worker that sleeps go on with what it has."""
        while self.held:
            stack, rig, batch = self.held.pop()
            async with stack:
                await rig.consumer._processor.write(batch)
                await rig.consumer._processor.settle(batch)

    async def bind(self, inbox: str, instance: str | None) -> None:
        async with create_client(self.uri) as client:
            table = BindingTable(client, CacheSettings(self.prefix))
            standing = await table.peek()
            accounts = {other.partition("/")[0] for other in standing.inboxes_of(instance or "")}
            if accounts - {inbox.partition("/")[0]}:
                return
            if instance is None:
                before = await table.drop(inbox)
            else:
                before = await table.put(Bindings.of_operator({inbox: instance}))
            self.moves += 1
            namespace = Keyspace(client, self.prefix)
            await erase_inbox(namespace, lambda _: None, inbox, was=before.get(inbox), now=instance)

    async def replay(self) -> None:
        async with create_client(self.uri) as client:
            dead, stream = (
                StreamAdmin(client, f"{self.stream}:dead"),
                StreamAdmin(client, self.stream),
            )
            async for some in dead.walk():
                letters = [DeadLetter(entry.id, entry.fields) for entry in some]
                await stream.add_all([letter.original() for letter in letters])
                await dead.delete([letter.id for letter in letters])

    async def check(self) -> set[int]:
        """Read everything through the readers; returns the messages that show anywhere."""
        async with create_client(self.uri) as client:
            bindings = await BindingTable(client, CacheSettings(self.prefix)).peek()
            await self._check_keys(Keyspace(client, self.prefix), bindings)
            reader = Documents(client, self.prefix)
            everywhere = {*bindings.accounts, *ADVERSARIAL[:5]}
            found = [m for name in everywhere for m in await self._found(reader, name)]
        for instance, message in found:
            inbox = inbox_key(message.account_id, message.inbox_id)
            assert message.content == f"of {inbox}"
            assert bindings.instances[inbox] == message.instance == instance
            assert bindings.accounts[instance] == message.account_id
        return {message.id for _, message in found}

    async def _found(self, reader: Documents, instance: str) -> list[tuple[str, Message]]:
        alone = [await reader.message(instance, sent.message_id) for sent in self.sent]
        lists = [await reader.messages(instance, number, 50) for number in range(1, 7)]
        return [(instance, m) for m in [*alone, *(m for some in lists for m in some)] if m]

    async def _check_keys(self, namespace: Keyspace, bindings: Bindings) -> None:
        async for found in namespace.walk(lambda _: None):
            for key in found:
                shared = key.key.decode() in namespace.keys.shared
                kind = key.type.decode()
                assert not list(
                    examine_key(key.place, shared=shared, type_name=kind, ttl_ms=key.ttl_ms)
                )
                if key.place and key.place.kind in ("message", "conversation"):
                    assert not list(examine_document(key.place, key.document(), bindings)), key

    async def dead(self) -> set[int]:
        async with create_client(self.uri) as client:
            rows = await client.xrange(f"{self.stream}:dead")
        return {json.loads(fields[b"payload"])["id"] for _, fields in rows}

    async def clear(self) -> None:
        async with create_client(self.uri) as client:
            async for key in client.scan_iter(f"{self.prefix}*", count=1000):
                await client.delete(key)


async def _nothing() -> None:
    pass


class Histories(RuleBasedStateMachine):
    """Events, workers, moves and replays, in any order."""

    uri: ClassVar[str]
    portal: ClassVar[BlockingPortal]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.uri)

    @initialize(chosen=st.lists(names(), min_size=4, max_size=4, unique=True))
    def choose_names(self, chosen: list[str]) -> None:
        self.names = chosen

    @rule(
        inboxes=st.lists(st.sampled_from(INBOXES), min_size=1, max_size=6),
        name=st.integers(0, 3),
        stated=st.sampled_from([None, None, None, "instance", "expect"]),
        other=st.integers(0, 3),
        is_update=st.booleans(),
    )
    def publish(
        self,
        inboxes: list[tuple[int, int]],
        name: int,
        stated: str | None,
        other: int,
        *,
        is_update: bool,
    ) -> None:
        for account_id, inbox_id in inboxes:
            message_id = len(self.world.sent) + 1
            body = events.message(
                message_id,
                event="message_updated" if is_update else "message_created",
                account_id=account_id,
                inbox_id=inbox_id,
                inbox_name=self.names[name],
                conversation_id=inbox_id + 3 * (account_id - 1),
                content=f"of {account_id}/{inbox_id}",
                source_id=self.names[other],
            )
            inbox = inbox_key(account_id, inbox_id)
            self.world.sent.append(Sent(message_id, inbox, self.world.moves))
            fields = {stated: self.names[other]} if stated else {}
            self.portal.call(self.world.send, body, fields)

    @rule(workers=st.integers(1, 3), ticks=st.integers(1, 400))
    def work_and_be_killed(self, workers: int, ticks: int) -> None:
        self.portal.call(self.world.work, workers, ticks, _nothing)
        self.portal.call(self.world.check)

    @rule(
        workers=st.integers(1, 3),
        ticks=st.integers(20, 400),
        inbox=st.sampled_from(INBOXES),
        name=st.none() | st.integers(0, 3),
    )
    def move_an_inbox_meanwhile(
        self, workers: int, ticks: int, inbox: tuple[int, int], name: int | None
    ) -> None:
        instance = None if name is None else self.names[name]

        async def move() -> None:
            with anyio.CancelScope(shield=True):
                await self.world.bind(inbox_key(*inbox), instance)

        self.portal.call(self.world.work, workers, ticks, move)
        self.portal.call(self.world.check)

    @rule()
    def sleep_over_a_batch(self) -> None:
        self.portal.call(self.world.hold)

    @rule(recent=st.integers(0, 3), name=st.none() | st.integers(0, 3))
    def sleep_while_an_inbox_is_moved(self, recent: int, name: int | None) -> None:
        if not self.world.sent:
            return
        instance = None if name is None else self.names[name]
        inbox = self.world.sent[-1 - recent % len(self.world.sent)].inbox
        self.portal.call(self.world.hold)
        self.portal.call(self.world.bind, inbox, instance)
        self.portal.call(self.world.check)
        self.portal.call(self.world.remove)
        self.portal.call(self.world.check)

    @rule()
    def replay(self) -> None:
        self.portal.call(self.world.replay)

    @rule(workers=st.integers(1, 2))
    def finish(self, workers: int) -> None:
        """Everything is settled: what no move took shows, or is dead."""
        if not self.world.sent:
            return
        self.portal.call(self.world.work, workers, None, _nothing)
        shown = self.portal.call(self.world.check)
        dead = self.portal.call(self.world.dead)
        lasting = {sent.message_id for sent in self.world.sent if sent.moves == self.world.moves}
        assert lasting <= shown | dead

    def teardown(self) -> None:
        try:
            self.portal.call(self.world.remove)
            self.finish(2)
        finally:
            self.portal.call(self.world.clear)


@contextmanager
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal("asyncio", {"use_uvloop": True}) as made:
        yield made


@pytest.mark.usefixtures("server_binary")
def test_no_document_ever_shows_under_another_instance(redis_uri: str) -> None:
    with portal() as made:
        Histories.uri, Histories.portal = redis_uri, made
        run_state_machine_as_test(
            Histories,
            settings=settings(
                max_examples=RUNS,
                stateful_step_count=12,
                deadline=None,
                # Shrinking would repeat a history for minutes.
                phases=(Phase.reuse, Phase.generate),
                suppress_health_check=list(HealthCheck),
            ),
        )
