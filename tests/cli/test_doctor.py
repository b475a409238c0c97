"""The doctor names what is wrong, says what to do, and ends with a code that tells."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.servers import Server, free_port
from tests.waiting import wait_until
from worker.__main__ import main
from worker.ingest.spool.spool_database import NAME
from worker.ingest.spool.spool_file import SpoolFile

GROUP = "chatwoot-cache"

Findings = dict[str, dict[str, Any]]
Doctor = Callable[..., tuple[int, Findings]]


@pytest.fixture
def settings(redis_uri: str, prefix: str) -> dict[str, str]:
    return {
        "CACHE_REDIS_URI": redis_uri,
        "CACHE_REDIS_PREFIX_KEY": prefix,
        "CHATWOOT_CACHE_STREAM_KEY": f"{prefix}-events",
        "CHATWOOT_CACHE_STREAM_BLOCK_S": "0.02",
        # Where no worker is that others started.
        "CHATWOOT_CACHE_OPS_PORT": str(free_port()),
    }


@pytest.fixture
def doctor(
    settings: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Doctor:
    """Run it with the settings; gives the exit code and the findings by check."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def run(**more: str) -> tuple[int, Findings]:
        for name, text in (settings | more).items():
            monkeypatch.setenv(name, text)
        code = main(["doctor", "--json"])
        return code, {row["check"]: row for row in json.loads(capsys.readouterr().out)}

    return run


@pytest.fixture
def raw(settings: dict[str, str]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings["CACHE_REDIS_URI"]) as client:
        yield client


@pytest.fixture(scope="module")
def server(server_binary: Path) -> Iterator[Server]:
    """A server that these tests may set up as they like, one after the other."""
    with Server(server_binary) as found:
        yield found


@contextmanager
def configured(server: Server, **options: str) -> Iterator[redis.Redis]:
    """Change options of the server for a while."""
    names = {name.replace("_", "-"): text for name, text in options.items()}
    with redis.Redis.from_url(server.uri) as client:
        before: Any = {name: client.config_get(name) for name in names}
        for name, text in names.items():
            client.config_set(name, text)
        try:
            yield client
        finally:
            for name in names:
                client.config_set(name, before[name][name])


def levels(findings: Mapping[str, Mapping[str, str]]) -> set[str]:
    return {finding["level"] for finding in findings.values()}


def test_a_fresh_installation_has_no_problem(doctor: Doctor) -> None:
    code, found = doctor()

    assert code == 0
    assert "problem" not in levels(found)
    assert list(found)[:5] == ["settings", "webhook", "arriving", "spool", "reachable"]
    assert [
        name for name, row in found.items() if row["level"] == "warning" and not row["advice"]
    ] == []


@pytest.mark.parametrize("limit", ["0", str(1 << 30)])
def test_a_policy_that_may_evict_the_stream_is_a_problem(
    doctor: Doctor, server: Server, limit: str
) -> None:
    with configured(server, maxmemory=limit, maxmemory_policy="allkeys-lfu"):
        code, found = doctor(CACHE_REDIS_URI=server.uri)

    assert code == 1
    assert found["memory"]["level"] == "problem"
    assert "allkeys-lfu" in found["memory"]["says"]
    assert "volatile-lru" in found["memory"]["advice"]


def test_a_policy_that_evicts_documents_only_is_fine(doctor: Doctor, server: Server) -> None:
    with configured(server, maxmemory=str(1 << 30), maxmemory_policy="volatile-lru"):
        code, found = doctor(CACHE_REDIS_URI=server.uri)

    assert (code, found["memory"]["level"]) == (0, "ok")


def test_a_server_that_is_nearly_full_is_told(doctor: Doctor, server: Server) -> None:
    with redis.Redis.from_url(server.uri) as client:
        used: Any = client.info("memory")
    with configured(server, maxmemory=str(int(used["used_memory"] * 1.03))):
        _, found = doctor(CACHE_REDIS_URI=server.uri)

    assert found["memory"]["level"] == "warning"


def test_what_a_crash_costs_is_told(doctor: Doctor, server: Server) -> None:
    said = []
    for options in (
        {"appendonly": "no", "save": ""},
        {"appendonly": "no", "save": "60 1000"},
        {"appendonly": "yes", "appendfsync": "no"},
        {"appendonly": "yes", "appendfsync": "everysec"},
        {"appendonly": "yes", "appendfsync": "always"},
    ):
        with configured(server, **options):
            _, found = doctor(CACHE_REDIS_URI=server.uri)
            said.append((found["persistence"]["level"], found["persistence"]["says"]))

    assert [level for level, _ in said] == ["warning", "warning", "warning", "ok", "ok"]
    assert "everything" in said[0][1]
    assert "last snapshot" in said[1][1]
    assert "last second" in said[3][1]


