"""What a test of a deployment may ask for: an image that was built, a place to work at."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import image
from tests.deploy.image import Container
from tests.e2e.place import Place


@pytest.fixture(scope="session")
def built() -> None:
    """Build the image, as root, which mounting needs."""
    if os.geteuid() != 0:
        pytest.fail("this test mounts file systems: run it as root", pytrace=False)
    image.build()


@pytest.fixture
def container(built: None, tmp_path: Path) -> Iterator[Container]:  # noqa: ARG001 - to be there
    """A container that has not been started, with a volume of its own."""
    volume = tmp_path / "volume"
    volume.mkdir()
    tmp_path.chmod(0o755)
    with image.container(volume) as made:
        yield made


@pytest.fixture
def place(redis_uri: str, prefix: str) -> Iterator[Place]:
    """A place of the test's own on the shared server."""
    found = Place(redis_uri, prefix)
    with found.redis:
        yield found
