"""Least rights, granted by a real server: a role's commands pass, and foreign keys are refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis

from tests import events
from tests.cli.conftest import Program
from tests.core.glob import matches
from tests.e2e.place import Place
from tests.e2e.process import command, running
from tests.servers import Server
from tests.waiting import wait_until
from worker.core.cache_keys import CacheKeys
from worker.core.operations.acl_rules import rules
from worker.errors import PermissionDenied
from worker.store.cache.document_reader import DocumentReader
from worker.store.cache.scriptless_reader import ScriptlessReader
from worker.store.client import create_client

PREFIX = "São João"
STREAM = "my [events] *"
PASSWORD = "p"


@pytest.fixture(scope="module")
def server(server_binary: Path) -> Iterator[Server]:
    """A server of this module's own: its users are the test's."""
    with Server(server_binary) as made:
        yield made


@pytest.fixture
def place(server: Server) -> Iterator[Place]:
    """Names with spaces and glob characters, as the operator may choose them."""
    found = Place(server.uri, PREFIX)
    found.stream = STREAM
    with found.redis:
        found.redis.delete(*(found.redis.keys() or [b"none"]))
        yield found


def grant(server: Server, line: str) -> str:
    """Apply a line that `acl` printed, with a password; returns the URI of that user."""
    kind, user, *granted = line.split(" ")
    assert kind == "user"
    with redis.Redis.from_url(server.uri) as admin:
        admin.execute_command("ACL", "SETUSER", user, "reset", *granted, f">{PASSWORD}")
    return server.uri.replace("redis://", f"redis://{quote(user)}:{PASSWORD}@")


def settings(place: Place, uri: str) -> dict[str, str]:
    return place.settings() | {
        "CACHE_REDIS_URI": uri,
        "CHATWOOT_CACHE_STREAM_RECLAIM_AFTER_S": "0.3",
        "CHATWOOT_CACHE_STREAM_KEY": STREAM,
    }


@pytest.fixture
def granted(server: Server, place: Place, program: Program, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Grant what `acl` prints; gives the user's URI."""
    monkeypatch.setenv("CACHE_REDIS_URI", server.uri)
    monkeypatch.setenv("CACHE_REDIS_PREFIX_KEY", place.name)
    monkeypatch.setenv("CHATWOOT_CACHE_STREAM_KEY", STREAM)

    async def apply(*arguments: str) -> str:
        done = await program("acl", *arguments)
        assert (done.code, done.err) == (0, "")
        return grant(server, done.out.rstrip("\n"))

    return apply


async def test_a_worker_does_all_its_work_with_its_rights(
    place: Place, granted: Any, tmp_path: Path
) -> None:
    """Webhook, claims, merges, conflicts, dead letters, a lost worker's entries, figures."""
    uri = await granted("worker")
    place.redis.xgroup_create(STREAM, "chatwoot-cache", "0", mkstream=True)
    place.add(events.message(1, source_id="WAID:1"))
    place.redis.xreadgroup("chatwoot-cache", "lost", {STREAM: ">"})
    async with running(tmp_path, settings(place, uri)) as worker:
        assert worker.post(events.encode(events.message(2))).status_code == 200
        place.add(events.message(2, status="read", source_id="WAID:2", at=1_790_863_200.0))
        place.add(events.message(3, inbox_id=13))
        place.add(events.message(4, inbox_id=14, channel="Channel::Email"), instance=b"a b")
        place.add(b"no json")
        await place.settled()
        await wait_until(
            lambda: worker.metric("stream_length") == 6, "it has measured", timeout_s=15
        )

        assert worker.metric("redis_up") == 1
        assert worker.ops("/readyz").status_code == 200
        assert "NOPERM" not in worker.log
        assert "maintenance.failed" not in worker.log
    assert place.document("loja-aurora", "message", 1)
    assert place.reasons() == ["instance_conflict", "bad_json"]


async def test_a_worker_brings_its_spool_back_with_its_rights(
    place: Place, granted: Any, tmp_path: Path
) -> None:
    """The record of a spool is a key beside the stream, of which others are not ours."""
    uri = await granted("worker")
    spooling = {"CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR": str(tmp_path / "spool")}
    async with running(tmp_path, settings(place, uri) | spooling) as worker:
        place.redis.config_set("maxmemory", "1")
        assert worker.post(events.encode(events.message(1))).status_code == 200
        assert place.length() == 0
        place.redis.config_set("maxmemory", "0")
        await wait_until(lambda: place.length() == 1, "it comes to the stream", timeout_s=10)
        assert "NOPERM" not in worker.log
    (record,) = place.redis.scan_iter("*:spool:*")
    assert record.startswith(f"{STREAM}:spool:".encode())
    with redis.Redis.from_url(uri) as user, pytest.raises(redis.exceptions.NoPermissionError):
        user.set("my x *:spool:y", "")


