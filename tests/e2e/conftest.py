"""A place for each test: on the shared server, or on one that may be broken."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.place import Place
from tests.e2e.process import Worker
from tests.servers import Server

ServerStarter = Callable[..., tuple[Server, Place]]


@pytest.fixture(scope="module", autouse=True)
def every_worker_ends_well() -> Iterator[None]:
    """Whatever a test did to it, SIGTERM ends a worker with 0."""
    yield
    Worker.collect()


@pytest.fixture
def place(redis_uri: str, prefix: str) -> Iterator[Place]:
    """A place of the test's own on the shared server."""
    found = Place(redis_uri, prefix)
    with found.redis:
        yield found


@pytest.fixture
def private(server_binary: Path, prefix: str) -> Iterator[ServerStarter]:
    """Start a server for this test alone, with options of its own, and give a place on it."""
    with ExitStack() as stack:

        def start(*options: str) -> tuple[Server, Place]:
            server = stack.enter_context(Server(server_binary, *options))
            found = Place(server.uri, prefix)
            stack.enter_context(found.redis)
            return server, found

        yield start