def test_a_replica_takes_no_writes(doctor: Doctor, server: Server) -> None:
    with redis.Redis.from_url(server.uri) as client:
        client.replicaof("127.0.0.1", 1)
        try:
            code, found = doctor(CACHE_REDIS_URI=server.uri)
        finally:
            client.replicaof("NO", "ONE")

    assert (code, found["role"]["level"]) == (1, "problem")
    assert "127.0.0.1:1" in found["role"]["advice"]


RIGHTS = {
    "xadd": "stream rights",
    "xack": "stream rights",
    "xreadgroup": "stream rights",
    "xclaim": "stream rights",
    "evalsha": "stream rights",
    "xinfo": "stream rights",
    "get": "cache rights",
    "hset": "cache rights",
    "zadd": "cache rights",
    "hvals": "cache rights",
    "del": "stream rights",
    "client|tracking": "cache rights",
    "subscribe": "cache rights",
}


def test_each_right_that_is_missing_is_named(doctor: Doctor, server: Server) -> None:
    with redis.Redis.from_url(server.uri) as client:
        for right in RIGHTS:
            client.execute_command(f"ACL SETUSER one on >s3cret ~* +@all -{right}")
            code, found = doctor(
                CACHE_REDIS_URI=server.uri.replace("//", "//one:s3cret@"),
                CACHE_LOCAL_ENABLED="true",
            )

            finding = found[RIGHTS[right]]
            assert (code, finding["level"]) == (1, "problem"), right
            assert right.upper().replace("|", " ") in finding["says"]
            assert f"+{right}" in finding["advice"].replace("xinfo|stream", "xinfo")
            assert "s3cret" not in json.dumps(found)


def test_keys_that_are_out_of_reach_are_named(doctor: Doctor, server: Server) -> None:
    """All commands, on other keys than ours."""
    with redis.Redis.from_url(server.uri) as client:
        client.execute_command("ACL SETUSER other on >s3cret resetkeys ~other:* +@all")
        code, found = doctor(CACHE_REDIS_URI=server.uri.replace("//", "//other:s3cret@"))

    assert code == 1
    assert {found["stream rights"]["level"], found["cache rights"]["level"]} == {"problem"}


def test_the_group_s_own_keys_are_among_those_tried(
    doctor: Doctor, server: Server, prefix: str, stream: str
) -> None:
    """Without them the worker has no lease, and forgets how far the group is settled."""
    with redis.Redis.from_url(server.uri) as client:
        client.execute_command(
            f"ACL SETUSER near on >s3cret resetkeys ~{stream} ~{stream}:dead ~{prefix}:* +@all"
        )
        code, found = doctor(CACHE_REDIS_URI=server.uri.replace("//", "//near:s3cret@"))

    assert (code, found["stream rights"]["level"]) == (1, "problem")
    assert found["cache rights"]["level"] == "ok"


def test_a_channel_that_is_out_of_reach_is_named(doctor: Doctor, server: Server) -> None:
    with redis.Redis.from_url(server.uri) as client:
        client.execute_command("ACL SETUSER deaf on >s3cret ~* resetchannels +@all")
        uri = server.uri.replace("//", "//deaf:s3cret@")
        code, found = doctor(CACHE_REDIS_URI=uri, CACHE_LOCAL_ENABLED="true")

    assert (code, found["cache rights"]["level"]) == (1, "problem")
    assert "+subscribe &__redis__:invalidate" in found["cache rights"]["advice"]


def test_what_a_user_may_not_ask_is_unknown_and_no_problem(doctor: Doctor, server: Server) -> None:
    with redis.Redis.from_url(server.uri) as client:
        client.execute_command("ACL SETUSER few on >s3cret ~* +@all -info -config -xread -scan")
        code, found = doctor(CACHE_REDIS_URI=server.uri.replace("//", "//few:s3cret@"))

    unknown = {name for name, row in found.items() if row["level"] == "unknown"}
    assert code == 0
    assert {"memory", "role", "persistence", "waiting", "prefix"} <= unknown
    assert found["version"]["says"].startswith("a server that does not say its version")


def test_what_the_server_lacks_is_named(doctor: Doctor, server_binary: Path) -> None:
    """Tried, since versions say little about forks, proxies and what providers switch off."""
    with Server(server_binary, "--rename-command", "EVALSHA", "") as lacking:
        code, found = doctor(CACHE_REDIS_URI=lacking.uri)

    assert (code, found["version"]["level"]) == (1, "problem")
    assert "lacks EVALSHA" in found["version"]["says"]


