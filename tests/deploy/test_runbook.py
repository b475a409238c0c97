"""What the runbook says to type works as it stands there."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import files
from tests.deploy.tools import run
from tests.e2e.process import running
from tests.events import encode, message
from tests.servers import free_port
from tests.signing import signed
from tests.waiting import wait_until

pytestmark = pytest.mark.deploy

SECRETS = ("mkdir", "password=", "echo", "openssl", "chmod")


def typed(heading: str) -> list[str]:
    """The commands of a section's first console block."""
    section = files.RUNBOOK.read_text().split(f"### {heading}\n")[1].split("\n### ")[0]
    block = re.findall(r"```console\n(.*?)```", section, re.DOTALL)[0]
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    """A copy of deploy/ in which the secrets were written as the runbook says."""
    home = tmp_path / "deploy"
    shutil.copytree(files.DEPLOY, home)
    lines = typed("Docker Compose, with a Redis of its own")
    script = "\n".join(line for line in lines if line.startswith(SECRETS))
    run("bash", "-e", "-c", script, cwd=home)
    return home


@pytest.fixture
def redis(deploy: Path) -> Iterator[dict[str, Any]]:
    """The Redis of the compose file, started by its own command."""
    service = _service(deploy, "redis")
    port = free_port()
    command = [*service["command"], "--port", str(port), "--dir", str(deploy)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield {"port": port, "health": service["healthcheck"]["test"]}
    finally:
        process.terminate()
        process.wait()


def _service(deploy: Path, name: str) -> dict[str, Any]:
    """A service with its variables at their defaults and its secrets where they lie."""
    text = (deploy / "compose.yaml").read_text()
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$")
    for secret, place in yaml.safe_load(text)["secrets"].items():
        text = text.replace(f"/run/secrets/{secret}", str(deploy / place["file"]))
    service: dict[str, Any] = yaml.safe_load(text)["services"][name]
    return service


async def test_the_secrets_of_the_runbook_open_the_compose_files_redis(
    deploy: Path, redis: dict[str, Any]
) -> None:
    uri = deploy / "secrets" / "cache_redis_uri"
    uri.write_text(uri.read_text().replace("@redis:6379", f"@127.0.0.1:{redis['port']}"))
    health = f"PATH={os.environ['PATH']}; {redis['health'][1]}"
    health = health.replace("redis-cli ", f"redis-cli -p {redis['port']} ")

    await wait_until(
        lambda: subprocess.run(["/bin/bash", "-c", health], check=False).returncode == 0,
        "the health check passes",
        timeout_s=20,
    )

    environ = _service(deploy, "chatwoot-cache")["environment"]
    folder = deploy / "worker"
    folder.mkdir()
    settings = {
        **{name: str(value or "") for name, value in environ.items()},
        "CHATWOOT_CACHE_WEBHOOK_SECRETS": '{"3": "s3cret"}',
        "CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR": str(deploy / "spool"),
        "CHATWOOT_CACHE_HTTP_PORT": "0",
        "CHATWOOT_CACHE_OPS_PORT": "0",
    }
    async with running(folder, settings) as worker:
        body = encode(message(1))
        headers = signed(body, "s3cret")
        assert worker.post(body, headers=headers).status_code == 200
