"""The log tells what happened, and nothing of what people wrote, who they are, or what opens doors.

Every sample and every malformed shape goes through one worker, with refusals, conflicts, letters,
a defect and an outage; then each line is searched.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.conftest import ServerStarter
from tests.e2e.process import running
from tests.e2e.test_crashes import DEFECT, FAULTS
from tests.e2e.test_malformed import LARGE, MALFORMED
from tests.events import PAYLOADS, encode, message
from tests.waiting import wait_until

MARKS = ("Mrk-content", "mrk-secret", "mrk-token", "mrk-wrong", "+5511911112222", "5511911112222")
PERSONAL = {"content", "processed_message_content", "phone_number", "email", "identifier", "token"}


def personal(node: Any, name: str = "") -> Iterator[str]:
    """Every text of a sample that is somebody's."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from personal(value, key)
    elif isinstance(node, list):
        for item in node:
            yield from personal(item, name)
    elif isinstance(node, str) and name in PERSONAL and len(node) > 5:
        yield node


async def test_no_line_of_the_log_is_personal(private: ServerStarter, tmp_path: Path) -> None:
    server, place = private("--appendonly", "yes")
    samples = [path.read_bytes() for path in PAYLOADS.glob("*/*.json")]
    forbidden = {text for body in samples for text in personal(json.loads(body))} | {*MARKS}
    settings = place.settings(
        WEBHOOK_SECRETS="{9: mrk-secret}", WEBHOOK_TOKEN="mrk-token", LOG_LEVEL="debug"
    )
    async with running(tmp_path, settings | FAULTS) as worker:
        for body in samples:
            assert worker.post(body, "?token=mrk-token").status_code in (200, 401)
        for token in ("?token=mrk-wrong", "/%2B5511911112222?token=mrk-wrong", "?token=mrk-token"):
            worker.post(b'{"event": "Mrk-content', token)
        worker.post(encode(message(1, content="Mrk-content")), "/loja-boreal?token=mrk-token")
        place.add_entries(make() for make, _ in (*MALFORMED.values(), *LARGE.values()))
        place.add(
            DEFECT | {"content": DEFECT["content"] + "Mrk-content"},
            encode(message(content="Mrk-content"))[:-5],
            message(2, content="Mrk-content", status="Mrk-content") | {"id": "Mrk-content"},
            {"event": "message_created", "Mrk-content": {"+5511911112222": [{"x": {}}]}},
            b'{"event": "message_created", "id": 1, "content": "Mrk-content" "+5511911112222"}',
            message(3) | {"sender": {"+5511911112222": 1, "name": ["Mrk-content"]}},
        )
        await wait_until(lambda: len(place.pending()) == 1, "all but the defect", timeout_s=10)
        server.kill()
        await wait_until(lambda: worker.logged("redis.unavailable"), "it noticed")
        server.start()
        await wait_until(lambda: worker.logged("redis.recovered"), "it is back")
        assert await worker.stop() == 0

        assert len(forbidden) > 20
        assert {line["event"] for line in worker.lines} >= {
            "entry.buried",
            "entry.failed",
            "webhook.rejected",
            "redis.unavailable",
        }
        log = worker.log + (tmp_path / "stdout.log").read_text()
    assert [text for text in forbidden if text in log or json.dumps(text)[1:-1] in log] == []
    # No telephone number in any spelling, and no traceback, which would quote one.
    assert re.findall(r"\b55\d{10,11}\b", log) == []
    assert "Traceback" not in log
