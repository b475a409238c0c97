"""What the webhook accepts, what it rejects and why, and that it always answers in time."""

import hashlib
import hmac
import json
import string
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import anyio
import httpx
import pytest
from anyio.abc import SocketStream
from hypothesis import given, strategies as st
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.serving import Served, read_all, served
from worker.errors import ConfigurationError, PermissionDenied, RedisUnavailable, SpoolError
from worker.ingest.webhook import WebhookApp
from worker.ingest.webhook_auth import WebhookPolicy, is_loopback
from worker.ops.metrics import WEBHOOK_ANSWERS, Metrics
from worker.store.stream.stream_reader import StreamProducer

PAYLOADS = {
    path: path.read_bytes()
    for path in (Path(__file__).parents[1] / "payloads").glob("*/*.json")
    if "bot_contact" not in path.name
}
NOW = 1790863271
SECRET = "s3cr3t_of_3"
TOKEN = "t0ken+with/odd=signs"

OPEN = WebhookPolicy(secrets={}, token=None, max_body_bytes=4096, loopback=True)
CLOSED = replace(OPEN, loopback=False)
SIGNED = replace(CLOSED, secrets={3: ("older", SECRET), 4: ("s3cr3t_of_4",)})
TOKENED = replace(CLOSED, token=TOKEN)
BOTH = replace(SIGNED, token=TOKEN)

OF_3 = b'{"event":"message_created","account":{"id":3}}'
OF_5 = b'{"event":"message_created","account":{"id":5}}'
OF_NONE = b'{"event":"conversation_updated","id":7}'


class Stream:
    """A stream that raises the given failures first, and then stores entries."""

    def __init__(self, *failures: Exception) -> None:
        self.entries: list[dict[str, bytes]] = []
        self.failures = list(failures)
        self.called = anyio.Event()
        self.go: anyio.Event | None = None

    async def add(self, fields: Mapping[str, bytes]) -> str:
        self.called.set()
        if self.go:
            await self.go.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.entries.append(dict(fields))
        return f"{NOW}000-{len(self.entries)}"


