"""The image's own command in a container, as an orchestrator starts, asks and stops it."""

from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen
from typing import Final

import httpx

from tests.deploy.image import Container
from tests.e2e.place import Place
from tests.servers import free_port
from tests.signing import signed
from tests.waiting import wait_until

SECRET: Final = "s3cret"


class Started:
    """The image's own command, and its ports."""

    def __init__(self, container: Container, place: Place, log: Path, **settings: str) -> None:
        self.container = container
        self.log = log
        self.ports = free_port(), free_port()
        http, ops = map(str, self.ports)
        self.environ = {
            "CACHE_REDIS_URI": place.uri,
            "CACHE_REDIS_PREFIX_KEY": place.name,
            "CHATWOOT_CACHE_STREAM_KEY": place.stream,
            "CHATWOOT_CACHE_HTTP_PORT": http,
            "CHATWOOT_CACHE_OPS_PORT": ops,
            **settings,
        }
        self.process = self.run([*container.config["Entrypoint"], *container.config["Cmd"]])

    def run(self, command: Sequence[str]) -> Popen[bytes]:
        return self.container.start(command, self.environ, self.log)

    def health(self) -> int:
        """What the image's health check says now."""
        kind, *command = self.container.config["Healthcheck"]["Test"]
        assert kind == "CMD"  # no shell
        return self.run(command).wait(10)

    def post(self, body: bytes, secret: str = SECRET) -> httpx.Response:
        headers = {"Content-Type": "application/json", **signed(body, secret)}
        url = f"http://127.0.0.1:{self.ports[0]}/chatwoot/webhook"
        return httpx.post(url, content=body, headers=headers, trust_env=False)

    async def until_ready(self, code: int = 200) -> None:
        url = f"http://127.0.0.1:{self.ports[1]}/readyz"

        def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return httpx.get(url, trust_env=False).status_code == code
            except httpx.HTTPError:
                return False

        await wait_until(answers, "the container answers", timeout_s=30)
