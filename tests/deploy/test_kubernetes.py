"""The Kubernetes manifests, rendered by kustomize, judged by Kubernetes' own schemas; what they name exists."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import manifests
from tests.deploy.manifests import KUBERNETES, VARIANTS, Object, agents, name, of_kind, pod, render, selects, workloads

pytestmark = pytest.mark.slow

EVERY = pytest.mark.parametrize("variant", VARIANTS)
SECRET = "serving-agent-secret"


@EVERY
def test_the_schemas_find_nothing(variant: str) -> None:
    assert manifests.complaints(list(render(variant))) == []


def test_the_schemas_would_find_something() -> None:
    objects = {name(thing): thing for thing in copy.deepcopy(render("shared-all"))}
    objects["Deployment/serving-agent-web"]["spec"]["template"]["spec"]["securityContxt"] = {}
    objects["Service/serving-agent"]["spec"]["ports"][0]["port"] = "eighty"
    objects["ScaledObject/serving-agent-worker"]["spec"]["minReplicas"] = 1
    objects["PodMonitor/serving-agent"]["spec"]["podMetricsEndpoints"] = {}
    wrong = [*objects.values(), {"apiVersion": "apps/v1", "kind": "Deploymint", "metadata": {"name": "x"}}]
    found = [complaint.split(":")[0] for complaint in manifests.complaints(wrong)]
    assert sorted(found) == [
        "Deployment/serving-agent-web",
        "Deploymint/x",
        "PodMonitor/serving-agent",
        "ScaledObject/serving-agent-worker",
        "Service/serving-agent",
    ]


def test_every_file_is_part_of_some_variant() -> None:
    """Kustomize reads a directory's kustomization.yaml and what it names, no more."""
    used: set[Path] = set()

    def visit(directory: Path) -> None:
        used.add(directory / "kustomization.yaml")
        kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
        listed = [*kustomization.get("resources", []), *kustomization.get("components", [])]
        listed += [
            path for generator in kustomization.get("configMapGenerator", []) for path in generator.get("envs", [])
        ]
        for entry in (directory / path for path in listed):
            if entry.is_dir():
                visit(entry.resolve())
            else:
                used.add(entry.resolve())

    for overlay, components in VARIANTS.values():
        for directory in (overlay, *(f"components/{component}" for component in components)):
            visit(KUBERNETES / directory)
    assert {path for path in KUBERNETES.rglob("*") if path.is_file()} - used == {
        KUBERNETES / "example/secret.env.example"
    }


@EVERY
def test_what_pods_refer_to_exists_and_secrets_are_only_referred_to(variant: str) -> None:
    objects = render(variant)
    assert not of_kind(objects, "Secret")
    accounts = {thing["metadata"]["name"] for thing in of_kind(objects, "ServiceAccount")}
    claims = {thing["metadata"]["name"] for thing in of_kind(objects, "PersistentVolumeClaim")}
    (config,) = (thing["metadata"]["name"] for thing in of_kind(objects, "ConfigMap"))
    for workload in agents(objects):
        assert pod(workload)["serviceAccountName"] in accounts
    for workload in workloads(objects):
        assert {ref["name"] for ref in manifests.values(workload, "configMapRef")} <= {config}
        secrets = [*manifests.values(workload, "secretRef"), *manifests.values(workload, "secretKeyRef")]
        assert {ref["name"] for ref in secrets} <= {SECRET}
        assert {claim["claimName"] for claim in manifests.values(workload, "persistentVolumeClaim")} <= claims
        templates = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"] for volume in pod(workload).get("volumes", [])} | templates
        for part in manifests.containers(workload):
            assert {mount["name"] for mount in part.get("volumeMounts", [])} <= volumes
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if "httpGet" in part.get(probe, {}):
                    assert part[probe]["httpGet"]["port"] in {port["name"] for port in part["ports"]}


@EVERY
def test_a_service_reaches_one_workload_at_a_port_that_it_has(variant: str) -> None:
    objects = render(variant)
    for service in of_kind(objects, "Service"):
        (target,) = [w for w in workloads(objects) if selects({"matchLabels": service["spec"]["selector"]}, w)]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(manifests.ports(target))
    for workload in of_kind(objects, "StatefulSet"):
        assert workload["spec"]["serviceName"] in {thing["metadata"]["name"] for thing in of_kind(objects, "Service")}
    for ingress in of_kind(objects, "Ingress"):
        for backend in manifests.values(ingress, "service"):
            service = manifests.named(objects, "Service", backend["name"])
            assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


@EVERY
def test_a_selector_selects_what_its_workload_makes_and_nothing_else(variant: str) -> None:
    objects = render(variant)
    for workload in of_kind(objects, "Deployment", "StatefulSet"):
        assert [name(w) for w in workloads(objects) if selects(workload["spec"]["selector"], w)] == [name(workload)]
        for constraint in pod(workload).get("topologySpreadConstraints", []):
            assert [name(w) for w in workloads(objects) if selects(constraint["labelSelector"], w)] == [name(workload)]
    for budget in of_kind(objects, "PodDisruptionBudget"):
        assert len([w for w in workloads(objects) if selects(budget["spec"]["selector"], w)]) == 1
    for monitor in of_kind(objects, "PodMonitor"):
        watched = [w for w in workloads(objects) if selects(monitor["spec"]["selector"], w)]
        known = {port for workload in watched for port in manifests.ports(workload)}
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= known


@EVERY
def test_every_object_says_what_it_belongs_to(variant: str) -> None:
    for thing in render(variant):
        if thing["kind"] in ("ConfigMap", "Namespace"):  # the first is made by kustomize
            continue
        assert thing["metadata"]["labels"]["app.kubernetes.io/name"] in ("serving-agent", "postgresql", "redis")
    for workload in agents(render(variant)):
        labels = manifests.labels(workload)
        assert {"app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/part-of"} <= set(labels)


def violations(workload: Object) -> list[str]:
    """Where a pod is not as Kubernetes' Pod Security Standard "restricted" asks, or not as we do beyond it."""
    spec, found = pod(workload), []
    context = spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        found.append("it may be root")
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("no seccomp profile")
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        found.append("it is on the host's network, or sees its processes")
    if spec.get("automountServiceAccountToken") is not False:
        found.append("a token of the Kubernetes API is mounted")
    allowed = {"emptyDir", "persistentVolumeClaim", "configMap", "secret", "projected", "downwardAPI"}
    found += [f"volume {volume['name']}" for volume in spec.get("volumes", []) if set(volume) - {"name"} - allowed]
    for part in manifests.containers(workload):
        context = part.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            found.append(f"{part['name']}: it may gain privileges")
        if context.get("capabilities") != {"drop": ["ALL"]}:
            found.append(f"{part['name']}: it keeps capabilities")
        if context.get("readOnlyRootFilesystem") is not True:
            found.append(f"{part['name']}: its file system can be written")
        if any(port.get("hostPort") for port in part.get("ports", [])):
            found.append(f"{part['name']}: a port of the host")
        if not part.get("resources", {}).get("requests") or "memory" not in part["resources"].get("limits", {}):
            found.append(f"{part['name']}: no bounds on what it uses")
    return found


@EVERY
def test_pods_are_restricted(variant: str) -> None:
    assert [
        (name(workload), violations(workload)) for workload in workloads(render(variant)) if violations(workload)
    ] == []


def test_a_pod_that_is_not_restricted_would_be_found() -> None:
    workload = copy.deepcopy(agents(render("shared"))[0])
    spec = pod(workload)
    spec["securityContext"] = {}
    spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    spec["containers"][0]["securityContext"]["capabilities"] = {"drop": ["ALL"], "add": ["NET_RAW"]}
    assert len(violations(workload)) == 4


@EVERY
def test_every_image_of_the_agent_is_the_same_and_others_have_a_tag(variant: str) -> None:
    images: dict[bool, set[str]] = {True: set(), False: set()}
    for workload in workloads(render(variant)):
        for part in manifests.containers(workload):
            images["serving-agent" in part["image"]].add(part["image"])
    expected = "registry.example.com/serving-agent:0.1.0" if variant == "example" else "serving-agent"
    assert images[True] == {expected}
    assert all(re.search(r":\d", image) for image in images[False])


def test_the_pod_with_its_own_redis_runs_what_the_deployments_run() -> None:
    (whole,) = [w for w in agents(render("local")) if w["kind"] == "StatefulSet"]
    ours = {part["name"]: part for part in manifests.containers(whole)}
    waits = ours.pop("wait-for-migrations")
    assert ours.pop("redis")["restartPolicy"] == "Always"
    for deployment in of_kind(render("shared"), "Deployment"):
        init, theirs = manifests.containers(deployment)
        assert _alike(waits, init)
        assert _alike(ours.pop(theirs["name"]), theirs)
    assert ours == {}


def _alike(ours: Object, theirs: Object) -> bool:
    """But for the volumes' names, the queue's name, and how long preStop waits."""

    def essence(part: Object) -> Any:
        part = copy.deepcopy(part)
        env = part.pop("env", [])
        assert [variable["name"] for variable in env] in ([], ["TASK_TYPE_NAME"])
        part["volumeMounts"] = [mount["mountPath"] for mount in part["volumeMounts"]]
        part["envFrom"] = [list(source) for source in part["envFrom"]]
        part.get("lifecycle", {}).get("preStop", {}).pop("exec", None)
        return part

    return bool(essence(ours) == essence(theirs))