class Endpoint:
    """A webhook with its stream and metrics, called without a socket."""

    def __init__(self, rules: WebhookPolicy, stream: Stream | None = None, **options: Any) -> None:
        self.stream = stream or Stream()
        self.metrics = Metrics("1", max_instances=1)
        options.setdefault("now", lambda: NOW)
        self.app = WebhookApp(rules, cast("StreamProducer", self.stream), self.metrics, **options)

    async def post(
        self, content: Any, url: str = "/chatwoot/webhook", method: str = "POST", **more: Any
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            return await client.request(method, url, content=content, **more)

    def counted(self) -> dict[tuple[str, str], float]:
        """Return the answers counted so far; fails for an unknown label."""
        samples = [
            sample
            for family in self.metrics.webhook_requests.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        ]
        pairs = {(s.labels["code"], s.labels["reason"]): s.value for s in samples}
        assert pairs.keys() == set(WEBHOOK_ANSWERS)
        return {pair: value for pair, value in pairs.items() if value}


def signature(body: bytes, secret: str = SECRET, at: int = NOW) -> dict[str, str]:
    """Return the headers that Chatwoot sends."""
    made = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return {"X-Chatwoot-Timestamp": str(at), "X-Chatwoot-Signature": f"sha256={made}"}


def with_token(token: str = TOKEN) -> str:
    return "/chatwoot/webhook?token=" + quote(token, safe="")


# What is accepted


every_example = pytest.mark.parametrize(
    "path", sorted(PAYLOADS), ids=lambda path: f"{path.parent.name}/{path.stem}"
)


@every_example
async def test_every_signed_example_goes_to_the_stream_byte_for_byte(path: Path) -> None:
    body = PAYLOADS[path]
    account = stated(json.loads(body))
    rules = replace(BOTH, secrets={account: (SECRET,)}, max_body_bytes=len(body))
    endpoint = Endpoint(rules)
    headers = {"X-Chatwoot-Delivery": "0b0f-1", "Content-Type": "application/json"}

    answer = await endpoint.post(body, headers=headers | signature(body))

    assert (answer.status_code, answer.json()) == (200, {"id": f"{NOW}000-1"})
    expected = {"payload": body, "delivery": b"0b0f-1", "account": str(account).encode()}
    assert endpoint.stream.entries == [expected]
    assert endpoint.counted() == {("200", "accepted"): 1}


@every_example
async def test_every_example_with_a_token_has_no_account_field(path: Path) -> None:
    body = PAYLOADS[path]
    endpoint = Endpoint(replace(TOKENED, max_body_bytes=len(body)))

    answer = await endpoint.post(body, with_token())

    assert answer.status_code == 200
    assert endpoint.stream.entries == [{"payload": body}]


def stated(event: dict[str, Any]) -> int:
    """Return the account that an example names, 3 if none."""
    conversation = event.get("conversation") or {}
    first: dict[str, Any] = next(iter(event.get("messages") or []), {})
    account = event.get("account") or conversation.get("account") or {}
    return int(account.get("id") or first.get("account_id") or 3)


async def test_the_signature_is_chatwoots() -> None:
    """A recorded vector: secret, time, body and the signature that Chatwoot made."""
    rules = replace(CLOSED, secrets={1: ("s3cr3t_example",)})
    endpoint = Endpoint(rules, now=lambda: 1790863271 + 300)
    body = b'{"event":"message_created","id":1}'
    made = "0096b079d5790391bb305cab53d2851145b2145869e865c48e6d0eab56393780"
    headers = {"X-Chatwoot-Timestamp": "1790863271", "X-Chatwoot-Signature": f"sha256={made}"}

    answer = await endpoint.post(body, headers=headers)

    assert answer.status_code == 200
    assert endpoint.stream.entries == [{"payload": body, "account": b"1"}]


async def test_both_secrets_are_valid_during_a_rotation() -> None:
    endpoint = Endpoint(SIGNED)

    assert (await endpoint.post(OF_3, headers=signature(OF_3, "older"))).status_code == 200


async def test_a_body_without_an_account_gets_that_of_its_secret() -> None:
    endpoint = Endpoint(SIGNED)

    await endpoint.post(OF_NONE, headers=signature(OF_NONE, "s3cr3t_of_4"))

    assert endpoint.stream.entries == [{"payload": OF_NONE, "account": b"4"}]


async def test_a_large_body_is_checked_against_many_secrets() -> None:
    secrets = {account: (f"secret {account}",) for account in range(1, 21)}
    endpoint = Endpoint(replace(CLOSED, secrets=secrets, max_body_bytes=1 << 20))
    body = b'{"pad":"' + b"x" * (1 << 19) + b'"}'

    answer = await endpoint.post(body, headers=signature(body, "secret 20"))

    assert answer.status_code == 200
    assert endpoint.stream.entries[0]["account"] == b"20"


async def test_loopback_without_secrets_accepts_everything() -> None:
    endpoint = Endpoint(OPEN)

    assert (await endpoint.post(OF_3)).status_code == 200
    assert endpoint.stream.entries == [{"payload": OF_3}]


@pytest.mark.parametrize(
    "body", [b"{}", b' {"event": 7}\n', b'{"account":[3],"messages":{"a":1},"conversation":"x"}']
)
async def test_unexpected_shapes_are_accepted_for_the_consumer_to_judge(body: bytes) -> None:
    endpoint = Endpoint(OPEN)

    assert (await endpoint.post(body)).status_code == 200
    assert endpoint.stream.entries == [{"payload": body}]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "Application/Vnd.Api+JSON"},
        {"Content-Type": ""},
        {"Content-Encoding": "identity"},
        {},
    ],
)
async def test_several_content_types_mean_json(headers: dict[str, str]) -> None:
    assert (await Endpoint(OPEN).post(OF_3, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("sent", "kept"),
    [(b"a" * 120, b"a" * 100), (b"\xff id\t1\x80", b" id1"), (b"\xe9", None), (b"", None)],
)
async def test_a_delivery_id_is_reduced_to_plain_text(sent: bytes, kept: bytes | None) -> None:
    endpoint = Endpoint(OPEN)

    await endpoint.post(OF_3, headers=[(b"x-chatwoot-delivery", sent)])

    assert endpoint.stream.entries[0].get("delivery") == kept


async def test_a_token_is_enough_for_an_account_without_a_secret() -> None:
    endpoint = Endpoint(BOTH)

    assert (await endpoint.post(OF_5, with_token())).status_code == 200
    assert endpoint.stream.entries == [{"payload": OF_5}]


@pytest.mark.parametrize("url", [f"/chatwoot/webhook?token={TOKEN}", "?", "?token=mistaken&x&"])
async def test_a_token_may_be_unescaped_or_beside_other_parameters(url: str) -> None:
    if url.startswith("?"):
        url = with_token().replace("?", f"{url}&")

    assert (await Endpoint(TOKENED).post(OF_5, url)).status_code == 200


async def test_with_a_token_the_signature_of_an_unknown_secret_does_not_matter() -> None:
    headers = signature(OF_5, "unknown")

    assert (await Endpoint(BOTH).post(OF_5, with_token(), headers=headers)).status_code == 200
    assert (await Endpoint(TOKENED).post(OF_5, with_token(), headers=headers)).status_code == 200


# The instance in the URL


@given(name=st.text(min_size=1, max_size=60), safe=st.sampled_from(["", "/", string.punctuation]))
async def test_any_instance_name_survives_the_url(name: str, safe: str) -> None:
    safe = safe.translate(dict.fromkeys(map(ord, "/%?#.")))
    segment = quote(name, safe=safe).replace(".", "%2E")
    endpoint = Endpoint(OPEN)

    answer = await endpoint.post(OF_3, f"/chatwoot/webhook/{segment}")

    assert answer.status_code == 200
    assert endpoint.stream.entries == [{"payload": OF_3, "expect": name.encode()}]


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("loja%2Fcentro", b"loja/centro"),
        ("a%3Ab+c%20d", b"a:b+c d"),
        ("%F0%9F%98%80", "😀".encode()),
        ("%252F", b"%2F"),
        ("x%0A", b"x\n"),
        ("100%", b"100%"),
        ("%C3%A9" * 127, "é".encode() * 127),
    ],
)
async def test_the_instance_is_decoded_once_on_a_real_socket(segment: str, name: bytes) -> None:
    endpoint = Endpoint(OPEN)
    async with served(endpoint.app) as at:
        answer = await at.ask(http(f"/chatwoot/webhook/{segment}", OF_3))

    assert answer.startswith(b"HTTP/1.1 200")
    assert endpoint.stream.entries == [{"payload": OF_3, "expect": name}]


