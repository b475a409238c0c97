"""The composition root: builds everything, starts the tasks, stops them in order. Read this first.

An entry's way from here: `pipeline.consumer` reads it, `pipeline.settle` settles it with the
help of `core`, which decides, and `store`, which speaks to Redis. There it is acknowledged.
"""

import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup
from starlette.types import ASGIApp

from worker import __version__
from worker.core.stream_keys import StreamKeys
from worker.health import Health
from worker.metrics import Metrics
from worker.notify import Notifier
from worker.pipeline.consumer import Consumer, ConsumerSettings
from worker.pipeline.directory import Directory
from worker.pipeline.ledger import Ledger
from worker.pipeline.settle import Settler
from worker.pipeline.spooling import Spooling
from worker.pipeline.upkeep import MEASURE_S, SELDOM_S, Charges, Upkeep, every
from worker.settings import RedisUri, Settings, uris
from worker.store import embedded
from worker.store.bindings import BindingTable
from worker.store.cache import Cache, CacheSettings
from worker.store.connect import Client, connect
from worker.store.lease import Lease
from worker.store.spool import Spool
from worker.store.spoolfile import SpoolFile
from worker.store.stream import Producer, Stream, StreamSettings
from worker.store.trimmer import Trimmer
from worker.web.policy import WebhookPolicy, is_loopback
from worker.web.probes import ops_app
from worker.web.server import bind, bound_port, serve
from worker.web.webhook import PATH, webhook_app

log = structlog.get_logger()

_GRACE_S: Final = 5.0
"""How long a request in hand may take once the worker has drained; a webhook needs 4 s at most."""


@dataclass(frozen=True, slots=True)
class Started:
    """Where a worker listens: the webhook's URL (None when it is off), and the ops port's."""

    webhook: str | None
    ops: str


async def run(
    settings: Settings, environ: Mapping[str, str], on_started: Callable[[Started], None]
) -> None:
    """Work until SIGTERM, SIGINT or a closed terminal.

    What is in hand is settled within the shutdown time-out.

    Raises `Misconfigured` and `Refused`, in a group when tasks run already.
    """
    notifier = Notifier.from_environment(environ)
    ops = bind(settings.ops_host, settings.ops_port, name="OPS")
    public = None
    if settings.webhook_enabled:
        public = bind(settings.http_host, settings.http_port, name="HTTP")
    with anyio.open_signal_receiver(*_ending_signals()) as signals:
        async with _own_servers(settings):
            worker = _Worker(settings, notifier, ops, public)
            try:
                await worker.run(signals, on_started)
            finally:
                await worker.close()


def _ending_signals() -> Iterator[signal.Signals]:
    yield from (signal.SIGTERM, signal.SIGINT)
    # Whoever started us under nohup wants us to outlive the terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        yield signal.SIGHUP


@asynccontextmanager
async def _own_servers(settings: Settings) -> AsyncIterator[None]:
    """Run the servers of our own that the settings name, for as long as the block lasts."""
    async with AsyncExitStack() as stack:
        for uri in {u.get_secret_value() for u in (settings.cache_uri, settings.stream_uri)}:
            if uri.startswith(embedded.SCHEME):
                await stack.enter_async_context(embedded.running(embedded.directory_of(uri)))
        yield


