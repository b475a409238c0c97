"""The description at `/openapi.json`, held against the server."""

import json
import re
from collections.abc import Callable
from typing import Any

import anyio.to_thread
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from tests import events
from tests.reads.test_reads_api import ALL, opened
from tests.store.test_document_writer import INSTANCE, pending_writes
from worker.reads import openapi

Operation = APIOperation[Any, Any, Any, Any]

DOCUMENT = json.loads(openapi.DOCUMENT)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS: list[Operation] = [
    found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)
]

EXAMPLES = 25


def held_to(operation: Operation, url: str, mode: GenerationMode) -> Callable[[], None]:
    """Send what the description allows, or forbids; each answer must be as described."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Case[Any]) -> None:
        # A length that is no number is refused below the application, by the HTTP parser.
        for name in [name for name in case.headers or () if name.lower() == "content-length"]:
            del case.headers[name]
        if mode is GenerationMode.POSITIVE:
            case.path_parameters["instance"] = INSTANCE
            if "wait_for" in case.query:
                case.query["wait_ms"] = 0
        case.call_and_validate(base_url=url, headers={"apikey": ALL})

    return check


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.path)
async def test_the_server_does_what_its_description_says(
    operation: Operation, mode: GenerationMode, redis_uri: str, prefix: str
) -> None:
    """For generated questions, with the shapes of every answer checked."""
    async with opened(redis_uri, prefix) as desk:
        for number in range(1, 6):
            await desk.cache.write(pending_writes(events.message(number, conversation_id=1)))
        url = f"http://127.0.0.1:{desk.server.port}"
        await anyio.to_thread.run_sync(held_to(operation, url, mode))


async def test_the_description_needs_no_key(redis_uri: str, prefix: str) -> None:
    async with opened(redis_uri, prefix) as desk:
        reply = await desk.get("/openapi.json")

    assert (reply.code, reply.body) == (200, DOCUMENT)
    assert len(reply.body["paths"]) == len(OPERATIONS) == 5


def test_every_reference_of_the_description_has_a_schema() -> None:
    text = json.dumps(DOCUMENT)
    names = set(re.findall('"#/components/schemas/([^"]+)"', text))

    assert names == set(DOCUMENT["components"]["schemas"])