@pytest.mark.parametrize("segment", ["", "%FF", "%ED%A0%80", "x" * 256, "%C3%A9" * 128])
async def test_an_invalid_instance_is_422(segment: str) -> None:
    await assert_rejected(OPEN, 422, "bad_instance", url=f"/chatwoot/webhook/{segment}")


# What is rejected


async def assert_rejected(
    rules: WebhookPolicy, code: int, reason: str, body: bytes = OF_3, **request: Any
) -> None:
    """Expect this answer, counted once, which quotes nothing of the request; nothing is stored."""
    endpoint = Endpoint(rules)
    with capture_logs() as logs:
        answer = await endpoint.post(body, **request)

    assert (answer.status_code, answer.json()["reason"]) == (code, reason)
    assert endpoint.counted() == {(str(code), reason): 1}
    assert endpoint.stream.entries == []
    assert_silent(answer.text, logs, body)


def assert_silent(said: str, logs: list[EventDict], body: bytes) -> None:
    said += str(logs)
    assert "sha256=" not in said
    assert not [secret for secret in (SECRET, TOKEN, "mistaken") if secret in said]
    assert len(body) < 9 or body.decode("latin-1") not in said


@pytest.mark.parametrize(
    ("rules", "reason", "headers", "url"),
    [
        (SIGNED, "no_credentials", {}, "/chatwoot/webhook"),
        (SIGNED, "no_credentials", {}, with_token()),
        (SIGNED, "bad_signature", signature(OF_3, "mistaken"), "/chatwoot/webhook"),
        (SIGNED, "bad_signature", signature(OF_5), "/chatwoot/webhook"),
        (SIGNED, "bad_timestamp", signature(OF_3, at=NOW - 301), "/chatwoot/webhook"),
        (SIGNED, "bad_timestamp", signature(OF_3, at=NOW + 301), "/chatwoot/webhook"),
        (SIGNED, "wrong_account", signature(OF_3, "s3cr3t_of_4"), "/chatwoot/webhook"),
        (BOTH, "signature_required", {}, with_token()),
        (BOTH, "signature_required", signature(OF_3, "mistaken"), with_token()),
        (BOTH, "bad_signature", signature(OF_3, "mistaken"), with_token("mistaken")),
        (BOTH, "no_credentials", {}, "/chatwoot/webhook"),
        (TOKENED, "no_credentials", signature(OF_3), "/chatwoot/webhook"),
        (TOKENED, "bad_token", {}, with_token("mistaken")),
        (TOKENED, "bad_token", {}, with_token("")),
    ],
)
async def test_missing_or_invalid_credentials_are_401(
    rules: WebhookPolicy, reason: str, headers: dict[str, str], url: str
) -> None:
    await assert_rejected(rules, 401, reason, url=url, headers=headers)