async def test_the_operator_does_all_of_theirs(
    place: Place,
    granted: Any,
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    worker, operator = await granted("worker"), await granted("operator")
    async with running(tmp_path, settings(place, worker)):
        place.add(events.message(1), events.message(2, inbox_id=13))
        await place.settled()
    monkeypatch.setenv("CACHE_REDIS_URI", operator)
    for arguments in (
        "bindings set 3/12 nova",
        "bindings list",
        "dead list",
        "dead replay",
        "dead purge --yes",
        "audit",
        "purge nova --contact 551 --everywhere --yes",
        "purge nova --yes",
        "bindings drop 3/12",
    ):
        done = await program(*arguments.split())
        assert (done.code, done.err) == (0, ""), arguments
    assert (await program("get", "nova", "message", "1")).code == 1


async def test_a_worker_reads_from_memory_with_its_rights(
    place: Place, granted: Any, tmp_path: Path
) -> None:
    """The local tier needs a channel, too."""
    uri = await granted("worker")
    ours = {"CACHE_LOCAL_ENABLED": "true", "CHATWOOT_CACHE_HTTP_API_KEY": "key"}
    async with running(tmp_path, settings(place, uri) | ours) as worker:
        place.add(events.message(1))
        await place.settled()
        (started,) = worker.logged("worker.started")
        url = f"{started['reads']}loja-aurora/conversations/1584/messages"

        async def is_from_memory() -> bool:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(url, headers={"apikey": "key"})
            assert answer.status_code == 200
            return worker.metric("reads_total", tier="local") > 0

        await wait_until(is_from_memory, "memory answers")


async def test_a_producer_may_add_and_nothing_else(
    place: Place, granted: Any, tmp_path: Path
) -> None:
    uri = await granted("producer")
    sample = events.PAYLOADS / "evolution" / "01_message_created_incoming_text.json"
    done = command(tmp_path, settings(place, uri), "publish", str(sample))
    assert done.returncode == 0, done.stderr

    with redis.Redis.from_url(uri) as user:
        for refused in (
            ("XADD", f"{STREAM}:dead", "*", "a", "b"),
            ("XADD", "my x *", "*", "a", "b"),
            ("XRANGE", STREAM, "-", "+"),
            ("XLEN", STREAM),
            ("GET", place.key("loja", "message", 1)),
            ("DEL", STREAM),
            ("FLUSHALL",),
            ("KEYS", "*"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                user.execute_command(*refused)


NEIGHBOURS = ("a b", "a  b", "aéb", "a!b", "a\u00a0b", "a", "a b:c", "a b*", "A b", "a-b", "a%20b")


async def reads(uri: str, instance: str) -> bool:
    async with create_client(uri) as client:
        reader = DocumentReader(ScriptlessReader(client, PREFIX), PREFIX)
        try:
            return await reader.of(instance).message(1) is not None
        except PermissionDenied:
            return False


async def test_a_reader_reads_its_own_instance_and_no_other(
    server: Server, place: Place, granted: Any, tmp_path: Path
) -> None:
    """Whatever the names are: a rule can hold no space, and a class of one byte stands for it."""
    keys = CacheKeys(PREFIX)
    async with running(tmp_path, settings(place, server.uri)):
        for number, name in enumerate(NEIGHBOURS, 1):
            place.add(events.message(1, inbox_id=number, inbox_name=name))
        await place.settled()
    for mine in NEIGHBOURS:
        uri = await granted("reader", mine)
        assert [name for name in NEIGHBOURS if await reads(uri, name)] == [mine]
        with redis.Redis.from_url(uri) as user:
            for refused in (
                ("SET", keys.message(mine, 1), "x"),
                ("HGETALL", keys.accounts),
                ("HGET", keys.bindings, "3/1"),
                ("XRANGE", STREAM, "-", "+"),
                ("SCAN", "0"),
                ("EVAL", "return 1", "0"),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    user.execute_command(*refused)
    done = command(tmp_path, settings(place, uri), "get", NEIGHBOURS[-1], "messages", "1584")
    assert done.returncode == 0, done.stderr


def test_the_class_that_stands_for_a_space_stands_for_nothing_else() -> None:
    """By the server's glob, over every character a key can hold."""
    granted = rules("reader", prefix="p", stream="s", instance="a b")
    (pattern, *_) = (rule[1:].encode() for rule in granted if rule.startswith("~"))
    keys = CacheKeys("p")

    assert matches(pattern, keys.message("a b", 1).encode())
    for code in [*range(0x3000), *range(0x1F300, 0x1F700), 0xFFFD, 0x10FFFF]:
        if code != 0x20:
            assert not matches(pattern, keys.message(f"a{chr(code)}b", 1).encode()), hex(code)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reader"], "acl reader needs an instance"),
        (["worker", "loja"], "only a reader has an instance"),
        (["worker", "--user", "a b"], "without spaces"),
    ],
)
async def test_wrong_use_is_told(program: Program, arguments: list[str], said: str) -> None:
    done = await program("acl", *arguments)

    assert done.code == 2
    assert said in done.err


async def test_the_lines_are_for_an_acl_file(program: Program) -> None:
    done = await program("acl")
    users = [line.split(" ")[:3] for line in done.out.splitlines()]

    assert users == [
        ["user", f"chatwoot-cache-{r}", "on"] for r in ("worker", "producer", "operator")
    ]
    assert "nopass" not in done.out
    (row,) = (await program("acl", "producer", "--user", "x", "--json")).rows
    assert row["user"] == "x"
    assert "+xadd" in row["rules"]
