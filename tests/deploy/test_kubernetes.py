"""Kustomize builds every form, and the API's own schemas accept what comes out."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.files import DEPLOY, rules
from tests.deploy.tools import JUDGES, run
from worker.settings.model import Settings

pytestmark = pytest.mark.deploy

HOME: Final = DEPLOY / "kubernetes"
VERSIONS: Final = ("1.29", "1.33", "1.37")
"""1.29 is the first with native sidecars switched on."""
OPERATORS: Final = {"PodMonitor", "ScaledObject"}

# Their schemas come as models that pass over what they do not know: what they read has to be
# all that was written.
JUDGE = """
import sys, yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor

for resource in yaml.safe_load_all(sys.stdin):
    model = {"ScaledObject": ScaledObject, "PodMonitor": PodMonitor}[resource["kind"]]
    read = model.model_validate(resource).model_dump(by_alias=True, exclude_none=True, mode="json")
    assert read == resource, (read, resource)
"""

EVOLUTION = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: evolution-api
spec:
  selector: {matchLabels: {app: evolution-api}}
  template:
    metadata: {labels: {app: evolution-api}}
    spec:
      containers:
        - name: evolution-api
          image: evoapicloud/evolution-api:v2.3.6
          ports: [{containerPort: 8080, name: http}]
"""


def built(directory: Path, *options: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(run("kubectl", "kustomize", *options, directory)))


@pytest.fixture(scope="module")
def deployment() -> list[dict[str, Any]]:
    return built(HOME / "example")


@pytest.fixture
def sidecar(tmp_path: Path) -> list[dict[str, Any]]:
    """The sidecar form, added to a kustomization that has an Evolution."""
    (tmp_path / "evolution.yaml").write_text(EVOLUTION)
    (tmp_path / "sidecar").mkdir()
    for file in (HOME / "sidecar").iterdir():
        (tmp_path / "sidecar" / file.name).write_text(file.read_text())
    overlay = {"resources": ["evolution.yaml"], "components": ["sidecar"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return built(tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_accept_every_resource(
    version: str, deployment: list[dict[str, Any]], sidecar: list[dict[str, Any]], tmp_path: Path
) -> None:
    for number, resource in enumerate([*deployment, *sidecar]):
        if resource["kind"] in OPERATORS:
            continue
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump(resource))
        run(JUDGES, "-m", "kubernetes_validate", "--strict", "--quiet", "-k", version, file)


def test_the_operators_schemas_accept_theirs(deployment: list[dict[str, Any]]) -> None:
    theirs = [resource for resource in deployment if resource["kind"] in OPERATORS]
    assert {resource["kind"] for resource in theirs} == OPERATORS

    run(JUDGES, "-c", JUDGE, stdin=yaml.safe_dump_all(theirs))


def test_every_resource_meets_the_others(deployment: list[dict[str, Any]]) -> None:
    """Selectors, names of ports and of the generated configuration fit together."""
    (pods,) = (r["spec"] for r in deployment if r["kind"] == "Deployment")
    labels = pods["template"]["metadata"]["labels"].items()
    ports = {port["name"] for port in _containers(pods)[0]["ports"]}
    (configured,) = (r["metadata"]["name"] for r in deployment if r["kind"] == "ConfigMap")

    for resource in deployment:
        for selector in _selectors(resource):
            assert selector.items() <= labels, resource["kind"]
        assert set(_ports(resource)) <= ports, resource["kind"]
    assert _containers(pods)[0]["envFrom"] == [{"configMapRef": {"name": configured}}]


def test_a_pod_has_time_to_drain_and_is_sealed(
    deployment: list[dict[str, Any]], sidecar: list[dict[str, Any]]
) -> None:
    (pods,) = (r["spec"]["template"]["spec"] for r in deployment if r["kind"] == "Deployment")
    shutdown_s = Settings.model_fields["shutdown_timeout_s"].default
    assert pods["terminationGracePeriodSeconds"] > shutdown_s + 5 + 3

    (beside,) = (
        r["spec"]["template"]["spec"]["initContainers"][0]
        for r in sidecar
        if r["kind"] == "Deployment"
    )
    assert beside["restartPolicy"] == "Always"
    for container in (pods["containers"][0], beside):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_the_sidecar_has_a_service_that_finds_it(sidecar: list[dict[str, Any]]) -> None:
    (pods,) = (r["spec"]["template"] for r in sidecar if r["kind"] == "Deployment")
    (service,) = (r["spec"] for r in sidecar if r["kind"] == "Service")
    ports = {port["name"] for port in pods["spec"]["initContainers"][0]["ports"]}

    assert service["selector"].items() <= pods["metadata"]["labels"].items()
    assert service["ports"][0]["targetPort"] in ports
    assert pods["metadata"]["labels"]["app"] == "evolution-api"


def test_the_scaler_asks_for_the_backlog_of_the_alerts(deployment: list[dict[str, Any]]) -> None:
    (scaled,) = (r["spec"] for r in deployment if r["kind"] == "ScaledObject")
    query = scaled["triggers"][0]["metadata"]["query"]

    plain = query.replace('{job="chatwoot-cache"}', "").split()
    assert plain == (
        rules("record")["job:chatwoot_cache_backlog_entries:max"]
        .replace(" by (job) (", "(")
        .split()
    )


def _containers(pods: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pods["template"]["spec"]["containers"]
    return found


def _selectors(resource: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    spec = resource.get("spec", {})
    match resource["kind"]:
        case "Service":
            yield spec["selector"]
        case "PodDisruptionBudget" | "PodMonitor":
            yield spec["selector"]["matchLabels"]
        case "NetworkPolicy":
            yield spec["podSelector"]["matchLabels"]


def _ports(resource: Mapping[str, Any]) -> Iterator[str]:
    spec = resource.get("spec", {})
    match resource["kind"]:
        case "Service":
            yield from (port["targetPort"] for port in spec["ports"])
        case "PodMonitor":
            yield from (endpoint["port"] for endpoint in spec["podMetricsEndpoints"])
        case "NetworkPolicy":
            yield from (port["port"] for rule in spec["ingress"] for port in rule["ports"])