def test_a_cluster_is_not_supported_and_said_not_to_be(doctor: Doctor, server_binary: Path) -> None:
    clustered = Server(server_binary, "--cluster-enabled", "yes")
    # Its second port is 10000 higher.
    while clustered.port > 50_000:
        clustered.port = free_port()
    with clustered:
        code, found = doctor(CACHE_REDIS_URI=clustered.uri)

    assert (code, found["role"]["level"]) == (1, "problem")
    assert "Redis Cluster" in found["role"]["says"]


async def test_a_disk_that_failed_the_server_is_a_problem(
    doctor: Doctor, server_binary: Path
) -> None:
    with Server(server_binary) as failing, redis.Redis.from_url(failing.uri) as client:
        client.set("key", "value")
        (failing.directory / "dump.rdb").mkdir()
        client.bgsave()

        def has_failed() -> bool:
            info: Any = client.info("persistence")
            return bool(info["rdb_last_bgsave_status"] == "err")

        await wait_until(has_failed, "the snapshot failed")
        code, found = await _in_thread(lambda: doctor(CACHE_REDIS_URI=failing.uri))

    assert (code, found["persistence"]["level"]) == (1, "problem")
    assert "rdb_last_bgsave_status" in found["persistence"]["says"]


def test_a_wrong_password_is_a_problem_of_settings(doctor: Doctor, server: Server) -> None:
    code, found = doctor(CACHE_REDIS_URI=server.uri.replace("//", "//nobody:s3cret@"))

    assert (code, found["reachable"]["level"]) == (1, "problem")
    assert "password" in found["reachable"]["says"]
    assert "s3cret" not in json.dumps(found)


async def test_a_read_that_is_cut_off_is_noticed(doctor: Doctor, server: Server) -> None:
    """As a proxy does that closes what it takes for idle."""
    over = threading.Event()

    def cut() -> None:
        with redis.Redis.from_url(server.uri) as client:
            while not over.wait(0.05):
                rows: Any = client.client_list()
                for row in rows:
                    if row["cmd"] == "xread":
                        client.client_kill_filter(_id=row["id"])

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        code, found = await _in_thread(
            lambda: doctor(CACHE_REDIS_URI=server.uri, CHATWOOT_CACHE_STREAM_BLOCK_S="9")
        )
    finally:
        over.set()
        cutter.join()

    assert (code, found["waiting"]["level"]) == (1, "problem")
    assert "STREAM_BLOCK_S" in found["waiting"]["advice"]
    assert "prefix" in found


async def _in_thread(work: Callable[[], Any]) -> Any:
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    await wait_until(lambda: not thread.is_alive(), "the doctor is done", timeout_s=20)
    return done[0]


@pytest.mark.parametrize("in_container", [True, False])
def test_a_server_that_is_away_is_told_with_what_could_be_looked_at(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, *, in_container: bool
) -> None:
    if in_container:
        monkeypatch.setenv("container", "podman")
    code, found = doctor(CACHE_REDIS_URI=f"redis://:s3cret@localhost:{free_port()}/0")

    assert code == 3
    assert list(found) == ["settings", "webhook", "arriving", "spool", "reachable"]
    assert found["reachable"]["level"] == "problem"
    assert "s3cret" not in json.dumps(found)
    if in_container:
        assert "inside a container localhost is the container" in found["reachable"]["advice"]


def test_a_server_of_our_own_that_is_not_started_is_told_with_what_starts_it(
    doctor: Doctor, tmp_path: Path
) -> None:
    code, found = doctor(CACHE_REDIS_URI=f"embedded://{tmp_path / 'none'}")

    assert code == 3
    assert "start `chatwoot-cache run`" in found["reachable"]["says"]
    assert "host and port" not in found["reachable"]["advice"]


