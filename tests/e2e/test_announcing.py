"""Notifications to the process manager, probes, and the webhook on a public address."""

import os
import socket
from pathlib import Path

from tests.e2e.place import Place
from tests.e2e.process import Worker, command, running
from tests.events import encode, message


async def test_a_public_webhook_without_secret_rejects_everything(
    place: Place, tmp_path: Path
) -> None:
    """The response and the log name the settings that are missing."""
    async with running(tmp_path, place.settings(HTTP_HOST="0.0.0.0")) as worker:
        answers = [worker.post(encode(message())) for _ in range(5)]

        assert {answer.status_code for answer in answers} == {503}
        assert answers[0].json()["reason"] == "closed"
        ready = worker.ops("/readyz")
        assert ready.status_code == 503
        assert "CHATWOOT_CACHE_WEBHOOK_SECRETS" in ready.json()["reason"]
        assert len(worker.logged("webhook.rejecting_all")) == 1
        assert "CHATWOOT_CACHE_WEBHOOK_TOKEN" in worker.logged("webhook.rejecting_all")[0]["reason"]
        # Entries of the stream are cached nevertheless.
        place.add(message(1))
        await place.settled()
    assert place.document("loja-aurora", "message", 1)


async def test_pm2_and_systemd_are_notified_of_start_and_stop(place: Place, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        theirs.settimeout(10)
        managed = place.settings() | {
            "NODE_CHANNEL_FD": str(ours.fileno()),
            "NODE_CHANNEL_SERIALIZATION_MODE": "json",
            "NODE_APP_INSTANCE": "1",
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
        }
        del managed["CHATWOOT_CACHE_STREAM_CONSUMER"]
        with Worker(tmp_path, managed, pass_fds=(ours.fileno(),)) as worker:
            assert systemd.recv(64) == b"READY=1"
            assert theirs.recv(64) == b'"ready"\n'
            await worker.started()
            assert worker.ops("/readyz").status_code == 200
            place.add(message(1))
            await place.settled()
            consumers = place.redis.xinfo_consumers(place.stream, "chatwoot-cache")
            assert [c["name"].decode() for c in consumers] == [f"{socket.gethostname()}-1"]
            assert await worker.stop() == 0
            assert systemd.recv(64) == b"STOPPING=1"


async def test_a_channel_that_pm2_closed_is_ignored(place: Place, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    settings = place.settings() | {"NODE_CHANNEL_FD": str(writer)}
    with Worker(tmp_path, settings, pass_fds=(writer,)) as worker:
        os.close(writer)
        await worker.started()
        assert worker.ops("/livez").status_code == 200


async def test_healthcheck_asks_the_running_worker(place: Place, tmp_path: Path) -> None:
    async with running(tmp_path, place.settings()) as worker:
        port = worker.logged("worker.started")[0]["ops"].rpartition(":")[2]
        settings = place.settings(OPS_PORT=port)
        alive = command(tmp_path, settings, "healthcheck")
        assert await worker.stop() == 0
        dead = command(tmp_path, settings, "healthcheck")

    assert (alive.returncode, alive.stdout) == (0, b"ok\n")
    assert dead.returncode == 1
    assert dead.stdout.startswith(b"no answer from 127.0.0.1 port ")
