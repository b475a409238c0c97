"""Workers of 0.1.0 and of this release write one cache: nothing goes backwards, nothing mixes."""

import uuid
from collections.abc import Iterator
from functools import reduce
from itertools import pairwise
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import given, settings, strategies as st

from tests.core.merge_model import judge
from tests.core.rows import MESSAGE_ID, PLACEHOLDER, Reading, as_of_0_1_0, histories
from worker.core.cache_keys import CacheKeys
from worker.core.documents import Message, PendingWrite
from worker.core.merge import STAMP_DIGITS, merge
from worker.store.cache.document_writer import CacheSettings, DocumentWriter, decode
from worker.store.client import Client, create_client

NEVER_OLD_MS = 2**41
INSTANCE = "loja"

Step = tuple[Reading, bool, bool]
"""A reading, and whether its event was decoded, and its document written, by 0.1.0."""


def steps() -> st.SearchStrategy[list[Step]]:
    """Readings of one message in any order, some more than once, each settled by either release."""
    return histories(min_size=2, max_size=6).flatmap(
        lambda history: st.lists(
            st.tuples(st.sampled_from(history), st.booleans(), st.booleans()),
            min_size=2,
            max_size=10,
        )
    )


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal("asyncio", {"use_uvloop": True}) as made:
        yield made


@pytest.fixture(scope="module")
def shared(portal: BlockingPortal, redis_uri: str) -> Iterator[Client]:
    client = create_client(redis_uri)
    yield client
    portal.call(client.aclose)


@settings(max_examples=150, deadline=None)
@given(steps())
@pytest.mark.usefixtures("server_binary")
def test_a_message_ends_in_the_join_of_what_either_wrote(
    portal: BlockingPortal, shared: Client, some: list[Step]
) -> None:
    portal.call(_write, shared, some)


async def _write(client: Client, some: list[Step]) -> None:
    prefix = f"test-{uuid.uuid4().hex}"
    key = CacheKeys(prefix).message(INSTANCE, MESSAGE_ID)
    new, old = (DocumentWriter(client, CacheSettings(prefix, ttl_s=1000)) for _ in range(2))
    script = Path(__file__).with_name("write_documents_0_1_0.lua").read_text()
    old._script = client.register_script(script)
    made: list[Message] = []
    stored: list[Message] = []
    for reading, is_decoded_by_old, is_written_by_old in some:
        message = reading.documents()[0]
        made.append(as_of_0_1_0(message) if is_decoded_by_old else message)
        writer = old if is_written_by_old else new
        await writer.write([PendingWrite(made[-1], NEVER_OLD_MS)])
        stored.append(decode(await client.get(key), Message))
        assert stored[-1] == reduce(merge, made)
        assert len(stored[-1].revision) == 3 * STAMP_DIGITS
    for before, after in pairwise(stored):
        assert judge(before.revision, after.revision) == "stale"
        assert after.deleted or not before.deleted
        assert not after.deleted or after.content == PLACEHOLDER
        assert after.source_id is not None or before.source_id is None
    await client.delete(key, *await client.keys(f"{prefix}:*"))