@pytest.mark.parametrize(
    "body",
    [
        b'{"account":{"id":5}}',
        b'{"account":{"id":"3"}}',
        b'{"account":{"id":3.0}}',
        b'{"account":{"id":true}}',
        b'{"account":{"id":3},"conversation":{"account":{"id":5}}}',
        b'{"account":{"id":3},"messages":[{},{"account_id":5}]}',
        b'{"account":{"id":3},"conversation":{"messages":[{"account_id":-3}]}}',
        b'{"account":{"id":3},"conversation":{"messages":[{"account_id":4}]}}',
        b'{"\\u0061ccount":{"id":5}}',
        b'{"account":{"id":3},"account":{"id":5}}',
    ],
)
async def test_a_secret_is_valid_for_its_own_account_only(body: bytes) -> None:
    await assert_rejected(SIGNED, 401, "wrong_account", body, headers=signature(body))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (OF_NONE, "no_account"),
        (b'{"account":{"id":"3"}}', "no_account"),
        (b'{"account":{"id":3.0}}', "no_account"),
        (b'{"account":{"id":5},"messages":[{"account_id":3}]}', "signature_required"),
    ],
)
async def test_a_token_does_not_replace_a_secret(body: bytes, reason: str) -> None:
    await assert_rejected(BOTH, 401, reason, body, url=with_token())


async def test_with_a_token_alone_a_body_needs_no_account() -> None:
    assert (await Endpoint(TOKENED).post(OF_NONE, with_token())).status_code == 200


@pytest.mark.parametrize(
    ("header", "values", "reason"),
    [
        (b"x-chatwoot-signature", [b"sha256=", b"sha256=ff"], "bad_signature"),
        (b"x-chatwoot-signature", [b"", b""], "bad_signature"),
        (b"x-chatwoot-signature", [b"\xff\xfe"], "bad_signature"),
        (b"x-chatwoot-timestamp", [b"1", b"2"], "bad_timestamp"),
        (b"x-chatwoot-timestamp", [b"-1790863271"], "bad_timestamp"),
        (b"x-chatwoot-timestamp", [b"1790863271.0"], "bad_timestamp"),
        (b"x-chatwoot-timestamp", [b"9" * 5000], "bad_timestamp"),
        (b"x-chatwoot-timestamp", [b"\xd9\xa1\xd9\xa7"], "bad_timestamp"),
        (b"x-chatwoot-timestamp", [], "bad_timestamp"),
    ],
)
async def test_repeated_and_malformed_headers_are_rejected(
    header: bytes, values: list[bytes], reason: str
) -> None:
    sent = {name.lower().encode(): value.encode() for name, value in signature(OF_3).items()}
    headers = [(name, value) for name, value in sent.items() if name != header]
    headers += [(header, value) for value in values]

    await assert_rejected(SIGNED, 401, reason, headers=headers)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Content-Type": "text/plain"}, "bad_content_type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "bad_content_type"),
        ({"Content-Type": "+json"}, "bad_content_type"),
        ({"Content-Encoding": "gzip"}, "bad_content_encoding"),
        ({"Content-Encoding": "identity, br"}, "bad_content_encoding"),
    ],
)
async def test_other_content_types_and_encodings_are_415(
    headers: dict[str, str], reason: str
) -> None:
    await assert_rejected(OPEN, 415, reason, headers=headers)


DEEP = b'{"account":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"{} {}", "bad_json"),
        (b'{"a":NaN}', "bad_json"),
        (b'{"content":"\xff"}', "bad_json"),
        (b"\xef\xbb\xbf{}", "bad_json"),
        (b'{"account":{"id":' + b"9" * 5000 + b"}}", "bad_json"),
        (b"[]", "not_object"),
        (b'"x"', "not_object"),
        (b" null", "not_object"),
        (DEEP, "too_deep"),
        (DEEP.replace(b"account", b"other"), "too_deep"),
    ],
)
async def test_a_body_that_is_not_a_json_object_is_422(body: bytes, reason: str) -> None:
    await assert_rejected(replace(OPEN, max_body_bytes=len(DEEP)), 422, reason, body)


@pytest.mark.parametrize(
    ("method", "url", "code", "reason"),
    [
        ("POST", "/", 404, "not_found"),
        ("POST", "/chatwoot/webhooks", 404, "not_found"),
        ("POST", "/chatwoot/webhook/a/b", 404, "not_found"),
        ("POST", "/chatwoot%2Fwebhook", 404, "not_found"),
        ("GET", "/chatwoot/webhook", 405, "bad_method"),
        ("PUT", "/chatwoot/webhook/loja", 405, "bad_method"),
    ],
)
async def test_an_unknown_path_or_method_is_answered_with_the_right_one(
    method: str, url: str, code: int, reason: str
) -> None:
    endpoint = Endpoint(OPEN)

    answer = await endpoint.post(b"", url, method)

    assert answer.status_code == code
    assert "POST /chatwoot/webhook" in answer.json()["error"]
    assert answer.json()["reason"] == reason
    assert endpoint.counted() == {(str(code), reason): 1}


