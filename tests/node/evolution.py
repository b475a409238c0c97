"""Evolution reads our documents and clears one instance, and our readers see it: `make test-node`.

Not part of `make test`: it needs Node and a package for it.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tests import events
from tests.store.test_document_reader import CacheFixture, tracked
from tests.store.test_document_writer import INSTANCE, pending_writes
from tests.waiting import wait_until
from worker.core.documents import PendingWrite
from worker.store.client import create_client

SCRIPT = Path(__file__).with_name("evolution.mjs")


def evolution(*arguments: str) -> Any:
    """Do what Evolution does; gives what it got."""
    node = shutil.which("node")
    assert node, "Node is not installed"
    done = subprocess.run([node, SCRIPT, *arguments], capture_output=True, check=True, timeout=30)
    return json.loads(done.stdout)


async def test_evolution_reads_what_we_write(redis_uri: str, prefix: str) -> None:
    """`GET prefix:module:key`, then `JSON.parse`."""
    async with create_client(redis_uri) as own:
        shelf = CacheFixture(own, prefix, None)
        await shelf.write(events.message(7, content='Olá, 🙂 "aspas"', source_id="WAID:A"))

    message = evolution(redis_uri, prefix, "get", f"{INSTANCE}:message:7")
    conversation = evolution(redis_uri, prefix, "get", f"{INSTANCE}:conversation:1584")

    assert (message["id"], message["content"]) == (7, 'Olá, 🙂 "aspas"')
    assert conversation["contact"]["phone_number"] == "+5511900000042"
    assert evolution(redis_uri, prefix, "get", f"{INSTANCE}:source:WAID%3AA") == 7
    assert evolution(redis_uri, prefix, "get", f"{INSTANCE}:contact:5511900000042") == 1584


async def test_evolution_clears_one_instance_and_our_readers_see_it(
    redis_uri: str, prefix: str
) -> None:
    """With names that its unescaped SCAN would take for others'."""
    others = (f"{INSTANCE}:2", f"{INSTANCE}*", f"x{INSTANCE}")
    async with create_client(redis_uri) as own, tracked(redis_uri, prefix) as local:
        shelf = CacheFixture(own, prefix, local)
        await shelf.write(events.message(1), events.message(2))
        for name in others:
            copies = [
                PendingWrite(replace(draft.document, instance=name), draft.event_ms)
                for draft in pending_writes(events.message(1))
            ]
            await shelf.writer.write(copies)
        await shelf.wait_for_invalidations()
        assert await shelf.ids() == [1, 2]

        assert evolution(redis_uri, prefix, "clear", INSTANCE) == 5
        await wait_until(lambda: gone(shelf), "our readers see it", timeout_s=1)
        assert await shelf.of().conversation(1584) is None
        assert all([await shelf.reader.of(name).message(1) for name in others])


async def gone(shelf: CacheFixture) -> bool:
    """Whether nothing is left of the messages."""
    return await shelf.of().message(1) is None and await shelf.of().message(2) is None
