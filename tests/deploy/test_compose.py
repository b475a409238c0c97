"""The compose files and the stack are read by Docker's own tools, and say what they promise."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.files import DEPLOY
from tests.deploy.tools import JUDGES, run
from worker.settings.model import Settings

pytestmark = pytest.mark.deploy

# Strict: a key that Docker does not know fails.
JUDGE = """
import sys
from compose_spec import _PyCompose

_PyCompose.from_yaml(sys.stdin.read()).validate()
"""
GRACE_S = 5


def resolved(name: str, directory: Path) -> dict[str, Any]:
    """A compose file as docker-compose understands it; 1.29 does not know `name`."""
    written = yaml.safe_load((DEPLOY / name).read_text())
    written.pop("name", None)
    (directory / name).write_text(yaml.safe_dump(written))
    loaded = yaml.safe_load(run("docker-compose", "-f", name, "config", cwd=directory))
    assert isinstance(loaded, dict)
    return loaded


def stack(**variables: str) -> dict[str, Any]:
    """The stack as `docker stack deploy` would hand it to the swarm."""
    given = {"WORKER_IMAGE": "registry.example.com/chatwoot-cache:0.1.0", **variables}
    text = run("docker", "stack", "config", "-c", DEPLOY / "swarm.yaml", environ=given)
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, dict)
    return loaded


def worker_of(stack: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = stack["services"]["chatwoot-cache"]
    return found


@pytest.mark.parametrize("name", ["compose.yaml", "compose.evolution.yaml"])
def test_docker_compose_reads_it(name: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CACHE_REDIS_URI=redis://redis:6379/6\n")

    run(JUDGES, "-c", JUDGE, stdin=yaml.safe_dump(resolved(name, tmp_path)))


def test_docker_reads_the_stack() -> None:
    resolved_stack = stack(NETWORK="chatwoot_net", SECRETS_VERSION="v2")

    assert resolved_stack["networks"]["chatwoot"] == {"name": "chatwoot_net", "external": True}
    assert resolved_stack["secrets"]["webhook_secrets"]["name"].endswith("_v2")


def test_a_stack_without_an_image_says_so() -> None:
    with pytest.raises(AssertionError, match="the image that was built and pushed"):
        stack(WORKER_IMAGE="")


@pytest.mark.parametrize("name", ["compose.yaml", "compose.evolution.yaml", "swarm.yaml"])
def test_the_worker_is_sealed_and_has_time_to_drain(name: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CACHE_REDIS_URI=redis://redis:6379/6\n")
    worker = worker_of(stack() if name == "swarm.yaml" else resolved(name, tmp_path))

    assert worker["read_only"] is True
    assert worker["cap_drop"] == ["ALL"]
    assert worker["deploy"]["resources"]["limits"]["memory"]
    assert _seconds(worker["stop_grace_period"]) > _default("shutdown_timeout_s") + GRACE_S
    (network,) = worker["networks"].values()
    assert "chatwoot-cache.internal" in network["aliases"]
    assert worker["environment"]["CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR"].startswith(
        worker["volumes"][0]["target"] if name == "swarm.yaml" else "/var/lib/chatwoot-cache"
    )


def test_evolutions_settings_reach_the_worker(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "CACHE_REDIS_URI=redis://redis:6379/6\n"
        "CACHE_REDIS_PREFIX_KEY=evolution\n"
        'CHATWOOT_CACHE_WEBHOOK_SECRETS={"3": "s3cret"}\n'
    )
    environ = worker_of(resolved("compose.evolution.yaml", tmp_path))["environment"]

    assert environ["CACHE_REDIS_URI"] == "redis://redis:6379/6"
    assert environ["CACHE_REDIS_PREFIX_KEY"] == "evolution"
    assert json.loads(environ["CHATWOOT_CACHE_WEBHOOK_SECRETS"]) == {"3": "s3cret"}


def test_secrets_are_files_and_nothing_else() -> None:
    environ = worker_of(stack())["environment"]

    assert environ["CACHE_REDIS_URI_FILE"] == "/run/secrets/cache_redis_uri"
    assert environ["CHATWOOT_CACHE_WEBHOOK_SECRETS_FILE"] == "/run/secrets/webhook_secrets"


def test_the_proxy_routes_the_webhook_and_nothing_else() -> None:
    labels = worker_of(stack(WEBHOOK_HOST="cache.example.com"))["deploy"]["labels"]
    (rule,) = (value for name, value in labels.items() if name.endswith(".rule"))

    assert rule == "Host(`cache.example.com`) && PathPrefix(`/chatwoot/webhook`)"


def test_a_new_task_comes_first_under_a_name_of_its_own() -> None:
    worker = worker_of(stack())

    assert worker["deploy"]["update_config"]["order"] == "start-first"
    assert "{{.Task.Slot}}" in worker["hostname"]
    assert "{{.Task.ID}}" in worker["environment"]["CHATWOOT_CACHE_STREAM_CONSUMER"]


def _default(field: str) -> float:
    return float(Settings.model_fields[field].default)


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))
