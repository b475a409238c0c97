"""The composition root: builds all parts, starts the tasks, stops them in order. Read this first.

`consumer.loop` reads entries; `consumer.processor` writes their effect by the rules of `core`
through `store`, and acknowledges them.
"""

import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup
from starlette.types import ASGIApp

from worker import __version__, backends
from worker.backends import EntrySource, PeriodicTask
from worker.chatwoot.account_clients import AccountClients
from worker.chatwoot.read_through import ReadThrough
from worker.consumer.instance_resolver import InstanceResolver
from worker.consumer.loop import Consumer
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
from worker.maintenance.bot_contact_cleanup import clean_up_bot_contact
from worker.ops.health import Health
from worker.ops.metrics import Metrics
from worker.ops.notify import Notifier
from worker.ops.probes import ops_app
from worker.public_app import public_app
from worker.reads.api_keys import ApiKeys
from worker.reads.read_request import ROOT
from worker.reads.reads_api import ReadsApp
from worker.settings import RedisUri, Settings, redis_uri
from worker.store.admin.bot_contact_purge import BotContactPurge
from worker.store.client import Client, create_client
from worker.store.stream.stream_reader import StreamProducer
from worker.web import connection_limit, socket_activation
from worker.web.connection_monitor import ConnectionMonitor, PortName
from worker.web.http_protocol import PortLimits
from worker.web.server import addresses, bind, bound_port, serve

log = structlog.get_logger()

_GRACE_S: Final = 5.0
"""How long a running request may take once the worker has drained; a webhook needs at most 4 s."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The URLs at which a worker listens; None where webhook or reads are off."""

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
    """Run until SIGTERM, SIGINT or a closed terminal, then settle entries in flight in time.

    Without `consume` only reads are served: no group is joined, and no webhook is accepted.

    Raises `ConfigurationError` and `PermissionDenied`, in a group once tasks are running.
    """
    if not consume:
        settings = _to_read_only(settings)
    notifier = Notifier.from_environment(environ)
    sockets = socket_activation.take(environ)
    settings = _with_addresses(settings, sockets)
    ops = sockets.get("ops") or bind(settings.ops_host, settings.ops_port, name="OPS")
    public = sockets.get("http")
    if settings.webhook_enabled or settings.reads_enabled:
        public = public or bind(settings.http_host, settings.http_port, name="HTTP")
    elif public:
        raise ConfigurationError(
            "systemd holds the port of webhook and reads, and both are off: set"
            " CHATWOOT_CACHE_WEBHOOK_ENABLED=true or CHATWOOT_CACHE_HTTP_API_KEY, or stop and"
            " disable its .socket unit"
        )
    with anyio.open_signal_receiver(*_stop_signals()) as signals:
        async with _embedded_servers(settings):
            worker = _Worker(settings, notifier, ops, public, consume=consume)
            try:
                await worker.run(signals, on_started)
            finally:
                await worker.close()


def _with_addresses(settings: Settings, sockets: Mapping[str, socket.socket]) -> Settings:
    """Return the settings with the addresses of inherited sockets, which take precedence."""
    update: dict[str, str | int] = {}
    for name, sock in sockets.items():
        host, port, *_ = sock.getsockname()
        configured = addresses(getattr(settings, f"{name}_host"), getattr(settings, f"{name}_port"))
        if (host, port) not in configured:
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


def _stop_signals() -> Iterator[signal.Signals]:
    yield from (signal.SIGTERM, signal.SIGINT)
    # A worker that was started under nohup outlives its terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        yield signal.SIGHUP


@asynccontextmanager
async def _embedded_servers(settings: Settings) -> AsyncIterator[None]:
    """Run the embedded servers that the settings name."""
    async with AsyncExitStack() as stack:
        for uri in {u.get_secret_value() for u in settings.uris}:
            if uri.startswith(embedded_server.SCHEME):
                await stack.enter_async_context(
                    embedded_server.running(embedded_server.directory_of(uri))
                )
        yield


