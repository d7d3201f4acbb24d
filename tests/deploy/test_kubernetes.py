"""Kustomize renders the manifests; they fit Kubernetes' own schemas and refer only to objects that exist."""

import base64
import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings

from tests.deploy import manifests
from tests.deploy.manifests import (
    KUBERNETES,
    VARIANTS,
    Object,
    agents,
    build,
    name,
    named,
    of_kind,
    pod,
    render,
    selects,
    workloads,
)
from tests.helpers.deployment_tools import kubectl
from tests.helpers.pages import DEPLOYING, UPGRADING, table, word

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


def test_the_deploying_page_names_the_versions_that_the_schemas_are_of() -> None:
    judge = (Path(__file__).with_name("judge.py")).read_text()
    (versions,) = re.findall(r"^VERSIONS = \((.*)\)$", judge, re.MULTILINE)
    first, *_, last = re.findall(r"1\.\d+", versions)
    assert f"Kubernetes {first} or later" in DEPLOYING
    assert f"schemas from {first} to {last}" in DEPLOYING


def test_the_deploying_page_lists_every_base_overlay_and_component() -> None:
    listed = [word(row[0]) for row in table("in `deploy/kubernetes`", DEPLOYING)]
    there = [str(path.parent.relative_to(KUBERNETES)) for path in KUBERNETES.rglob("kustomization.yaml")]
    assert sorted(listed) == sorted(there)


def test_every_file_is_part_of_some_variant() -> None:
    """Kustomize reads a directory's kustomization.yaml and the files it names, no more."""
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


# The deploying page's table: the objects that each component adds to the overlay shared-redis
ADDED = {
    "trial-stores": {"StatefulSet/postgresql", "StatefulSet/redis", "Service/postgresql", "Service/redis"},
    "ingress": {"Ingress/serving-agent"},
    "monitoring": {"PodMonitor/serving-agent"},
    "keda-prometheus": {"ScaledObject/serving-agent-worker"},
    "keda-redis": {"ScaledObject/serving-agent-worker"},
    "requests-per-second": set(),
    "media-volume": {"PersistentVolumeClaim/serving-agent-media"},
    "webhook": {"Deployment/serving-agent-webhook", "Service/serving-agent-webhook"},
}


@pytest.mark.parametrize("component", [path.name for path in sorted((KUBERNETES / "components").iterdir())])
def test_a_component_adds_the_documented_objects(component: str) -> None:
    added = {name(thing) for thing in build("overlays/shared-redis", (component,))}
    added -= {name(thing) for thing in render("shared")}
    rules = {each for each in added if each.startswith(("NetworkPolicy/", "PodDisruptionBudget/"))}
    assert added - rules == ADDED[component]


def test_the_overlay_with_a_shared_redis_is_three_deployments_without_stores() -> None:
    assert {name(workload) for workload in workloads(render("shared"))} == {
        "Deployment/serving-agent-web",
        "Deployment/serving-agent-worker",
        "Deployment/serving-agent-scheduler",
        "Job/serving-agent-migrate",
    }


def test_both_overlays_have_the_base() -> None:
    base = {name(thing) for thing in build("base") if thing["kind"] != "ConfigMap"}  # its name has a suffix
    assert {"Job/serving-agent-migrate", "Service/serving-agent", "NetworkPolicy/serving-agent-deny"} <= base
    for variant in ("shared", "local"):
        assert base <= {name(thing) for thing in render(variant)}


def test_the_trials_stores_are_one_pod_each() -> None:
    stores = of_kind(build("overlays/shared-redis", ("trial-stores",)), "StatefulSet")
    assert [store["spec"]["replicas"] for store in stores] == [1, 1]


def test_uploads_on_a_shared_volume_are_mounted_where_files_are_written_and_purged() -> None:
    for variant in ("shared-all", "local-more"):
        objects = render(variant)
        (claim,) = of_kind(objects, "PersistentVolumeClaim")
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        for workload in agents(objects):
            for part in manifests.containers(workload):
                mounts = {mount["mountPath"] for mount in part["volumeMounts"]}
                assert ("/media" in mounts) == (part["name"] in ("web", "worker", "webhook")), part["name"]


# --- The commands in the documentation


