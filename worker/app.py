"""The composition root: builds everything, starts the tasks, stops them in order. Read this first.

An entry's way from here: `consumer.loop` reads it, `consumer.processor` settles it with the
help of `core`, which decides, and `store`, which speaks to Redis. There it is acknowledged.
"""

import resource
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

from worker import __version__, backends
from worker.backends import AllHealthy, EntrySource
from worker.chatwoot.account_clients import AccountClients, build_read_through, can_read_through
from worker.chatwoot.read_through import ReadThrough
from worker.consumer.instance_resolver import InstanceResolver
from worker.consumer.loop import Consumer, ConsumerSettings
from worker.consumer.null_consumer import NullConsumer
from worker.consumer.periodic import run_periodically
from worker.consumer.processor import BatchProcessor
from worker.embedded import embedded_server
from worker.errors import ConfigurationError
from worker.ingest.spool.spool_file import SpoolFile
from worker.ingest.spool.spool_queue import SpoolQueue
from worker.ingest.spool.spool_relay import SpoolRelay
from worker.ingest.webhook import PATH, WebhookApp
from worker.ingest.webhook_auth import WebhookPolicy, is_loopback
from worker.maintenance.bot_purge import purge_twice
from worker.maintenance.tasks import MEASURE_S, SLOW_INTERVAL_S, Maintenance
from worker.ops.health import Health
from worker.ops.metrics import Metrics
from worker.ops.notify import Notifier
from worker.ops.probes import ops_app
from worker.public_app import public_app
from worker.reads.api_keys import ApiKeys
from worker.reads.read_request import ROOT
from worker.reads.reads_api import ReadsApp
from worker.settings import RedisUri, Settings, redis_uri
from worker.store.client import Client, create_client
from worker.store.stream.stream_reader import StreamProducer
from worker.web import connection_limit, socket_activation
from worker.web.connection_monitor import ConnectionMonitor, PortName
from worker.web.http_protocol import PortLimits
from worker.web.server import addresses, bind, bound_port, serve

log = structlog.get_logger()

_GRACE_S: Final = 5.0
"""How long a request in hand may take once the worker has drained; a webhook needs 4 s at most."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a worker listens: the URLs of webhook and reads (None when off), and the ops port's."""

    webhook: str | None
    reads: str | None
    ops: str


async def run(
    settings: Settings,
    environ: Mapping[str, str],
    on_started: Callable[[Endpoints], None],
    *,
    consume: bool = True,
) -> None:
    """Work until SIGTERM, SIGINT or a closed terminal.

    What is in hand is settled within the shutdown time-out.
    Without `consume` only reads are served: no group is joined, and no webhook taken.

    Raises `ConfigurationError` and `PermissionRefused`, in a group when tasks run already.
    """
    if not consume:
        settings = _to_read_only(settings)
    notifier = Notifier.from_environment(environ)
    held = socket_activation.take(environ)
    settings = _listening(settings, held)
    ops = held.get("ops") or bind(settings.ops_host, settings.ops_port, name="OPS")
    public = held.get("http")
    if settings.webhook_enabled or settings.reads_enabled:
        public = public or bind(settings.http_host, settings.http_port, name="HTTP")
    elif public:
        raise ConfigurationError(
            "systemd holds the port of webhook and reads, and both are off: set"
            " CHATWOOT_CACHE_WEBHOOK_ENABLED=true or CHATWOOT_CACHE_HTTP_API_KEY, or stop and"
            " disable its .socket unit"
        )
    with anyio.open_signal_receiver(*_ending_signals()) as signals:
        async with _own_servers(settings):
            worker = _Worker(settings, notifier, ops, public, consume=consume)
            try:
                await worker.run(signals, on_started)
            finally:
                await worker.close()


def _listening(settings: Settings, held: Mapping[str, socket.socket]) -> Settings:
    """Return the settings with the addresses of the sockets that we were handed, which decide."""
    update: dict[str, str | int] = {}
    for name, sock in held.items():
        host, port, *_ = sock.getsockname()
        stated = addresses(getattr(settings, f"{name}_host"), getattr(settings, f"{name}_port"))
        if (host, port) not in stated:
            prefix = f"CHATWOOT_CACHE_{name.upper()}"
            log.warning(
                "socket.address_mismatch",
                listening=f"{host} port {port}",
                hint=f"set {prefix}_HOST={host} and {prefix}_PORT={port}: commands go by them",
            )
        update |= {f"{name}_host": host, f"{name}_port": port}
    return settings.model_copy(update=update)