class _Worker:
    """Everything one process runs, wired."""

    def __init__(
        self,
        settings: Settings,
        notifier: Notifier,
        ops: socket.socket,
        public: socket.socket | None,
    ) -> None:
        self._settings = settings
        self._notifier = notifier
        self._ops = ops
        self._public = public
        self._clients: list[Client] = []
        self._stop_serving = anyio.Event()
        self._metrics = Metrics(__version__, settings.metrics_max_instances)

        stream = self._build_stream()
        self._ledger = Ledger(stream.group, self._metrics)
        self._consumer = self._build_consumer(stream)
        self._upkeep = self._build_upkeep(stream)
        self._producer = Producer(self._connect(settings.stream_uri), settings.stream_key)
        self._spool = _spool(settings) if public else None
        self._spooling = (
            Spooling(self._spool, self._producer, self._metrics) if self._spool else None
        )
        self._policy = webhook_policy(settings)
        self._health = Health(
            self._consumer,
            self._producer,
            closed=self._policy.closed if public else None,
            spool=self._spool,
        )

    def _connect(self, uri: RedisUri, *, block_s: float = 0.0) -> Client:
        client = connect(uri.get_secret_value(), block_s=block_s)
        self._clients.append(client)
        return client

    def _build_stream(self) -> Stream:
        settings = self._settings
        return Stream(
            self._connect(settings.stream_uri, block_s=settings.stream_block_s),
            self._connect(settings.stream_uri),
            StreamSettings(
                key=settings.stream_key,
                group=settings.stream_group,
                consumer=settings.consumer_name,
                batch_size=settings.stream_batch_size,
                block_s=settings.stream_block_s,
                dead_max_entries=settings.dead_max_entries,
                dead_retention_s=settings.dead_retention_s,
            ),
        )

    def _build_upkeep(self, stream: Stream) -> Upkeep:
        settings, client = self._settings, self._connect(self._settings.stream_uri)
        key, group = settings.stream_key, settings.stream_group
        trimmer = Trimmer(
            client,
            key,
            group,
            retention_s=settings.stream_retention_s,
            max_entries=settings.stream_max_entries,
        )
        lease = Lease(client, StreamKeys(key, group).lease("upkeep"))
        charges = Charges(stream.group, self._ledger, trimmer, stream.letters, lease, stream)
        return Upkeep(charges, self._metrics)

    def _build_consumer(self, stream: Stream) -> Consumer:
        settings = self._settings
        client = self._connect(settings.cache_uri)
        of = CacheSettings(
            prefix=settings.cache_redis_prefix_key,
            ttl_s=settings.cache_redis_ttl,
            conversation_messages=settings.conversation_messages,
        )
        directory = Directory(
            BindingTable(client, of),
            operator=settings.instances,
            from_inbox_name=settings.instance_from_inbox_name,
            clock=time.monotonic,
        )
        settler = Settler(
            stream,
            Cache(client, of),
            directory,
            self._metrics,
            max_document_bytes=settings.max_document_bytes,
        )
        return Consumer(
            stream,
            settler,
            self._ledger,
            self._metrics,
            ConsumerSettings(
                name=settings.consumer_name,
                max_attempts=settings.stream_max_attempts,
                reclaim_after_s=settings.stream_reclaim_after_s,
            ),
        )

    async def run(
        self, signals: AsyncIterator[signal.Signals], on_started: Callable[[Started], None]
    ) -> None:
        """Serve and consume until a signal, then drain; probes are served until that is done."""
        async with self._spool_open(), anyio.create_task_group() as servers:
            await self._serve(servers)
            async with anyio.create_task_group() as beside:
                beside.start_soon(self._drain_on, signals, servers.cancel_scope)
                beside.start_soon(self._announce, on_started)
                self._start_upkeep(beside)
                await self._consumer.run()
                beside.cancel_scope.cancel()
            self._stop_serving.set()

    async def close(self) -> None:
        """Give every connection back."""
        for client in self._clients:
            await client.aclose()

    @asynccontextmanager
    async def _spool_open(self) -> AsyncIterator[None]:
        """Keep the spool, if there is one, for as long as anything may be written to it."""
        if self._spool is None:
            yield
            return
        try:
            await self._spool.open()
            async with anyio.create_task_group() as committing:
                committing.start_soon(self._spool.run)
                yield
                committing.cancel_scope.cancel()
        finally:
            self._spool.close()

    async def _serve(self, servers: TaskGroup) -> None:
        apps: list[tuple[ASGIApp, socket.socket]] = [
            (ops_app(self._health, self._metrics), self._ops)
        ]
        if self._public:
            webhook = webhook_app(
                self._policy, self._producer, self._metrics, refuge=self._spooling
            )
            apps.append((webhook, self._public))
        for app, sock in apps:
            await servers.start(
                partial(serve, app, sock, stop=self._stop_serving, grace_s=_GRACE_S)
            )

    def _start_upkeep(self, beside: TaskGroup) -> None:
        beside.start_soon(every, MEASURE_S, self._upkeep.measure)
        beside.start_soon(every, MEASURE_S, self._upkeep.trim)
        beside.start_soon(every, SELDOM_S, self._upkeep.retire)
        beside.start_soon(every, SELDOM_S, self._upkeep.drop_old_letters)
        beside.start_soon(every, SELDOM_S, self._upkeep.identify_server)
        if self._spooling:
            beside.start_soon(self._spooling.run)
        if self._notifier.alive_every_s:
            beside.start_soon(every, self._notifier.alive_every_s, self._feed_watchdog)

    async def _feed_watchdog(self) -> None:
        if not self._health.stalled():
            self._notifier.alive()

    async def _announce(self, on_started: Callable[[Started], None]) -> None:
        """Say that we are ready once Redis was tried: a wrong password ends us before that."""
        await self._consumer.started.wait()
        self._notifier.ready()
        settings, public = self._settings, self._public
        webhook = _url(settings.http_host, public) + PATH.decode() if public else None
        on_started(Started(webhook, ops=_url(settings.ops_host, self._ops)))

    async def _drain_on(
        self, signals: AsyncIterator[signal.Signals], everything: anyio.CancelScope
    ) -> None:
        """Stop reading at the first signal; whatever is not done in time is cancelled."""
        number = await anext(signals)
        log.info("worker.stopping", signal=number.name)
        self._health.draining = True
        self._notifier.stopping()
        self._consumer.stop()
        everything.deadline = anyio.current_time() + self._settings.shutdown_timeout_s


def webhook_policy(settings: Settings) -> WebhookPolicy:
    """Return what the settings say about posting; raises `Misconfigured`."""
    token = settings.webhook_token
    return WebhookPolicy(
        secrets={
            account: tuple(secret.get_secret_value() for secret in secrets)
            for account, secrets in settings.webhook_secrets.items()
        },
        token=token.get_secret_value() if token else None,
        max_body_bytes=settings.webhook_max_body_bytes,
        loopback=is_loopback(settings.http_host),
    )


def _spool(settings: Settings) -> Spool | None:
    directory = settings.webhook_spool_dir
    if directory is None:
        return None
    place = uris.server(settings.stream_uri.get_secret_value()) or ()
    target = f"{settings.stream_key} on {' '.join(place)}"
    return Spool(SpoolFile(directory, settings.webhook_spool_max_bytes, target))


def _url(host: str, sock: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{bound_port(sock)}"
