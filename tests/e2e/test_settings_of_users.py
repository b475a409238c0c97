"""Settings of users: beside Evolution's, in files, outdated, or wrong."""

import json
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.e2e.place import Place
from tests.e2e.process import Worker, command, running
from tests.events import message

EVOLUTION: Final = """\
SERVER_NAME=evolution
SERVER_TYPE=http
SERVER_PORT=8080
LOG_LEVEL=ERROR,WARN,DEBUG,INFO,LOG,VERBOSE,DARK,WEBHOOKS,WEBSOCKET
LOG_COLOR=true
LOG_BAILEYS=error
DATABASE_CONNECTION_URI='postgresql://user:pass@postgres:5432/evolution_db?schema=evolution_api'
WEBHOOK_GLOBAL_ENABLED=false
WEBHOOK_GLOBAL_URL=''
WEBHOOK_EVENTS_APPLICATION_STARTUP=false
WEBHOOK_REQUEST_TIMEOUT_MS=60000
PROMETHEUS_METRICS=false
METRICS_AUTH_REQUIRED=true
METRICS_USER=prometheus
METRICS_PASSWORD=secure_random_password_here
METRICS_ALLOWED_IPS=127.0.0.1
CHATWOOT_ENABLED=true
CHATWOOT_MESSAGE_READ=true
CACHE_REDIS_ENABLED=true
CACHE_REDIS_URI={uri}
CACHE_REDIS_TTL=604800
CACHE_REDIS_PREFIX_KEY={prefix}
CACHE_REDIS_SAVE_INSTANCES=false
CACHE_LOCAL_ENABLED=false
AUTHENTICATION_API_KEY=429683C4C977415CAAFCCE10F7D57E11
LANGUAGE=en
"""


async def test_the_env_file_of_evolution_beside_us_is_enough(place: Place, tmp_path: Path) -> None:
    """Its LOG_LEVEL, WEBHOOK_* and METRICS_* are ignored."""
    (tmp_path / ".env").write_text(EVOLUTION.format(uri=place.uri, prefix=place.name))
    ours = place.settings()
    del ours["CACHE_REDIS_URI"], ours["CACHE_REDIS_PREFIX_KEY"]
    async with running(tmp_path, ours) as worker:
        place.add(message(1))
        await place.settled()

        assert place.document("loja-aurora", "message", 1)
        assert [line for line in worker.lines if line["level"] != "info"] == []


async def test_env_yml_of_evolution_1_and_secrets_in_files(place: Place, tmp_path: Path) -> None:
    (tmp_path / "env.yml").write_text(
        json.dumps(
            {
                "LOG": {"LEVEL": ["ERROR", "WARN"], "COLOR": True},
                "CACHE": {
                    "REDIS": {"ENABLED": True, "PREFIX_KEY": place.name, "TTL": 604800},
                    "LOCAL": {"ENABLED": False, "TTL": 86400},
                },
                "CHATWOOT_CACHE": {"INSTANCES": {"3/12": "from-yaml"}},
            }
        )
    )
    (tmp_path / "uri").write_text(place.uri + "\n")
    (tmp_path / "token").write_text("from-a-file\n")
    ours = place.settings(WEBHOOK_TOKEN_FILE="token") | {"CACHE_REDIS_URI_FILE": "uri"}
    del ours["CACHE_REDIS_URI"], ours["CACHE_REDIS_PREFIX_KEY"]
    async with running(tmp_path, ours) as worker:
        body = json.dumps(message(1)).encode()
        assert worker.post(body).status_code == 401
        assert worker.post(body, "?token=from-a-file").status_code == 200
        await place.settled()

    assert place.document("from-yaml", "message", 1)


