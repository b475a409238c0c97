"""Metrics and log lines about the connections of one port."""

from typing import Final, Literal

import structlog

from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics

PortName = Literal["http", "ops"]

CloseReason = Literal[
    "full", "slow_head", "large_head", "slow_body", "large_trailers", "too_far_ahead"
]
"""Why the server closed a connection: a metric label.

`full`: to make room for another; `too_far_ahead`: too many pipelined requests.
"""

_LOG_EVERY_S: Final = 60.0

_HINTS: Final[dict[CloseReason, str]] = {
    "full": "every connection was in use, and the one that waited longest for a request was"
    " closed; the limit on open files (ulimit -n) bounds how many there are",
    "large_head": "the head of a request was larger than 64 KB or had more than 256 headers",
    "slow_body": "the body of a request did not come in time",
    "large_trailers": "the trailers of a request were larger than 64 KB, or there were too many",
    "too_far_ahead": "a client sent too many requests without waiting for answers",
}
"""What to log; `slow_head` is not logged, since every port scanner causes it."""

log = structlog.get_logger(__name__)


class ConnectionMonitor:
    """Counts open and closed connections, and logs the latter at a limited rate."""

    def __init__(self, metrics: Metrics, port: PortName) -> None:
        self._open = metrics.http_connections.labels(port)
        self._closed = metrics.http_connections_closed
        self._port = port
        self._throttle = LogThrottle(_LOG_EVERY_S)

    def set_open(self, connections: int) -> None:
        """Set how many connections are open."""
        self._open.set(connections)

    def closed(self, reason: CloseReason) -> None:
        """Count a connection that the server closed."""
        self._closed.labels(self._port, reason).inc()
        hint = _HINTS.get(reason)
        suppressed = self._throttle.ready(reason) if hint else None
        if suppressed is not None:
            log.warning(
                "connection.closed",
                port=self._port,
                reason=reason,
                hint=hint,
                suppressed=suppressed,
            )