def _to_read_only(settings: Settings) -> Settings:
    if not settings.reads_enabled:
        raise ConfigurationError(
            "--no-consume serves reads only, and nobody has a key for them: set"
            " CHATWOOT_CACHE_HTTP_API_KEY or CHATWOOT_CACHE_HTTP_INSTANCE_KEYS"
        )
    if settings.local_only:
        raise ConfigurationError(
            "--no-consume reads what others cache, and with CACHE_REDIS_ENABLED=false there is"
            " nothing that others could have cached"
        )
    return settings.model_copy(update={"webhook_enabled": False})


def _ending_signals() -> Iterator[signal.Signals]:
    yield from (signal.SIGTERM, signal.SIGINT)
    # Whoever started us under nohup wants us to outlive the terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        yield signal.SIGHUP


@asynccontextmanager
async def _own_servers(settings: Settings) -> AsyncIterator[None]:
    """Run the servers of our own that the settings name, for as long as the block lasts."""
    async with AsyncExitStack() as stack:
        for uri in {u.get_secret_value() for u in settings.uris}:
            if uri.startswith(embedded_server.SCHEME):
                await stack.enter_async_context(
                    embedded_server.running(embedded_server.directory_of(uri))
                )
        yield


class _Worker:
    """Everything one process runs, wired."""

    def __init__(
        self,
        settings: Settings,
        notifier: Notifier,
        ops: socket.socket,
        public: socket.socket | None,
        *,
        consume: bool,
    ) -> None:
        self._settings = settings
        self._notifier = notifier
        self._ops = ops
        self._public = public
        self._clients: list[Client] = []
        self._stop_serving = anyio.Event()
        self._metrics = Metrics(__version__, settings.metrics_max_instances)

        self._tiers = backends.build(settings, self._connect, self._metrics)
        self._reads: ReadsApp | None = None
        self._accounts = AccountClients(settings, timeout_s=settings.read_through_timeout_s)
        if settings.reads_enabled:
            self._reads = ReadsApp(
                _keyring(settings),
                self._tiers.reader,
                self._metrics,
                through=self._build_through() if can_read_through(settings) else None,
            )
        self._upkeep: Maintenance | None = None
        self._consumer: Consumer | NullConsumer
        if consume:
            source = self._tiers.source()
            self._consumer = self._build_consumer(source)
            self._upkeep = Maintenance(source.charges, self._metrics)
        else:
            self._consumer = NullConsumer(self._tiers.reader)
        self._producer = StreamProducer(self._connect(settings.stream_uri), settings.stream_key)
        self._spool = _spool(settings) if settings.webhook_enabled else None
        self._spooling = (
            SpoolRelay(self._spool, self._producer, self._metrics) if self._spool else None
        )
        self._policy = webhook_policy(settings)
        self._health = Health(
            self._consumer,
            AllHealthy(self._producer if consume else self._tiers.reader, *self._tiers.ready),
            closed=self._policy.closed if settings.webhook_enabled else None,
            spool=self._spool,
        )

    def _connect(self, uri: RedisUri, *, block_s: float = 0.0) -> Client:
        client = create_client(uri.get_secret_value(), block_s=block_s)
        self._clients.append(client)
        return client

    def _build_through(self) -> ReadThrough:
        settings = self._settings
        return build_read_through(
            settings,
            self._accounts,
            self._tiers.reader,
            cache=self._connect(settings.cache_uri),
            stream=self._connect(settings.stream_uri),
        )

    def _build_consumer(self, source: EntrySource) -> Consumer:
        settings = self._settings
        directory = InstanceResolver(
            self._tiers.table,
            operator=settings.instances,
            from_inbox_name=settings.instance_from_inbox_name,
            clock=time.monotonic,
        )
        settler = BatchProcessor(
            source.stream,
            self._tiers.cache,
            directory,
            self._metrics,
            max_document_bytes=settings.max_document_bytes,
        )
        return Consumer(
            source.stream,
            settler,
            source.ledger,
            self._metrics,
            ConsumerSettings(
                name=settings.consumer_name,
                max_attempts=settings.stream_max_attempts,
                reclaim_after_s=settings.stream_reclaim_after_s,
            ),
        )

    async def run(
        self, signals: AsyncIterator[signal.Signals], on_started: Callable[[Endpoints], None]
    ) -> None:
        """Serve and consume until a signal, then drain; probes are served until that is done."""
        async with self._spool_open(), anyio.create_task_group() as servers:
            await self._serve(servers)
            async with anyio.create_task_group() as beside:
                beside.start_soon(self._drain_on, signals, servers.cancel_scope)
                beside.start_soon(self._announce, on_started)
                if self._tiers.tracking:
                    beside.start_soon(self._tiers.tracking.run)
                self._start_upkeep(beside)
                await self._consumer.run()
                beside.cancel_scope.cancel()
            self._stop_serving.set()

    async def close(self) -> None:
        """Give every connection back."""
        await self._accounts.close()
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
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        bounds = connection_limit.connection_limits(open_files)
        await self._serve_port(
            servers, "ops", ops_app(self._health, self._metrics), self._ops, PortLimits(bounds.ops)
        )
        if self._public:
            limits = PortLimits(bounds.public)
            await self._serve_port(servers, "http", self._public_app(), self._public, limits)

    async def _serve_port(
        self,
        servers: TaskGroup,
        name: PortName,
        app: ASGIApp,
        sock: socket.socket,
        limits: PortLimits,
    ) -> None:
        await servers.start(
            partial(
                serve,
                app,
                sock,
                ConnectionMonitor(self._metrics, name),
                stop=self._stop_serving,
                grace_s=_GRACE_S,
                limits=limits,
            )
        )

    def _public_app(self) -> ASGIApp:
        settings = self._settings
        webhook = None
        if settings.webhook_enabled:
            webhook = WebhookApp(
                self._policy, self._producer, self._metrics, fallback=self._spooling
            )
        return public_app(webhook, self._reads)

    def _start_upkeep(self, beside: TaskGroup) -> None:
        if self._upkeep:
            beside.start_soon(run_periodically, MEASURE_S, self._upkeep.measure)
            beside.start_soon(run_periodically, MEASURE_S, self._upkeep.trim)
            beside.start_soon(run_periodically, SLOW_INTERVAL_S, self._upkeep.retire)
            beside.start_soon(run_periodically, SLOW_INTERVAL_S, self._upkeep.drop_old_letters)
            beside.start_soon(run_periodically, SLOW_INTERVAL_S, self._upkeep.identify_server)
        if self._tiers.bot_purge and self._upkeep:
            beside.start_soon(purge_twice, self._tiers.bot_purge)
        if self._spooling:
            beside.start_soon(self._spooling.run)
        if self._notifier.alive_every_s:
            beside.start_soon(run_periodically, self._notifier.alive_every_s, self._feed_watchdog)

    async def _feed_watchdog(self) -> None:
        if not self._health.stalled():
            self._notifier.alive()

    async def _announce(self, on_started: Callable[[Endpoints], None]) -> None:
        """Say that we are ready once Redis was tried: a wrong password ends us before that."""
        await self._consumer.started.wait()
        self._notifier.ready()
        settings, public = self._settings, self._public
        url = _url(settings.http_host, public) if public else ""
        webhook = url + PATH.decode() if settings.webhook_enabled else None
        reads = url + ROOT.decode() if settings.reads_enabled else None
        on_started(Endpoints(webhook, reads, ops=_url(settings.ops_host, self._ops)))

    async def _drain_on(
        self, signals: AsyncIterator[signal.Signals], everything: anyio.CancelScope
    ) -> None:
        """Stop reading at the first signal; whatever is not done in time is cancelled."""
        number = await anext(signals)
        log.info("worker.stopping", signal=number.name)
        self._health.draining = True
        self._notifier.stopping()
        self._consumer.stop()
        if self._reads:
            self._reads.drain()
        everything.deadline = anyio.current_time() + self._settings.shutdown_timeout_s


def webhook_policy(settings: Settings) -> WebhookPolicy:
    """Return what the settings say about posting; raises `ConfigurationError`."""
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


def _keyring(settings: Settings) -> ApiKeys:
    api_key = settings.http_api_key
    return ApiKeys(
        api_key.get_secret_value() if api_key else None,
        {
            instance: [key.get_secret_value() for key in keys]
            for instance, keys in settings.http_instance_keys.items()
        },
    )


def _spool(settings: Settings) -> SpoolQueue | None:
    directory = settings.webhook_spool_dir
    if directory is None:
        return None
    place = redis_uri.server(settings.stream_uri.get_secret_value()) or ()
    target = f"{settings.stream_key} on {' '.join(place)}"
    return SpoolQueue(SpoolFile(directory, settings.webhook_spool_max_bytes, target))


def _url(host: str, sock: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{bound_port(sock)}"