def refused(place: Place) -> Mapping[str, tuple[dict[str, str], str]]:
    """Wrong settings, and the start of the line that each must print."""
    base = place.settings()
    nowhere = {name: text for name, text in base.items() if name != "CACHE_REDIS_URI"}
    storage = {"REDIS_ENABLED": "true", "REDIS_URI": place.uri, "REDIS_PREFIX_KEY": place.name}
    return {
        "no address": (nowhere, "CACHE_REDIS_URI is not set: set CACHE_REDIS_URI=redis://"),
        "a strange address": (
            base | {"CACHE_REDIS_URI": "http://user:s3cret@host"},
            "CACHE_REDIS_URI=http://user:***@host (environment): must start with redis://",
        ),
        "no number": (
            place.settings(STREAM_BATCH_SIZE="many"),
            "CHATWOOT_CACHE_STREAM_BATCH_SIZE=many (environment): must be a whole number from 1",
        ),
        "out of bounds": (
            base | {"CACHE_REDIS_TTL": "0"},
            "CACHE_REDIS_TTL=0 (environment): must be a whole number from 1 to",
        ),
        "a prefix that widens a SCAN": (
            base | {"CACHE_REDIS_PREFIX_KEY": "evo*"},
            "CACHE_REDIS_PREFIX_KEY=evo* (environment): must not contain any of",
        ),
        "a map that is none": (
            place.settings(INSTANCES="loja-aurora"),
            "CHATWOOT_CACHE_INSTANCES=loja-aurora (environment): must be a map",
        ),
        "secrets that are none": (
            place.settings(WEBHOOK_SECRETS="s3cret"),
            "CHATWOOT_CACHE_WEBHOOK_SECRETS=*** (environment): must be a map of account id",
        ),
        "a file that is not there": (
            place.settings(WEBHOOK_TOKEN_FILE="absent"),
            "CHATWOOT_CACHE_WEBHOOK_TOKEN_FILE=absent (environment): cannot be read",
        ),
        "nothing to cache in": (
            base | {"CACHE_REDIS_ENABLED": "false"},
            "CACHE_REDIS_ENABLED=false with CACHE_LOCAL_ENABLED=false",
        ),
        "the storage that mixes instances": (
            base | storage,
            f"REDIS_PREFIX_KEY={place.name} (environment): Evolution's instance storage must not",
        ),
        "no address of this machine": (
            place.settings(HTTP_HOST="203.0.113.7"),
            "CHATWOOT_CACHE_HTTP_HOST: '203.0.113.7' is no address of this machine",
        ),
    }


def test_a_wrong_setting_is_exit_code_2_and_one_line(place: Place, tmp_path: Path) -> None:
    """The processes run at the same time, to save time."""
    with ExitStack() as stack:
        started = []
        for number, (settings, says) in enumerate(refused(place).values()):
            directory = tmp_path / str(number)
            directory.mkdir()
            started.append((stack.enter_context(Worker(directory, settings)), says))
        for worker, says in started:
            assert worker.process.wait(15) == 2
            (line,) = worker.log.splitlines()
            assert line.startswith(f"chatwoot-cache: {says}")
            assert "s3cret" not in line


def test_a_port_in_use_is_exit_code_2_and_one_line(place: Place, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with Worker(tmp_path, place.settings(OPS_PORT=str(port))) as worker:
            assert worker.process.wait(15) == 2
            (line,) = worker.log.splitlines()

    assert line.startswith(f"chatwoot-cache: CHATWOOT_CACHE_OPS_PORT: port {port} on 127.0.0.1 is ")


def test_a_stream_key_that_holds_something_else_is_named(place: Place, tmp_path: Path) -> None:
    place.redis.set(place.stream, "a string", ex=60)
    with Worker(tmp_path, place.settings()) as worker:
        assert worker.process.wait(15) == 2
        (line,) = worker.log.splitlines()

    assert line.startswith(f"chatwoot-cache: CHATWOOT_CACHE_STREAM_KEY={place.stream} holds somet")


async def test_a_stream_key_that_becomes_something_else_is_named(
    place: Place, tmp_path: Path
) -> None:
    """Another client replaced the stream with SET while the worker ran."""
    with Worker(tmp_path, place.settings()) as worker:
        await worker.started()
        place.redis.set(place.stream, "a string", ex=60)
        assert await worker.ended(within_s=20) == 2
        line = worker.log.splitlines()[-1]

    assert line.startswith(f"chatwoot-cache: CHATWOOT_CACHE_STREAM_KEY={place.stream} holds somet")
    assert "Traceback" not in worker.log


def test_a_command_reports_a_key_of_another_type(place: Place, tmp_path: Path) -> None:
    """Without a traceback."""
    place.redis.lpush(place.key("loja", "message", 1), "a list")
    place.redis.lpush(place.key("loja", "conversation", 1, "messages"), "a list")
    place.redis.expire(place.key("loja", "message", 1), 60)
    for what in ("message", "messages"):
        done = command(tmp_path, place.settings(), "get", "loja", what, "1")

        assert done.returncode in (1, 2)
        assert len(done.stderr.splitlines()) == 1


def test_commands_without_redis_are_exit_code_3(tmp_path: Path) -> None:
    settings = {"CACHE_REDIS_URI": "redis://:s3cret@127.0.0.1:1/0"}
    for arguments in (("get", "loja", "message", "1"), ("publish", "-")):
        done = command(tmp_path, settings, *arguments, stdin=b"{}")

        assert done.returncode == 3
        assert len(done.stderr.splitlines()) == 1
        assert b"s3cret" not in done.stderr
