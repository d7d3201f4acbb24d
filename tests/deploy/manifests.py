"""The Kubernetes manifests as kustomize renders them, and how to find things in them."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.deployment_tools import TOOLS, kubectl
from tests.helpers.servers import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
Object = dict[str, Any]

# In the order in which the example lists them; keda-redis is there instead of keda-prometheus.
ALL = ("trial-stores", "ingress", "monitoring", "keda-prometheus", "requests-per-second", "webhook", "media-volume")
# Name → overlay and components. Every file of deploy/kubernetes is in one of them (a test sees to it).
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "example": ("example", ()),
    "shared": ("overlays/shared-redis", ()),
    "shared-all": ("overlays/shared-redis", ALL),
    "shared-keda-redis": ("overlays/shared-redis", ("keda-redis", "trial-stores")),
    "local": ("overlays/local-redis", ()),
    "local-more": ("overlays/local-redis", ("ingress", "monitoring", "webhook", "media-volume")),
}


@lru_cache
def render(variant: str) -> tuple[Object, ...]:
    """The objects of a variant. Raises AssertionError with what kustomize said."""
    return build(*VARIANTS[variant])


def build(overlay: str, components: tuple[str, ...] = (), **more: Any) -> tuple[Object, ...]:
    """The objects of an overlay with components; `more` is what else a kustomization.yaml of one's own would say."""
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory).resolve()
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(KUBERNETES / overlay, here)],
            "components": [os.path.relpath(KUBERNETES / "components" / name, here) for name in components],
            **more,
        }
        (here / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        ended = subprocess.run([kubectl(), "kustomize", here], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return tuple(yaml.safe_load_all(ended.stdout))


def complaints(objects: list[Object]) -> list[str]:
    """The errors that the schemas find."""
    python = TOOLS.ready().python
    judge = ROOT / "tests" / "deploy" / "judge.py"
    ended = subprocess.run([python, judge], input=json.dumps(objects), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found: list[str] = json.loads(ended.stdout)
    return found


def of_kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [thing for thing in objects if thing["kind"] in kinds]


def named(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    return next(thing for thing in of_kind(objects, kind) if thing["metadata"]["name"] == name)


def name(thing: Object) -> str:
    return f"{thing['kind']}/{thing['metadata']['name']}"


def workloads(objects: tuple[Object, ...]) -> list[Object]:
    return of_kind(objects, "Deployment", "StatefulSet", "Job")


def agents(objects: tuple[Object, ...]) -> list[Object]:
    """The workloads that run the agent's image."""
    return [thing for thing in workloads(objects) if thing["metadata"]["name"].startswith("serving-agent")]


def pod(workload: Object) -> Object:
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def labels(workload: Object) -> dict[str, str]:
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def containers(workload: Object) -> list[Object]:
    return [*pod(workload).get("initContainers", []), *pod(workload)["containers"]]


def config(objects: tuple[Object, ...]) -> dict[str, str]:
    """The settings in the ConfigMap."""
    (found,) = of_kind(objects, "ConfigMap")
    data: dict[str, str] = found["data"]
    return data


def selects(selector: Object, workload: Object) -> bool:
    """Whether a label selector selects the workload's pods."""
    has = labels(workload)
    rules = selector.get("matchExpressions", [])
    assert all(rule["operator"] == "In" for rule in rules)
    return all(has.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        has.get(rule["key"]) in rule["values"] for rule in rules
    )


def ports(workload: Object) -> dict[str, int]:
    """Port name → number, of all its containers."""
    return {port["name"]: port["containerPort"] for part in containers(workload) for port in part.get("ports", [])}


def values(thing: Any, key: str) -> Iterator[Any]:
    """Every value under `key`, however deep."""
    if isinstance(thing, dict):
        if key in thing:
            yield thing[key]
        for value in thing.values():
            yield from values(value, key)
    elif isinstance(thing, list):
        for value in thing:
            yield from values(value, key)


# Made-up values for the lines of the example's secret
SECRETS = {
    "SECRET_KEY": "a-secret-key-of-more-than-fifty-characters-0123456789abcdef",
    "API_KEYS": "caller-key-0123456789",
    "OPERATOR_KEYS": "operator-key-0123456789",
    "METRICS_KEY": "metrics-key-0123456789",
    "DATABASE_URL": "postgres://agent:password@postgresql:5432/agent",
    "POSTGRES_PASSWORD": "password",
    "REDIS_PASSWORD": "",
}


def arguments(part: Object) -> list[str]:
    found: list[str] = part.get("args", [])
    return found


def environment(objects: tuple[Object, ...], part: Object) -> dict[str, str]:
    """The environment of a container's process, with a fixed name for the pod."""
    own = {variable["name"]: variable.get("value", "serving-agent-0") for variable in part.get("env", [])}
    return {**config(objects), **SECRETS, **own}


def pre_stop(part: Object) -> float:
    command = part.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert command[0] == "sleep"
    return float(command[1])
