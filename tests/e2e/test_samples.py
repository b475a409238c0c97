"""The sample events, from every side a user can bring them in and get them out."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.place import Place
from tests.e2e.process import command, running
from tests.events import PAYLOADS, message
from tests.signing import signed

EVOLUTION = sorted((PAYLOADS / "evolution").glob("*.json"))
CLOUD = sorted((PAYLOADS / "whatsapp-cloud").glob("*.json"))
INSTANCE = "loja-aurora"


def gotten(place: Place, directory: Path, *wanted: tuple[str, str]) -> list[Any]:
    """What `get` says, each in a process of its own, all at once."""

    def get(arguments: tuple[str, str]) -> Any:
        done = command(directory, place.settings(), "get", INSTANCE, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(get, wanted))


async def test_published_samples_are_read_back_with_get(place: Place, tmp_path: Path) -> None:
    async with running(tmp_path, place.settings()) as worker:
        published = command(tmp_path, place.settings(), "publish", *map(str, EVOLUTION))
        await place.settled()

        assert published.returncode == 0
        assert published.stdout.startswith(b"Published 13 events, the last as ")
        first, source, listed, conversation, by_phone = gotten(
            place,
            tmp_path,
            ("message", "90214"),
            ("source", "WAID:3EB0A1B2C3D4E5F60718"),
            ("messages", "1584"),
            ("conversation", "1584"),
            ("contact", "+55 11 90000-0042"),
        )
        assert first["content"] == "Oi! O pedido 55123 já saiu para entrega?"
        assert first["instance"] == INSTANCE
        assert source == first
        assert [m["id"] for m in listed["messages"]] == [90214, 90215, 90216, 90217, 90218]
        assert [m["deleted"] for m in listed["messages"]] == [False, True, False, False, False]
        assert conversation["status"] == "resolved"
        assert by_phone == conversation

        # How many are stale depends on this machine's clock: Chatwoot's is not believed far ahead.
        useful = [worker.metric("entries_settled_total", outcome=o) for o in ("applied", "stale")]
        assert sum(useful) == 11
        assert worker.metric("entries_settled_total", outcome="ignored") == 2
        assert worker.metric("entries_settled_total", outcome="dead") == 0
        assert worker.metric("entries_acked_total") == 13
        created = {"event": "message_created", "evolution_instance": INSTANCE}
        assert worker.metric("events_total", **created) == 7
        assert place.letters() == []


async def test_what_the_cache_does_not_have_is_exit_code_1(place: Place, tmp_path: Path) -> None:
    """An instance that nobody knows is named as such."""
    known = place.settings(INSTANCES=json.dumps({"3/12": INSTANCE}))
    done = command(tmp_path, known, "get", INSTANCE, "message", "1")
    unknown = command(tmp_path, known, "get", "lojaaurora", "message", "1")

    assert (done.returncode, unknown.returncode) == (1, 1)
    assert (done.stdout, unknown.stdout) == (b"", b"")
    assert done.stderr.decode().splitlines() == [
        f"chatwoot-cache: the cache of '{INSTANCE}' has no message 1"
    ]
    assert unknown.stderr.decode().splitlines() == [
        f"chatwoot-cache: instance 'lojaaurora' is not known: known are '{INSTANCE}'"
    ]


async def test_json_lines_come_in_from_standard_input(place: Place, tmp_path: Path) -> None:
    lines = b"\n".join(raw_line(path) for path in EVOLUTION) + b"\n\nnot JSON\n"

    async with running(tmp_path, place.settings()):
        done = command(tmp_path, place.settings(), "publish", "-", stdin=lines)
        await place.settled()

    assert done.returncode == 1
    assert done.stdout.startswith(b"Published 13 events")
    assert done.stderr == b"chatwoot-cache: -:15: not a JSON object\n"
    assert place.document(INSTANCE, "message", 90214)["id"] == 90214


def raw_line(path: Path) -> bytes:
    return json.dumps(json.loads(path.read_bytes())).encode()


async def test_samples_come_in_over_http_and_every_key_ends(place: Place, tmp_path: Path) -> None:
    async with running(tmp_path, place.settings()) as worker:
        answers = [worker.post(path.read_bytes()) for path in EVOLUTION]
        answers.append(worker.post(EVOLUTION[0].read_bytes(), f"/{INSTANCE}"))
        await place.settled()

        assert [answer.status_code for answer in answers] == [200] * 14
        assert worker.metric("webhook_requests_total", code="200", reason="accepted") == 13
        assert worker.metric("webhook_requests_total", code="200", reason="bot_contact") == 1

    keys = place.found()
    assert place.key(INSTANCE, "conversation", 1585).encode() in keys
    assert place.key(INSTANCE, "contact", "211234567890123@lid").encode() in keys
    assert all(int(place.redis.ttl(key)) > 0 for key in keys)
    assert not any(b":123456" in key or b"90006" in key for key in keys)
    payloads: Any = place.redis.xrange(place.stream)
    assert payloads[0][1][b"payload"] == EVOLUTION[0].read_bytes()


async def test_signature_and_token_let_in_what_they_vouch_for(place: Place, tmp_path: Path) -> None:
    guarded = place.settings(
        WEBHOOK_SECRETS='{"3": ["old-secret", "new-secret"]}', WEBHOOK_TOKEN="the-token"
    )
    body = EVOLUTION[0].read_bytes()
    other = json.dumps(with_account(json.loads(body), 9)).encode()

    async with running(tmp_path, guarded) as worker:
        assert worker.post(body).json()["reason"] == "no_credentials"
        assert worker.post(body, headers=signed(body, "wrong")).json()["reason"] == "bad_signature"
        assert worker.post(body, "?token=the-token").json()["reason"] == "signature_required"
        assert worker.post(other, "?token=wrong").json()["reason"] == "bad_token"
        strange = worker.post(other, headers=signed(other, "new-secret"))
        assert (strange.status_code, strange.json()["reason"]) == (401, "wrong_account")
        assert place.redis.exists(place.stream) == 1
        assert place.redis.xlen(place.stream) == 0

        assert worker.post(body, headers=signed(body, "new-secret")).status_code == 200
        assert worker.post(body, headers=signed(body, "old-secret")).status_code == 200
        assert worker.post(other, "?token=the-token").status_code == 200
        await place.settled()

    assert place.document(INSTANCE, "message", 90214)["account_id"] == 3
    # The same name in another account: somebody else's inbox.
    assert place.reasons() == ["instance_conflict"]


def with_account(node: Any, account_id: int) -> Any:
    """The body with every account id replaced."""
    if isinstance(node, list):
        return [with_account(item, account_id) for item in node]
    if not isinstance(node, dict):
        return node
    changed = {name: with_account(item, account_id) for name, item in node.items()}
    if "account_id" in node:
        changed["account_id"] = account_id
    if isinstance(changed.get("account"), dict):
        changed["account"]["id"] = account_id
    return changed


async def test_bodies_that_are_no_events_are_refused_with_a_reason(
    place: Place, tmp_path: Path
) -> None:
    async with running(tmp_path, place.settings(WEBHOOK_MAX_BODY_BYTES="1000000")) as worker:
        reasons = [
            worker.post(body).json()["reason"]
            for body in (
                b"{",
                b"[]",
                b"\xff",
                b"",
                b'{"a":"' + b"x" * 1_000_000 + b'"}',
                b'{"a":' * 150_000,
            )
        ]
        form = worker.post(b"{}", headers={"Content-Type": "text/plain"})

        assert reasons == [
            "bad_json",
            "not_object",
            "bad_json",
            "bad_json",
            "too_large",
            "too_deep",
        ]
        assert form.status_code == 415
        assert worker.post(b'{"odd": ["but", "an", "object"]}').status_code == 200
        await place.settled()
        assert place.reasons() == ["bad_event"]


async def test_an_inbox_of_another_channel_is_cached_where_the_operator_says(
    place: Place, tmp_path: Path
) -> None:
    async with running(tmp_path, place.settings(INSTANCES="{3/12: cloud}")) as worker:
        for path in CLOUD:
            assert worker.post(path.read_bytes()).status_code == 200
        await place.settled()

        # A contact's change and somebody who types are no events that are cached.
        assert worker.metric("entries_settled_total", outcome="ignored") == 2

    assert place.letters() == []
    assert place.document("cloud", "message", 90214)["deleted"]
    assert place.document("cloud", "message", 90260)["status"] == "failed"
    assert place.document("cloud", "conversation", 1584)["channel"] == "Channel::Whatsapp"


READER = """
const net = require("net");
const [host, port, ...keys] = process.argv.slice(1);
const socket = net.connect(Number(port), host);
let received = Buffer.alloc(0);
const bulk = (text) => `$${Buffer.byteLength(text)}\\r\\n${text}\\r\\n`;
for (const key of keys) socket.write(`*2\\r\\n$3\\r\\nGET\\r\\n${bulk(key)}`);
const values = [];
socket.on("data", (chunk) => {
  received = Buffer.concat([received, chunk]);
  for (;;) {
    const end = received.indexOf("\\r\\n");
    if (end < 0) return;
    const length = Number(received.subarray(1, end));
    if (received.length < end + 4 + length) return;
    values.push(JSON.parse(received.subarray(end + 2, end + 2 + length).toString("utf8")));
    received = received.subarray(end + 4 + length);
    if (values.length === keys.length) {
      process.stdout.write(JSON.stringify(values));
      socket.end();
    }
  }
});
"""


def read_by(node: str, uri: str, keys: Sequence[str]) -> Any:
    address = urlsplit(uri)
    arguments = ["-e", READER, str(address.hostname), str(address.port), *keys]
    done = subprocess.run([node, *arguments], capture_output=True, timeout=10, check=True)
    return json.loads(done.stdout)


async def test_another_language_reads_the_values(place: Place, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    async with running(tmp_path, place.settings()):
        place.add(message(7, content='📦 "ção"\u2028\\', source_id="WAID:3EB0", conversation_id=5))
        await place.settled()
    keys = [
        place.key(INSTANCE, "message", 7),
        place.key(INSTANCE, "conversation", 5),
        place.key(INSTANCE, "source", "WAID%3A3EB0"),
    ]

    found, conversation, source = read_by(node, place.uri, keys)
    assert found == place.document(INSTANCE, "message", 7)
    assert found["content"] == '📦 "ção"\u2028\\'
    assert conversation["contact"]["name"]
    assert source == 7