def test_a_secret_is_made_of_the_example_filled_in(tmp_path: Path) -> None:
    """By the command of the deploying page, but without a cluster; comments and empty lines do no harm."""
    example = (KUBERNETES / "example/secret.env.example").read_text()
    (tmp_path / "secret.env").write_text(re.sub(r"^([A-Z_]+)=$", r"\1=value of \1", example, flags=re.MULTILINE))
    (command,) = re.findall(r"^kubectl (.* create secret .*)$", DEPLOYING, re.MULTILINE)
    made = subprocess.run(
        [kubectl(), *command.split(), "--dry-run=client", "--output=json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    secret = json.loads(made.stdout)
    assert secret["metadata"]["name"] == SECRET
    assert {key: base64.b64decode(value).decode() for key, value in secret["data"].items()} == {
        key: f"value of {key}" for key in re.findall(r"^([A-Z_]+)=$", example, re.MULTILINE)
    }


KINDS = {"job": "Job", "deploy": "Deployment", "statefulset": "StatefulSet", "svc": "Service"}


@pytest.mark.parametrize("page", [DEPLOYING, UPGRADING], ids=["deploying", "upgrading"])
def test_files_in_documented_commands_exist(page: str) -> None:
    there = {name(thing) for variant in ("example", "local") for thing in render(variant)}
    commands = "\n".join(re.findall(r"^kubectl [^#\n]*", page, re.MULTILINE))
    asked = re.findall(rf"\b({'|'.join(KINDS)})[/ ]([a-z-]+)", commands)
    assert len(asked) >= 4
    assert {f"{KINDS[kind]}/{what}" for kind, what in asked} <= there
    assert set(re.findall(r"-n (\S+)", commands)) == {of_kind(render("example"), "Namespace")[0]["metadata"]["name"]}


def test_the_example_lists_every_component_in_an_order_that_works() -> None:
    """A component comes after the objects it changes: media-volume also gives webhook its volume."""
    text = (KUBERNETES / "example/kustomization.yaml").read_text()
    listed = re.findall(r"^  (?:# )?- \.\./components/([a-z-]+)", text, re.MULTILINE)
    assert tuple(listed) == manifests.ALL
    assert "or ../components/keda-redis" in text


def test_the_settings_that_the_deploying_page_lists_are_in_the_examples_kustomization() -> None:
    step = DEPLOYING.partition("**2. Copy")[2].partition("**3.")[0]
    listed = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", step))
    kustomization = yaml.safe_load((KUBERNETES / "example/kustomization.yaml").read_text())
    (generator,) = kustomization["configMapGenerator"]
    assert {"ALLOWED_HOSTS", "KSERVE_ADDRESS", "UPLOAD_WEBHOOK_ADDRESS"} <= listed
    assert listed <= {line.partition("=")[0] for line in generator["literals"]}
    assert kustomization["images"][0].keys() == {"name", "newName", "newTag"}


def test_another_namespace_in_the_example_is_that_of_everything() -> None:
    objects = build("example", namespace="elsewhere")
    (namespace,) = of_kind(objects, "Namespace")
    assert namespace["metadata"]["name"] == "elsewhere"
    assert {thing["metadata"]["namespace"] for thing in objects if thing != namespace} == {"elsewhere"}


def test_the_restart_that_follows_a_changed_secret_reaches_the_agents_pods_and_no_store() -> None:
    (kinds, label, value) = re.findall(r"rollout restart (\S+) -l (\S+)=([a-z-]+)", DEPLOYING)[0]
    for variant in ("shared-all", "local-more"):
        objects = of_kind(render(variant), *(KINDS[kind] for kind in kinds.split(",")))
        restarted = [thing for thing in objects if thing["metadata"]["labels"][label] == value]
        assert restarted == [workload for workload in agents(render(variant)) if workload["kind"] != "Job"]


def test_a_changed_setting_changes_the_pods() -> None:
    """By the ConfigMap's name, which every pod's template refers to."""
    generator = {"name": "serving-agent-config", "behavior": "merge", "literals": ["MAX_QUEUE_SIZE=201"]}
    for overlay in ("shared", "local"):
        changed = build(VARIANTS[overlay][0], configMapGenerator=[generator])
        for before, after in zip(agents(render(overlay)), agents(changed), strict=True):
            assert name(before) == name(after)
            assert before["spec"]["template"] != after["spec"]["template"]


def test_a_second_agent_in_a_namespace_selects_its_own_pods_alone() -> None:
    """As the deploying page says: a suffix, a label with selectors, and its service's name in two settings."""
    names = ["ALLOWED_HOSTS=serving-agent-b", "UPLOAD_WEBHOOK_ADDRESS=serving-agent-b:80", "TASK_TYPE_NAME=b"]
    second = build(
        "overlays/shared-redis",
        ("ingress", "webhook"),
        nameSuffix="-b",
        labels=[{"pairs": {"agent": "b"}, "includeSelectors": True}],
        configMapGenerator=[{"name": "serving-agent-config", "behavior": "merge", "literals": names}],
    )
    first = build("overlays/shared-redis", ("ingress", "webhook"))
    assert not {name(thing) for thing in first} & {name(thing) for thing in second}
    for service in of_kind(second, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        assert len([w for w in workloads(second) if selects(selector, w)]) == 1
        assert not [w for w in workloads(first) if selects(selector, w)]
    for scaler in of_kind(second, "HorizontalPodAutoscaler"):
        assert named(second, "Deployment", scaler["spec"]["scaleTargetRef"]["name"])
    assert named(second, "Service", "serving-agent-b")


def test_monitoring_and_keda_are_for_one_agent_in_a_namespace() -> None:
    """Kustomize changes neither selectors nor names in kinds unknown to it."""
    labels = [{"pairs": {"agent": "b"}, "includeSelectors": True}]
    objects = build("overlays/shared-redis", ("monitoring", "keda-redis"), nameSuffix="-b", labels=labels)
    first = {name(workload): workload for workload in workloads(render("shared"))}
    (monitor,), (scaler,) = of_kind(objects, "PodMonitor"), of_kind(objects, "ScaledObject")
    assert selects(monitor["spec"]["selector"], first["Deployment/serving-agent-web"])
    assert f"Deployment/{scaler['spec']['scaleTargetRef']['name']}" in first


# --- References between objects


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
def test_a_selector_matches_only_its_workloads_pods(variant: str) -> None:
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
def test_every_object_has_the_common_labels(variant: str) -> None:
    for thing in render(variant):
        if thing["kind"] in ("ConfigMap", "Namespace"):  # the first is made by kustomize
            continue
        assert thing["metadata"]["labels"]["app.kubernetes.io/name"] in ("serving-agent", "postgresql", "redis")
    for workload in agents(render(variant)):
        labels = manifests.labels(workload)
        assert {"app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/part-of"} <= set(labels)


@EVERY
def test_every_pod_waits_until_the_job_has_migrated_the_database(variant: str) -> None:
    for workload in agents(render(variant)):
        waits = [part["args"] for part in pod(workload).get("initContainers", []) if "args" in part]
        assert waits == ([] if workload["kind"] == "Job" else [["scripts/wait-for-migrations"]])


def test_the_job_is_replaced_by_argo_cd_and_flux() -> None:
    job = named(render("shared"), "Job", "serving-agent-migrate")
    assert job["metadata"]["annotations"] == {
        "argocd.argoproj.io/sync-options": "Force=true,Replace=true",
        "kustomize.toolkit.fluxcd.io/force": "enabled",
    }


@EVERY
def test_a_rollout_ends_no_old_pod_before_a_new_one_is_ready(variant: str) -> None:
    for workload in of_kind(render(variant), "Deployment"):
        assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        assert workload["spec"].get("replicas", 1) >= 1


def test_nodes_are_drained_one_pod_at_a_time() -> None:
    budgets = of_kind(render("shared"), "PodDisruptionBudget")
    assert {budget["metadata"]["name"] for budget in budgets} == {"serving-agent-web", "serving-agent-worker"}
    for budget in (*budgets, *of_kind(render("local"), "PodDisruptionBudget")):
        assert budget["spec"]["maxUnavailable"] == 1


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
            found.append(f"{part['name']}: no resource limits")
    return found


@EVERY
def test_pods_are_restricted(variant: str) -> None:
    assert [
        (name(workload), violations(workload)) for workload in workloads(render(variant)) if violations(workload)
    ] == []


def test_the_examples_namespace_takes_restricted_pods_alone() -> None:
    (namespace,) = of_kind(render("example"), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


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
    expected = f"registry.example.com/serving-agent:{settings.VERSION}" if variant == "example" else "serving-agent"
    assert images[True] == {expected}
    assert all(re.search(r":\d", image) for image in images[False])


def test_the_pod_with_its_own_redis_runs_the_same_processes() -> None:
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