class _Worker:
    """All parts of one process."""

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
        self._ops_socket = ops
        self._public_socket = public
        self._clients: list[Client] = []
        self._stop_serving = anyio.Event()
        self._metrics = Metrics(__version__, settings.metrics_max_instances)

        self._backends = backends.build(settings, self._connect, self._metrics)
        self._reads: ReadsApp | None = None
        self._accounts = AccountClients(settings, timeout_s=settings.read_through_timeout_s)
        if settings.reads_enabled:
            self._reads = ReadsApp(
                _api_keys(settings),
                self._backends.reader,
                self._metrics,
                through=self._build_read_through() if self._can_read_through() else None,
            )
        self._maintenance: Sequence[PeriodicTask] = ()
        self._consumer: Consumer | NullConsumer
        if consume:
            source = self._backends.source()
            self._consumer = self._build_consumer(source)
            self._maintenance = source.maintenance
        else:
            self._consumer = NullConsumer(self._backends.reader)
        self._producer = StreamProducer(self._connect(settings.stream_uri), settings.stream_key)
        self._spool = _spool(settings) if settings.webhook_enabled else None
        self._relay = (
            SpoolRelay(self._spool, self._producer, self._metrics) if self._spool else None
        )
        self._webhook_policy = webhook_policy(settings)
        self._health = Health(
            self._consumer,
            [self._producer if consume else self._backends.reader, *self._backends.ready],
            rejecting=self._webhook_policy.closed if settings.webhook_enabled else None,
            probe_spool=self._spool.probe if self._spool else None,
        )

    def _connect(self, uri: RedisUri, *, block_s: float = 0.0) -> Client:
        client = create_client(uri.get_secret_value(), block_s=block_s)
        self._clients.append(client)
        return client

    def _can_read_through(self) -> bool:
        return self._accounts.is_configured and not self._settings.local_only

    def _build_read_through(self) -> ReadThrough:
        settings = self._settings
        return ReadThrough(
            settings,
            self._accounts,
            self._backends.reader,
            cache=self._connect(settings.cache_uri),
            stream=self._connect(settings.stream_uri),
        )

    def _build_consumer(self, source: EntrySource) -> Consumer:
        settings = self._settings
        resolver = InstanceResolver(
            self._backends.bindings,
            operator=settings.instances,
            from_inbox_name=settings.instance_from_inbox_name,
            clock=time.monotonic,
        )
        processor = BatchProcessor(
            source.stream,
            self._backends.cache,
            resolver,
            self._metrics,
            max_document_bytes=settings.max_document_bytes,
        )
        return Consumer(
            source.stream,
            processor,
            self._metrics,
            name=settings.consumer_name,
            max_attempts=settings.stream_max_attempts,
            reclaim_after_s=settings.stream_reclaim_after_s,
        )

    async def run(
        self, signals: AsyncIterator[signal.Signals], on_started: Callable[[Endpoints], None]
    ) -> None:
        """Serve and consume until a signal, then drain; probes are answered until the end."""
        async with self._open_spool(), anyio.create_task_group() as servers:
            await self._serve(servers)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._drain_on, signals, servers.cancel_scope)
                tasks.start_soon(self._announce, on_started)
                if self._backends.tracking:
                    tasks.start_soon(self._backends.tracking.run)
                self._start_timers(tasks)
                await self._consumer.run()
                tasks.cancel_scope.cancel()
            self._stop_serving.set()

    async def close(self) -> None:
        """Close every connection."""
        await self._accounts.close()
        for client in self._clients:
            await client.aclose()

    @asynccontextmanager
    async def _open_spool(self) -> AsyncIterator[None]:
        """Keep the spool open, if there is one."""
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
        probes = ops_app(self._health, self._metrics)
        await self._serve_port(servers, "ops", probes, self._ops_socket, PortLimits(bounds.ops))
        if self._public_socket:
            limits = PortLimits(bounds.public)
            await self._serve_port(servers, "http", self._public_app(), self._public_socket, limits)

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
                self._webhook_policy, self._producer, self._metrics, fallback=self._relay
            )
        return public_app(webhook, self._reads)

    def _start_timers(self, tasks: TaskGroup) -> None:
        for period_s, task in self._maintenance:
            tasks.start_soon(run_periodically, period_s, task)
        if self._backends.bot_purge and self._maintenance:
            tasks.start_soon(self._purge_bot_contact, self._backends.bot_purge)
        if self._relay:
            tasks.start_soon(self._relay.run)
        if self._notifier.alive_every_s:
            tasks.start_soon(run_periodically, self._notifier.alive_every_s, self._feed_watchdog)

    async def _purge_bot_contact(self, purge: BotContactPurge) -> None:
        # Not earlier: a wrong password ends the worker first, with one line.
        await self._consumer.started.wait()
        await clean_up_bot_contact(purge)

    async def _feed_watchdog(self) -> None:
        if not self._health.stalled():
            self._notifier.alive()

    async def _announce(self, on_started: Callable[[Endpoints], None]) -> None:
        """Report readiness after the first attempt on Redis, which ends the worker if refused."""
        await self._consumer.started.wait()
        self._notifier.ready()
        settings, public = self._settings, self._public_socket
        url = _url(settings.http_host, public) if public else ""
        webhook = url + PATH.decode() if settings.webhook_enabled else None
        reads = url + ROOT.decode() if settings.reads_enabled else None
        on_started(Endpoints(webhook, reads, ops=_url(settings.ops_host, self._ops_socket)))

    async def _drain_on(
        self, signals: AsyncIterator[signal.Signals], everything: anyio.CancelScope
    ) -> None:
        """Stop consuming at the first signal; cancel what is not done within the time-out."""
        number = await anext(signals)
        log.info("worker.stopping", signal=number.name)
        self._health.draining = True
        self._notifier.stopping()
        self._consumer.stop()
        if self._reads:
            self._reads.drain()
        everything.deadline = anyio.current_time() + self._settings.shutdown_timeout_s


def webhook_policy(settings: Settings) -> WebhookPolicy:
    """Return who may post webhooks by the settings; raises `ConfigurationError`."""
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


def _api_keys(settings: Settings) -> ApiKeys:
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