# Limits, on real sockets


def http(url: str, body: bytes, *headers: str) -> bytes:
    """Return a request after which the connection closes."""
    lines = [
        f"POST {url} HTTP/1.1",
        "Host: x",
        "Connection: close",
        *(headers or [f"Content-Length: {len(body)}"]),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answered(raw: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


async def test_a_body_of_the_limit_is_accepted_and_one_byte_more_is_not() -> None:
    body = b'{"pad":"' + b"x" * 4086 + b'"}'
    endpoint = Endpoint(OPEN)
    async with served(endpoint.app) as at:
        taken = answered(await at.ask(http("/chatwoot/webhook", body)))
        refused = answered(await at.ask(http("/chatwoot/webhook", body + b" ")))

    assert taken == (200, {"id": f"{NOW}000-1"})
    assert refused[0] == 413
    assert "CHATWOOT_CACHE_WEBHOOK_MAX_BODY_BYTES" in refused[1]["error"]
    assert endpoint.counted() == {("200", "accepted"): 1, ("413", "too_large"): 1}


@pytest.mark.parametrize("header", ["Content-Length: 1048583", "Transfer-Encoding: chunked"])
async def test_a_client_that_sends_far_too_much_can_still_read_the_answer(header: str) -> None:
    body = b"100000\r\n" + b" " * (1 << 20) + b"\r\n0\r\n\r\n"
    async with served(Endpoint(OPEN).app) as at:
        answer = await at.ask(http("/chatwoot/webhook", body, header))

    assert answered(answer)[0] == 413


async def test_a_length_over_the_limit_is_rejected_before_the_body() -> None:
    async with served(Endpoint(OPEN).app) as at:
        answer = await at.ask(http("/chatwoot/webhook", b"", "Content-Length: 4097"))

    assert answered(answer)[0] == 413


async def test_a_body_without_a_length_is_limited_too() -> None:
    chunk = b"800\r\n" + b" " * 0x800 + b"\r\n"
    async with served(Endpoint(OPEN).app) as at:
        answer = await at.ask(http("/chatwoot/webhook", 3 * chunk, "Transfer-Encoding: chunked"))

    assert answered(answer)[0] == 413


async def test_a_chunked_body_is_accepted() -> None:
    endpoint = Endpoint(OPEN)
    async with served(endpoint.app) as at:
        body = b"2\r\n{}\r\n0\r\n\r\n"
        answer = await at.ask(http("/chatwoot/webhook", body, "Transfer-Encoding: chunked"))

    assert answered(answer)[0] == 200
    assert endpoint.stream.entries == [{"payload": b"{}"}]


@pytest.mark.parametrize("length", ["9" * 5000, "1, 2", "-1", "x", "\u0663"])
async def test_an_invalid_length_does_not_crash(length: str) -> None:
    """Our server rejects these earlier; another one may not."""
    answer = await Endpoint(OPEN).post(OF_3, headers=[(b"content-length", length.encode())])

    assert answer.status_code == (413 if length.startswith("9") else 200)


async def test_a_slow_body_is_answered_in_time() -> None:
    endpoint = Endpoint(OPEN, answer_s=0.05)
    async with served(endpoint.app) as at, await at.connect() as connection:
        await connection.send(http("/chatwoot/webhook", b"{", "Content-Length: 9"))
        code, said = answered(await read_all(connection))

    assert code == 408
    assert said["error"] == "the body did not come within 0.05 s"
    assert endpoint.counted() == {("408", "slow_body"): 1}


FREE = 64 * 1024
LARGE = 8 * FREE
ROOMY = replace(SIGNED, max_body_bytes=LARGE)


def signed(body: bytes) -> bytes:
    headers = [f"{name}: {value}" for name, value in signature(body).items()]
    return http("/chatwoot/webhook", body, f"Content-Length: {len(body)}", *headers)


def padded(size: int) -> bytes:
    """Return an event of this size."""
    body = b'{"account":{"id":3},"pad":""}'
    return body[:-2] + b"x" * (size - len(body)) + body[-2:]


def unfinished(sent: int, *, chunked: bool = False) -> bytes:
    """Forge a signature, announce a large body, and send only a part of it."""
    forged = [f"{name}: {value}" for name, value in signature(b"", "mistaken").items()]
    if not chunked:
        header = f"Content-Length: {LARGE}"
        return http("/chatwoot/webhook", b" " * sent, header, *forged)
    body = b"%x\r\n%b\r\n" % (sent, b" " * sent) if sent else b""
    return http("/chatwoot/webhook", body, "Transfer-Encoding: chunked", *forged)


@asynccontextmanager
async def connections(at: Served, count: int, sent: bytes) -> AsyncIterator[list[SocketStream]]:
    """Send the same on many connections, without waiting for answers."""
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(await at.connect()) for _ in range(count)]
        for connection in opened:
            await connection.send(sent)
        yield opened


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("sent", [0, FREE])
async def test_bodies_that_do_not_arrive_cause_no_rejections(sent: int, *, chunked: bool) -> None:
    """Neither their announced length nor their free bytes count against others."""
    endpoint = Endpoint(ROOMY, answer_s=60, budget_bytes=LARGE)
    unauthenticated = unfinished(sent, chunked=chunked)
    async with served(endpoint.app) as at, connections(at, 40, unauthenticated):
        codes = [answered(await at.ask(signed(padded(FREE))))[0] for _ in range(9)]

    assert codes == [200] * 9


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_webhook_evicts_the_body_that_arrives_for_longest(*, chunked: bool) -> None:
    """Its client can read the answer, also while it goes on sending; others are not affected."""
    endpoint = Endpoint(ROOMY, answer_s=60, budget_bytes=2 * LARGE)
    part = LARGE - FREE // 2
    unauthenticated = unfinished(part, chunked=chunked)
    async with served(endpoint.app) as at, connections(at, 3, unauthenticated) as opened:
        first = answered(await read_all(opened[0]))
        taken = answered(await at.ask(signed(padded(LARGE))))
        await opened[1].send(b"1\r\n \r\n")
        second = answered(await read_all(opened[1]))

        assert (first[0], first[1]["reason"]) == (second[0], second[1]["reason"]) == (503, "busy")
        assert taken[0] == 200
        assert endpoint.counted() == {("200", "accepted"): 1, ("503", "busy"): 2}


async def test_a_large_webhook_with_a_token_is_not_evicted() -> None:
    """Unauthenticated ones are evicted instead."""
    endpoint = Endpoint(replace(BOTH, max_body_bytes=LARGE), answer_s=0.3, budget_bytes=LARGE)
    url, part = with_token(), b" " * (LARGE - FREE)
    known = http(url, part, f"Content-Length: {LARGE}")
    async with (
        served(endpoint.app) as at,
        connections(at, 1, known) as opened,
        connections(at, 2, unfinished(len(part))),
    ):
        code, _ = answered(await read_all(opened[0]))

    assert code == 408
    assert endpoint.counted() == {("408", "slow_body"): 1, ("503", "busy"): 2}


async def test_a_webhook_that_found_no_memory_in_time_is_503_busy() -> None:
    endpoint = Endpoint(replace(OPEN, max_body_bytes=LARGE), answer_s=0.3, budget_bytes=LARGE)
    endpoint.stream.go = anyio.Event()
    async with (
        served(endpoint.app) as at,
        connections(at, 1, http("/chatwoot/webhook", padded(LARGE))),
    ):
        await endpoint.stream.called.wait()
        part = http("/chatwoot/webhook", b" " * (LARGE - FREE), f"Content-Length: {LARGE}")
        code, said = answered(await at.ask(part))

    assert (code, said["reason"]) == (503, "busy")


@pytest.mark.parametrize("rules", [SIGNED, TOKENED])
async def test_missing_credentials_are_rejected_before_the_body_is_read(
    rules: WebhookPolicy,
) -> None:
    """A body that no content could make acceptable is not read into memory."""
    endpoint = Endpoint(rules)
    async with served(endpoint.app) as at, await at.connect() as connection:
        await connection.send(http("/chatwoot/webhook", b"{", "Content-Length: 4000"))
        code, said = answered(await read_all(connection))

    assert (code, said["reason"]) == (401, "no_credentials")


async def test_a_disconnect_is_counted_and_stores_nothing() -> None:
    endpoint = Endpoint(OPEN)
    async with served(endpoint.app) as at:
        async with await at.connect() as connection:
            await connection.send(http("/chatwoot/webhook", b"{", "Content-Length: 9"))
        with anyio.fail_after(2):
            while not endpoint.counted():
                await anyio.lowlevel.checkpoint()

    assert endpoint.counted() == {("400", "disconnected"): 1}
    assert endpoint.stream.entries == []


async def test_a_webhook_is_finished_during_shutdown() -> None:
    endpoint = Endpoint(OPEN)
    endpoint.stream.go = anyio.Event()
    async with served(endpoint.app, grace_s=5) as at, await at.connect() as connection:
        await connection.send(http("/chatwoot/webhook", OF_3))
        await endpoint.stream.called.wait()
        at.stop.set()
        endpoint.stream.go.set()

        assert answered(await read_all(connection)) == (200, {"id": f"{NOW}000-1"})


# While Redis is unavailable


OUTAGE = RedisUnavailable("connection", "unavailable")


async def test_a_short_outage_of_redis_loses_no_event() -> None:
    endpoint = Endpoint(OPEN, Stream(OUTAGE, RedisUnavailable("loading", "starting")))

    assert (await endpoint.post(OF_3)).status_code == 200
    assert endpoint.stream.entries == [{"payload": OF_3}]


async def test_an_outage_beyond_the_deadline_is_503() -> None:
    endpoint = Endpoint(OPEN, Stream(*[OUTAGE] * 99), answer_s=0.2)

    answer = await endpoint.post(OF_3)

    assert (answer.status_code, answer.json()["reason"]) == (503, "redis_unavailable")
    assert endpoint.counted() == {("503", "redis_unavailable"): 1}


async def test_a_stream_that_hangs_is_503_in_time() -> None:
    endpoint = Endpoint(OPEN, answer_s=0.05)
    endpoint.stream.go = anyio.Event()

    answer = await endpoint.post(OF_3)

    assert (answer.status_code, answer.json()["reason"]) == (503, "timeout")


async def test_a_redis_that_refuses_is_503_at_once() -> None:
    endpoint = Endpoint(OPEN, Stream(PermissionDenied("NOPERM: XADD is not allowed")))

    answer = await endpoint.post(OF_3)

    assert (answer.status_code, answer.json()["reason"]) == (503, "redis_refused")


class Fallback:
    """A spool that stores events, or raises the given failure."""

    def __init__(self, failure: SpoolError | None = None) -> None:
        self.unavailable = False
        self.why: list[Exception] = []
        self.kept: list[dict[str, bytes]] = []
        self.failure = failure
        self.hangs = False

    def mark_unavailable(self, error: Exception) -> None:
        self.unavailable = True
        self.why.append(error)

    async def keep(self, fields: Mapping[str, bytes]) -> str:
        if self.hangs:
            await anyio.sleep_forever()
        if self.failure:
            raise self.failure
        self.kept.append(dict(fields))
        return "1-9"


@pytest.mark.parametrize(
    "failure",
    [PermissionDenied("NOPERM"), RuntimeError("a defect"), ConfigurationError("WRONGTYPE")],
)
async def test_what_the_stream_refuses_goes_to_the_spool_at_once(failure: Exception) -> None:
    fallback = Fallback()
    endpoint = Endpoint(SIGNED, Stream(failure), fallback=fallback)

    answer = await endpoint.post(OF_3, "/chatwoot/webhook/loja", headers=signature(OF_3))

    assert (answer.status_code, answer.json()) == (200, {"id": "1-9"})
    assert fallback.kept == [{"payload": OF_3, "expect": b"loja", "account": b"3"}]
    assert fallback.why == [failure]
    assert endpoint.counted() == {("200", "spooled"): 1}


async def test_a_short_outage_does_not_use_the_spool() -> None:
    fallback = Fallback()
    endpoint = Endpoint(OPEN, Stream(OUTAGE, OUTAGE), fallback=fallback)

    assert (await endpoint.post(OF_3)).status_code == 200
    assert (len(endpoint.stream.entries), fallback.kept, fallback.why) == (1, [], [])


async def test_a_longer_outage_is_waited_for_once_and_spooled() -> None:
    """The first request detects it; later ones are spooled without waiting."""
    fallback = Fallback()
    endpoint = Endpoint(OPEN, Stream(*[OUTAGE] * 999), fallback=fallback, answer_s=1.3)
    assert (await endpoint.post(OF_3)).status_code == 200
    left = len(endpoint.stream.failures)
    for _ in range(50):
        assert (await endpoint.post(OF_3)).status_code == 200

    assert left < 999
    assert len(endpoint.stream.failures) == left
    assert len(fallback.kept) == 51
    assert fallback.why == [OUTAGE]


async def test_a_stream_that_hangs_leaves_time_for_the_spool() -> None:
    fallback = Fallback()
    endpoint = Endpoint(OPEN, fallback=fallback, answer_s=1.2)
    endpoint.stream.go = anyio.Event()

    assert (await endpoint.post(OF_3)).status_code == 200
    assert len(fallback.kept) == 1
    assert "did not answer" in str(fallback.why)


async def test_concurrent_adds_to_redis_are_bounded() -> None:
    """A server that hangs holds at most 64 connections, however many webhooks arrive."""
    fallback = Fallback()
    stream = Stream()
    stream.go = anyio.Event()
    under_way = most = 0
    add = stream.add

    async def counted(fields: Mapping[str, bytes]) -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await add(fields)
        finally:
            under_way -= 1

    stream.add = counted  # type: ignore[method-assign]
    endpoint = Endpoint(OPEN, stream, fallback=fallback, answer_s=1.4)
    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(endpoint.post, OF_3)
    assert 0 < most <= 64


@pytest.mark.parametrize("reason", ["spool_full", "spool_failed"])
async def test_a_failing_spool_is_503(reason: Any) -> None:
    fallback = Fallback(SpoolError(reason, "the disk is full"))
    endpoint = Endpoint(OPEN, Stream(PermissionDenied("NOPERM")), fallback=fallback)

    answer = await endpoint.post(OF_3)

    said = {"error": "the disk is full", "reason": reason}
    assert (answer.status_code, answer.json()) == (503, said)
    assert endpoint.counted() == {("503", reason): 1}


async def test_a_disk_that_hangs_is_503_in_time() -> None:
    fallback = Fallback()
    fallback.unavailable = fallback.hangs = True
    endpoint = Endpoint(OPEN, fallback=fallback, answer_s=0.1)

    answer = await endpoint.post(OF_3)

    assert (answer.status_code, answer.json()["reason"]) == (503, "timeout")


async def test_a_defect_is_500_and_logged_once_without_the_payload() -> None:
    endpoint = Endpoint(OPEN, Stream(*[RuntimeError(OF_3.decode())] * 2))
    with capture_logs() as logs:
        await endpoint.post(OF_3)
        answer = await endpoint.post(OF_3)

    assert (answer.status_code, answer.json()["reason"]) == (500, "internal")
    (line,) = logs
    assert line["event"] == "webhook.failed"
    assert line["error"].startswith("RuntimeError at ")
    assert_silent(answer.text, logs, OF_3)


# The policy


async def test_a_closed_webhook_logs_it_once_and_rejects() -> None:
    with capture_logs() as logs:
        endpoint = Endpoint(CLOSED)

    assert [line["event"] for line in logs] == ["webhook.rejecting_all"]
    assert "set CHATWOOT_CACHE_WEBHOOK_SECRETS or CHATWOOT_CACHE_WEBHOOK_TOKEN" in str(logs)

    with capture_logs() as logs:
        answer = await endpoint.post(OF_3)

    assert (answer.status_code, answer.json()["error"]) == (503, CLOSED.closed)
    assert logs == []
    assert endpoint.counted() == {("503", "closed"): 1}


@pytest.mark.parametrize("rules", [OPEN, SIGNED, TOKENED, replace(BOTH, loopback=True)])
def test_an_open_or_protected_webhook_is_not_closed(rules: WebhookPolicy) -> None:
    with capture_logs() as logs:
        Endpoint(rules)

    assert rules.closed is None
    assert logs == []


async def test_a_rejection_is_logged_once_a_minute_for_each_reason() -> None:
    endpoint = Endpoint(SIGNED)
    with capture_logs() as logs:
        for _ in range(3):
            await endpoint.post(OF_3)
            await endpoint.post(OF_3, headers=signature(OF_3, "mistaken"))

    assert [line["reason"] for line in logs] == ["no_credentials", "bad_signature"]
    assert endpoint.counted() == {("401", "no_credentials"): 3, ("401", "bad_signature"): 3}


async def test_every_answer_is_timed() -> None:
    endpoint = Endpoint(OPEN)
    await endpoint.post(OF_3)
    await endpoint.post(b"[]")

    [timed] = endpoint.metrics.webhook_duration_seconds.collect()
    assert [sample.value for sample in timed.samples if sample.name.endswith("_count")] == [2]


def test_the_repr_of_a_policy_has_no_secrets() -> None:
    assert_silent(repr(BOTH), [], b"")


@pytest.mark.parametrize(
    "more",
    [
        {"token": ""},
        {"secrets": {3: ()}},
        {"secrets": {3: ("",)}},
        {"secrets": {3: (SECRET,), 4: ("x", SECRET)}},
    ],
)
def test_empty_and_shared_secrets_are_configuration_errors(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="CHATWOOT_CACHE_WEBHOOK_") as caught:
        replace(CLOSED, **more)

    assert_silent(str(caught.value), [], b"")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("LocalHost", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("localhost.example", False),
        ("10.0.0.1", False),
        ("127.1", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected
