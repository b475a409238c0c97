"""A Prometheus of the test's own: scrapes workers every second, and answers queries."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.deploy.files import ALERTS
from tests.deploy.tools import tool
from tests.servers import free_port

_HTTP: Final = httpx.Client(timeout=10, trust_env=False)

# What Grafana puts in their place.
_VARIABLES: Final = {
    "$__rate_interval": "30s",
    "$__range": "1h",
    "$job": ".*",
    "$evolution_instance": ".*",
}


class Prometheus:
    """What it answers."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def is_ready(self) -> bool:
        """Tell whether it answers at all."""
        try:
            return _HTTP.get(f"{self._url}/status/buildinfo").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series an expression gives now, with Grafana's variables filled in."""
        answer = self._ask("query", query=filled(expression))
        result: list[dict[str, Any]] = answer["result"]
        return result

    def range(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """The series an expression gave over a time, second by second."""
        asked = {"start": str(start), "end": str(end), "step": "1"}
        answer = self._ask("query_range", query=filled(expression), **asked)
        result: list[dict[str, Any]] = answer["result"]
        return result

    def rules(self) -> Mapping[str, str]:
        """The health of each rule it has loaded."""
        groups = self._ask("rules")["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    def _ask(self, what: str, **parameters: str) -> Mapping[str, Any]:
        answer = _HTTP.post(f"{self._url}/{what}", data=parameters) if parameters else None
        answer = answer or _HTTP.get(f"{self._url}/{what}")
        said = answer.json()
        assert said["status"] == "success", (parameters, said)
        data: Mapping[str, Any] = said["data"]
        return data


def filled(expression: str) -> str:
    """An expression of the dashboard as Grafana would send it."""
    for name, text in _VARIABLES.items():
        expression = expression.replace(name, text)
    return expression


@contextmanager
def running(folder: Path, targets: Sequence[str]) -> Iterator[Prometheus]:
    """Prometheus with our rules, until the end of the block; scrapes `host:port`s."""
    port = free_port()
    configuration = folder / "prometheus.yaml"
    configuration.write_text(yaml.safe_dump(_configuration(targets)))
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={configuration}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait()


def _configuration(targets: Sequence[str]) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": "chatwoot-cache", "static_configs": [{"targets": list(targets)}]}
        ],
    }
