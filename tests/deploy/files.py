"""What stands in deploy/: where it is, and which of our names it uses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

HOME: Final = Path(__file__).parents[2]
DEPLOY: Final = HOME / "deploy"
ALERTS: Final = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD: Final = DEPLOY / "grafana" / "dashboard.json"
RUNBOOK: Final = DEPLOY / "README.md"

_SERIES: Final = re.compile(r"(?<![\w:])chatwoot_cache_[a-z0-9_]+")
_SETTING: Final = re.compile(r"\b(?:CACHE_REDIS|CACHE_LOCAL|CHATWOOT_CACHE)_[A-Z0-9_]+")
_LABELS: Final = re.compile(r"(chatwoot_cache_[a-z0-9_]+)\{([^}]*)\}")


def written() -> Iterator[tuple[str, str]]:
    """Each file an operator copies, the Dockerfile among them: its name and its text."""
    for path in (HOME / "Dockerfile", *sorted(DEPLOY.rglob("*"))):
        if path.is_file():
            yield str(path.relative_to(HOME)), path.read_text()


def rules(kind: str) -> dict[str, str]:
    """The expressions of all rules of a kind (`alert` or `record`), by name."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule[kind]: rule["expr"] for group in groups for rule in group["rules"] if kind in rule}


def panels() -> dict[str, list[str]]:
    """The queries of the dashboard, by the title of their panel."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return {
        f"{panel['title']} ({panel['type']})": [target["expr"] for target in panel["targets"]]
        for panel in found
        if panel["type"] != "row"
    }


def expressions() -> dict[str, list[str]]:
    """Every query of alerts and dashboard, by where it stands."""
    alone = {**rules("alert"), **rules("record")}
    return {**{name: [query] for name, query in alone.items()}, **panels()}


def series(text: str) -> set[str]:
    """The series of ours that a text names."""
    return set(_SERIES.findall(text))


def labels(query: str) -> set[tuple[str, str]]:
    """The labels that a query's selectors give our series."""
    return {
        (name, label)
        for name, selectors in _LABELS.findall(query)
        for label in re.findall(r"(\w+)\s*[=!]", selectors)
    }


def settings(text: str) -> set[str]:
    """The settings of ours that a text names."""
    return set(_SETTING.findall(text))