def test_localhost_in_a_container_is_fine_where_it_answers(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers of one pod share it."""
    monkeypatch.setenv("container", "podman")
    code, found = doctor()

    assert (code, found["reachable"]["level"]) == (0, "ok")
    assert found["webhook"]["level"] == "warning"
    assert "HTTP_HOST=0.0.0.0" in found["webhook"]["advice"]


def test_two_servers_are_looked_at_one_by_one(doctor: Doctor, server: Server) -> None:
    code, found = doctor(CHATWOOT_CACHE_STREAM_REDIS_URI=server.uri)

    assert code == 0
    assert {"stream: memory", "cache: memory", "stream: group", "cache: prefix"} <= found.keys()
    assert "cache: group" not in found


@pytest.fixture
def stream(settings: dict[str, str]) -> str:
    return settings["CHATWOOT_CACHE_STREAM_KEY"]


def test_a_stream_that_nobody_reads_is_a_problem(
    doctor: Doctor, raw: redis.Redis, stream: str
) -> None:
    raw.xadd(stream, {"payload": "{}"})
    code, found = doctor()
    assert (code, found["group"]["level"]) == (0, "warning")

    raw.xgroup_create(stream, GROUP, "0")
    code, found = doctor()
    assert (code, found["group"]["level"]) == (1, "problem")
    assert "nobody reads" in found["group"]["says"]

    raw.xreadgroup(GROUP, "worker", {stream: ">"})
    code, found = doctor()
    assert (code, found["group"]["level"]) == (0, "ok")
    assert "1 pending, 1 of 1 consumers active" in found["group"]["says"]


def test_an_entry_that_has_been_pending_for_long_is_told(
    doctor: Doctor, raw: redis.Redis, stream: str
) -> None:
    raw.xadd(stream, {"payload": "{}"}, id="1000-1")
    raw.xgroup_create(stream, GROUP, "0")
    raw.xreadgroup(GROUP, "worker", {stream: ">"})
    _, found = doctor()

    assert found["group"]["level"] == "warning"
    assert "an entry has been pending for" in found["group"]["says"]


def test_a_group_that_has_read_all_needs_no_reader(
    doctor: Doctor, raw: redis.Redis, stream: str
) -> None:
    raw.xadd(stream, {"payload": "{}"})
    raw.xgroup_create(stream, GROUP, "$")
    code, found = doctor()

    assert (code, found["group"]["level"]) == (0, "ok")


@pytest.mark.parametrize("read_before", [0, 4])
def test_what_was_trimmed_unread_is_counted(
    doctor: Doctor, raw: redis.Redis, stream: str, read_before: int
) -> None:
    for _ in range(10):
        raw.xadd(stream, {"payload": "{}"})
    raw.xgroup_create(stream, GROUP, "0")
    if read_before:
        rows: Any = raw.xreadgroup(GROUP, "worker", {stream: ">"}, count=read_before)
        raw.xack(stream, GROUP, *(entry_id for entry_id, _ in rows[0][1]))
    raw.xtrim(stream, maxlen=3, approximate=False)
    _, found = doctor()

    info: Any = raw.xinfo_stream(stream)
    if "entries-added" in info:
        assert found["trimming"]["level"] == "problem"
        assert f"at least {7 - read_before} entries" in found["trimming"]["says"]
        assert "MAXLEN" in found["trimming"]["advice"]
    else:
        assert found["trimming"]["level"] == "unknown"


def test_what_was_trimmed_while_pending_is_counted(
    doctor: Doctor, raw: redis.Redis, stream: str
) -> None:
    for _ in range(5):
        raw.xadd(stream, {"payload": "{}"})
    raw.xgroup_create(stream, GROUP, "0")
    raw.xreadgroup(GROUP, "worker", {stream: ">"})
    raw.xtrim(stream, maxlen=2, approximate=False)
    code, found = doctor()

    assert (code, found["trimming"]["level"]) == (1, "problem")
    assert found["trimming"]["says"].startswith("3 entries were trimmed before they were ack")


@pytest.mark.parametrize("has_read", [True, False])
def test_a_group_that_holds_entries_back_is_named(
    doctor: Doctor, raw: redis.Redis, stream: str, *, has_read: bool
) -> None:
    raw.xadd(stream, {"payload": "{}"}, id="1000-1")
    for name in (GROUP, "audit trail"):
        raw.xgroup_create(stream, name, "0")
    rows: Any = raw.xreadgroup(GROUP, "worker", {stream: ">"})
    raw.xack(stream, GROUP, rows[0][1][0][0])
    if has_read:
        raw.xreadgroup("audit trail", "somebody", {stream: ">"})
    _, found = doctor()

    assert found["other groups"]["level"] == "warning"
    assert "'audit trail'" in found["other groups"]["says"]
    assert found["group"]["level"] == "ok"


def test_a_key_that_holds_no_stream_is_a_problem(
    doctor: Doctor, raw: redis.Redis, stream: str
) -> None:
    raw.set(stream, "a text")
    code, found = doctor()

    assert (code, found["group"]["level"]) == (1, "problem")
    assert found["group"]["says"].startswith(f"CHATWOOT_CACHE_STREAM_KEY={stream} holds something")


def test_dead_letters_are_told_by_reason(doctor: Doctor, raw: redis.Redis, stream: str) -> None:
    for reason in ("bad_json", "instance_conflict", "bad_json"):
        raw.xadd(f"{stream}:dead", {"_reason": reason, "payload": "secret text"})
    _, found = doctor()

    assert found["dead letters"]["level"] == "warning"
    assert found["dead letters"]["says"] == "3: bad_json 2, instance_conflict 1"
    assert "CACHE_REDIS_PREFIX_KEY" in found["dead letters"]["advice"]
    assert "secret text" not in json.dumps(found)


def test_who_else_writes_under_the_prefix_is_told(
    doctor: Doctor, raw: redis.Redis, prefix: str
) -> None:
    raw.set(f"{prefix}:instance:loja", "Evolution's own", ex=60)
    raw.set(f"{prefix}:chatwoot:loja:message:1", "{}", ex=60)
    raw.hset(f"{prefix}:chatwoot:%bindings", "3/12", "loja")
    code, found = doctor()
    assert (code, found["prefix"]["level"]) == (0, "ok")
    assert "for instance, which is harmless" in found["prefix"]["says"]

    raw.set(f"{prefix}:chatwoot:loja:surprise", "?", ex=60)
    code, found = doctor()
    assert (code, found["prefix"]["level"]) == (1, "problem")
    assert f"'{prefix}:chatwoot:loja:surprise'" in found["prefix"]["says"]


def test_a_webhook_that_refuses_everything_is_a_problem(doctor: Doctor) -> None:
    code, found = doctor(CHATWOOT_CACHE_HTTP_HOST="0.0.0.0")
    assert (code, found["webhook"]["level"]) == (1, "problem")

    code, found = doctor(CHATWOOT_CACHE_WEBHOOK_TOKEN="t0ken")
    assert (code, found["webhook"]["level"]) == (0, "ok")
    assert "t0ken" not in json.dumps(found)

    code, found = doctor(CHATWOOT_CACHE_WEBHOOK_ENABLED="false")
    assert (code, found["webhook"]["level"]) == (0, "ok")


SPOOL = "CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR"


def test_the_spool_is_looked_at(doctor: Doctor, tmp_path: Path) -> None:
    _, found = doctor()
    assert found["spool"]["level"] == "warning"
    assert SPOOL in found["spool"]["advice"]

    code, found = doctor(**{SPOOL: str(tmp_path / "not" / "there" / "yet")})
    assert (code, found["spool"]["level"]) == (0, "ok")
    assert not (tmp_path / "not").exists()

    (tmp_path / "file").write_bytes(b"")
    code, found = doctor(**{SPOOL: str(tmp_path / "file" / "spool")})
    assert (code, found["spool"]["level"]) == (1, "problem")
    assert "Not a directory" in found["spool"]["says"]

    (tmp_path / NAME).write_bytes(b"the minutes of a meeting " * 99)
    code, found = doctor(**{SPOOL: str(tmp_path)})
    assert (code, found["spool"]["level"]) == (1, "problem")
    assert "move it away" in found["spool"]["advice"]


def test_webhooks_that_wait_and_a_disk_that_is_too_small_are_told(
    doctor: Doctor, tmp_path: Path
) -> None:
    file = SpoolFile(tmp_path, 1 << 20, "events")
    file.open()
    file.append([b"1", b"2"])
    least = {"CHATWOOT_CACHE_WEBHOOK_SPOOL_MAX_BYTES": str(1 << 20)}
    _, found = doctor(**{SPOOL: str(tmp_path)}, **least)
    assert found["spool"]["level"] == "warning"
    assert found["spool"]["says"].startswith("2 webhooks in ")

    file.append([b"3" * 1_000_000])
    code, found = doctor(**{SPOOL: str(tmp_path)}, **least)
    file.close()
    assert (code, found["spool"]["level"]) == (1, "problem")
    assert "is full, with 3 webhooks" in found["spool"]["says"]

    most = {"CHATWOOT_CACHE_WEBHOOK_SPOOL_MAX_BYTES": str(1 << 40)}
    _, found = doctor(**{SPOOL: str(tmp_path / "other")}, **most)
    assert "less than the spool may take" in found["spool"]["says"]


def test_settings_that_are_questioned_are_told(doctor: Doctor) -> None:
    _, found = doctor(CHATWOOT_CACHE_STREEM_KEY="x")

    assert found["settings"]["level"] == "warning"
    assert "did you mean CHATWOOT_CACHE_STREAM_KEY?" in found["settings"]["says"]


def test_it_is_readable_in_a_terminal(
    doctor: Doctor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out

    assert max(map(len, shown.splitlines())) <= 80
    assert "! spool " in shown
    assert "→ set CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR" in shown
    # How many depends on the machine: in a container there is more to warn of.
    assert re.search(r"No problems, [2-4] warnings\.", shown)
