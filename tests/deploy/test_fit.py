"""The Kubernetes manifests against the agent: its settings, routes, metrics, time limits and ports."""

import os
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.http.request import validate_host
from rest_framework.test import APIClient
from rq.queue import Queue

from predictions.api.requests import known_routes
from predictions.operations import shutdown
from predictions.redis.connections import get_redis
from predictions.worker import supervisor, worker
from tests.deploy import manifests
from tests.deploy.manifests import (
    SECRETS,
    VARIANTS,
    Object,
    agents,
    arguments,
    config,
    environment,
    name,
    named,
    of_kind,
    pod,
    pre_stop,
    render,
    selects,
)
from tests.helpers.pages import DEPLOYING, table
from tests.helpers.servers import ROOT, procfile

pytestmark = pytest.mark.slow

EVERY = pytest.mark.parametrize("variant", VARIANTS)
MARGIN_SECONDS = 30
GOODBYE_SECONDS = 10
"""Signing off from a Redis that does not answer."""
NOTHING = {"PATH": os.environ["PATH"], "ENV_FILE": os.devnull}


@EVERY
def test_the_settings_are_accepted_in_production(variant: str) -> None:
    objects = render(variant)
    parts = [part for workload in agents(objects) for part in pod(workload)["containers"]]
    seen = {tuple(sorted(environment(objects, part).items())) for part in parts}
    for variables in seen:
        ended = subprocess.run(
            [sys.executable, "manage.py", "check", "--fail-level", "WARNING"],
            cwd=ROOT,
            env={**NOTHING, "ENVIRONMENT": "production", **dict(variables)},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr


def test_the_secret_is_explained_line_by_line_and_holds_nothing() -> None:
    lines = (manifests.KUBERNETES / "example/secret.env.example").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(given) == set(SECRETS)
    assert set(given.values()) == {""}
    for variant in VARIANTS:
        keys = {ref["key"] for ref in manifests.values(list(render(variant)), "secretKeyRef")}
        assert keys <= set(given)
        assert not set(config(render(variant))) & set(given)


@EVERY
def test_models_reach_the_upload_routes_by_a_name_that_the_agent_answers_to(variant: str) -> None:
    objects = render(variant)
    host, _, port = config(objects)["UPLOAD_WEBHOOK_ADDRESS"].partition(":")
    service, *more = host.split(".")
    assert int(port) in {entry["port"] for entry in named(objects, "Service", service)["spec"]["ports"]}
    assert validate_host(host, config(objects)["ALLOWED_HOSTS"].split(","))
    if more:
        assert more == [of_kind(objects, "Namespace")[0]["metadata"]["name"], "svc"]


def test_callers_reach_the_example_by_its_ingress() -> None:
    objects = render("example")
    (ingress,) = of_kind(objects, "Ingress")
    (rule,), (tls,) = ingress["spec"]["rules"], ingress["spec"]["tls"]
    assert tls["hosts"] == [rule["host"]]
    assert validate_host(rule["host"], config(objects)["ALLOWED_HOSTS"].split(","))
    assert config(objects)["CSRF_TRUSTED_ORIGINS"] == f"https://{rule['host']}"
    assert {thing["metadata"].get("namespace") for thing in objects if thing["kind"] != "Namespace"} == {
        of_kind(objects, "Namespace")[0]["metadata"]["name"]
    }


def test_the_ingress_has_the_agents_size_and_time_limits() -> None:
    (ingress,) = of_kind(render("shared-all"), "Ingress")
    notes = {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}
    body = int(notes["proxy-body-size"].removesuffix("m")) * 1024**2
    assert max(settings.MAX_UPLOAD_SIZE, settings.MAX_REQUEST_BODY) < body
    for direction in ("read", "send"):
        assert int(notes[f"proxy-{direction}-timeout"]) > int(config(render("shared-all"))["TASK_TIMEOUT"])


def test_idle_connections_are_closed_by_the_proxy() -> None:
    kept = int(of_gunicorn("keepalive"))
    assert kept > 60  # what nginx, AWS' balancers and most others keep theirs
    assert f"the agent keeps them for {kept} s" in (ROOT / "docs/deploying.md").read_text()


def of_gunicorn(name: str, **variables: str) -> str:
    """A value of config/gunicorn.py."""
    command = f"import runpy; print(runpy.run_path('config/gunicorn.py')[{name!r}])"
    ended = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        env={**NOTHING, "ALLOW_ANONYMOUS": "true", "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.strip()


# --- Probes


@EVERY
def test_probes_ask_routes_that_exist(variant: str, client: APIClient) -> None:
    for workload in agents(render(variant)):
        for part in pod(workload)["containers"]:
            probes = [
                part[f"{kind}Probe"]["httpGet"]
                for kind in ("startup", "liveness", "readiness")
                if f"{kind}Probe" in part
            ]
            process = arguments(part)[0]
            assert bool(probes) == (process in ("web", "worker", "webhook"))
            for probe in probes:
                assert client.get(probe["path"]).status_code == 200
                assert process != "worker" or probe["path"] == "/live"


@EVERY
def test_a_full_queue_makes_no_pod_unready(variant: str, client: APIClient, configured: Any) -> None:
    configured(MAX_QUEUE_SIZE=0)
    assert client.get("/ready").status_code == 503
    for workload in agents(render(variant)):
        for part in pod(workload)["containers"]:
            if "readinessProbe" in part:
                assert client.get(part["readinessProbe"]["httpGet"]["path"]).status_code == 200


@EVERY
def test_containers_run_the_procfiles_processes_and_listen_where_they_say(variant: str) -> None:
    objects = render(variant)
    for workload in agents(objects):
        for part in pod(workload)["containers"]:
            process, *more = arguments(part)
            assert process in procfile() or [process, *more] == ["python", "manage.py", "migrate", "--noinput"]
            listens = {
                "web": config(objects)["HTTP_SERVER_ADDRESS"],
                "worker": config(objects)["WORKER_METRICS_ADDRESS"],
                "webhook": re.findall(r"WEBHOOK_BIND:-(\S+)}", procfile()["webhook"])[0],
            }.get(process, "")
            declared = [port["containerPort"] for port in part.get("ports", [])]
            assert declared == ([int(listens.rpartition(":")[2])] if listens else [])


# --- Stopping


def seconds_to_stop(process: str, variables: dict[str, str]) -> float:
    """How long a process may take to end after SIGTERM, the wait before a local Redis is given up included."""
    closing_seconds = float(variables.get("SHUTDOWN_DELAY", 0)) + shutdown.PATIENCE_SECONDS
    if process == "worker":
        hand_back = worker.HAND_BACK_SECONDS + worker.SETTLE_SECONDS + supervisor.REACT_SECONDS + GOODBYE_SECONDS
        is_local = variables.get("USE_LOCAL_REDIS") == "true"
        return int(variables["TASK_TIMEOUT"]) + hand_back + (closing_seconds if is_local else 0)
    if process in ("web", "webhook"):
        return float(of_gunicorn("graceful_timeout", **variables))
    return GOODBYE_SECONDS  # the scheduler


@EVERY
def test_pods_get_the_time_that_their_processes_take_to_end(variant: str) -> None:
    objects = render(variant)
    for workload in of_kind(objects, "Deployment", "StatefulSet"):
        if workload not in agents(objects):
            continue
        needed = max(
            pre_stop(part) + seconds_to_stop(arguments(part)[0], config(objects))
            for part in pod(workload)["containers"]
        )
        given = pod(workload)["terminationGracePeriodSeconds"]
        print(f"\n{variant} {name(workload)}: {needed:g} s needed, {given} s given")
        assert needed <= given <= needed + MARGIN_SECONDS


@pytest.mark.parametrize("row", table("pod", DEPLOYING), ids=lambda row: row[0])
def test_the_deploying_page_explains_a_pods_grace_period(row: list[str]) -> None:
    local = named(render("local"), "StatefulSet", "serving-agent")
    pods = [
        local if "local-redis" in who else named(render("shared-all"), "Deployment", f"serving-agent-{who}")
        for who in row[0].split(", ")
    ]
    assert {f"{pod(workload)['terminationGracePeriodSeconds']} s" for workload in pods} == {row[1]}
    seconds = [float(number) for number in re.findall(r"(\d+) s\b", row[2])]
    for workload in pods:
        variables = config(render("local" if workload is local else "shared-all"))
        stops = (
            pre_stop(part) + seconds_to_stop(arguments(part)[0], variables) for part in pod(workload)["containers"]
        )
        made_of = sum(seconds) + sum(float(variables[setting]) for setting in re.findall(r"`([A-Z_]+)`", row[2]))
        assert made_of == max(stops) or "holds nothing" in row[2]


def test_web_waits_before_it_ends_as_long_as_the_deploying_page_says() -> None:
    (web,) = pod(named(render("shared"), "Deployment", "serving-agent-web"))["containers"]
    assert f"`preStop` waits {pre_stop(web):.0f} s" in DEPLOYING


@EVERY
def test_web_leaves_only_after_proxies_know_of_it(variant: str) -> None:
    objects = render(variant)
    for workload in agents(objects):
        for part in pod(workload)["containers"]:
            if arguments(part)[0] in ("web", "webhook"):
                assert pre_stop(part) >= 5
            # Where the queue dies with the pod, nothing may be taken in after it was given up.
            if arguments(part)[0] == "web" and (delay := config(objects).get("SHUTDOWN_DELAY")):
                assert pre_stop(part) < float(delay)


# --- Scaling


@EVERY
def test_an_autoscaled_deployment_sets_no_replicas_of_its_own(variant: str) -> None:
    objects = render(variant)
    scaled = [
        thing["spec"]["scaleTargetRef"]["name"] for thing in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert len(scaled) == len(set(scaled))
    for workload in of_kind(objects, "Deployment"):
        assert ("replicas" in workload["spec"]) == (workload["metadata"]["name"] not in scaled)
    assert set(scaled) <= {workload["metadata"]["name"] for workload in of_kind(objects, "Deployment")}


def test_web_is_scaled_by_its_cpu() -> None:
    (scaler,) = of_kind(render("shared"), "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == "serving-agent-web"
    assert [metric["resource"]["name"] for metric in scaler["spec"]["metrics"]] == ["cpu"]


def test_web_is_scaled_by_the_requests_that_the_adapters_rule_counts(client: APIClient) -> None:
    (scaler,) = of_kind(render("shared-all"), "HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    (block,) = re.findall(r"```yaml\n(rules:.*?)```", DEPLOYING, re.DOTALL)
    (rule,) = yaml.safe_load(block)["rules"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    (series,) = re.findall(r"^(\w+)\{", rule["seriesQuery"])
    (left_out,) = re.findall(rf'{series}\{{<<\.LabelMatchers>>,path!~"(.*?)"}}', rule["metricsQuery"])
    assert set(left_out.split("|")) < set(known_routes())
    client.get("/task/nobody")
    told = client.get("/metrics").content.decode()
    assert re.search(rf'^{series}\{{path="/task/{{task_id}}"}} ', told, re.MULTILINE)


@pytest.mark.parametrize("variant", ["shared-all", "shared-keda-redis"])
def test_one_worker_always_stays(variant: str) -> None:
    assert named(render(variant), "ScaledObject", "serving-agent-worker")["spec"]["minReplicaCount"] == 1


def test_keda_asks_for_metrics_that_the_agent_tells(client: APIClient) -> None:
    objects = render("shared-all")
    (trigger,) = named(objects, "ScaledObject", "serving-agent-worker")["spec"]["triggers"]
    asked = set(re.findall(r"\b([a-z_]+)\{", trigger["metadata"]["query"]))
    told = set(re.findall(r"^(\w+) ", client.get("/metrics").content.decode(), re.MULTILINE))
    assert asked == {"task_queue_size", "worker_slots_busy"} <= told
    assert trigger["metadata"]["threshold"] == config(objects)["WORKER_CONCURRENCY"]


def test_keda_watches_the_list_in_which_tasks_wait(client: APIClient) -> None:
    objects = render("shared-keda-redis")
    scaler = named(objects, "ScaledObject", "serving-agent-worker")["spec"]
    (trigger,) = scaler["triggers"]
    assert "TASK_TYPE_NAME" not in config(objects)  # so it is the default, as here
    client.post("/async/v1/predict", {"model_name": "iris", "inputs": {}}, format="json")
    assert trigger["metadata"]["listName"] == Queue(settings.TASK_TYPE_NAME, connection=get_redis()).key
    assert get_redis().llen(trigger["metadata"]["listName"]) == 1
    assert trigger["metadata"]["listLength"] == config(objects)["WORKER_CONCURRENCY"]
    workers = named(objects, "Deployment", scaler["scaleTargetRef"]["name"])
    seen = environment(
        objects,
        next(p for p in pod(workers)["containers"] if p["name"] == scaler["scaleTargetRef"]["envSourceContainerName"]),
    )
    assert {trigger["metadata"]["addressFromEnv"], trigger["metadata"]["passwordFromEnv"]} <= set(seen)


def connections(objects: tuple[Object, ...]) -> int:
    """How many connections to PostgreSQL all pods may open when everything is scaled up and rolls at once."""
    most = {
        thing["spec"]["scaleTargetRef"]["name"]: thing["spec"].get("maxReplicas") or thing["spec"]["maxReplicaCount"]
        for thing in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    }
    count = 0
    for workload in of_kind(objects, "Deployment"):
        replicas = most.get(workload["metadata"]["name"]) or workload["spec"]["replicas"]
        surge = workload["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        processes = int(config(objects)["WEB_CONCURRENCY"]) if "web" in workload["metadata"]["name"] else 1
        count += (replicas + surge) * processes * int(config(objects)["DATABASE_POOL_SIZE"])
    return count


def test_the_database_holds_the_connections_of_all_pods() -> None:
    postgresql = named(render("shared-all"), "StatefulSet", "postgresql")
    allowed = int(re.findall(r"max_connections=(\d+)", str(pod(postgresql)["containers"][0]["args"]))[0])
    assert connections(render("shared-all")) <= allowed - 10
    assert f"{connections(render('shared'))} connections" in (ROOT / "docs/deploying.md").read_text()


# --- Who may talk to whom


def admitted(objects: tuple[Object, ...], workload: Object, direction: str) -> list[tuple[str, Any]] | None:
    """The (protocol, port) pairs that policies allow into or out of a workload's pods; None: everything."""
    policies = [
        policy["spec"]
        for policy in of_kind(objects, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], workload) and direction in policy["spec"]["policyTypes"]
    ]
    if not policies:
        return None
    named_ports = manifests.ports(workload)
    return [
        (port["protocol"], named_ports.get(port["port"], port["port"]))
        for policy in policies
        for rule in policy.get(direction.lower(), [])
        for port in rule["ports"]
        if isinstance(port["port"], int) or port["port"] in named_ports
    ]


@EVERY
def test_network_policies_admit_only_the_documented_traffic(variant: str) -> None:
    objects = render(variant)
    for workload in manifests.workloads(objects):
        assert sorted(admitted(objects, workload, "Ingress") or []) == sorted(
            ("TCP", number) for number in manifests.ports(workload).values()
        )
        assert admitted(objects, workload, "Ingress") is not None


@EVERY
def test_network_policies_let_pods_reach_only_the_services_of_the_settings(variant: str) -> None:
    objects = render(variant)
    # A gateway's port 80 is 8080 in its pod; 12000 is a record service, 4318 a collector of traces.
    wanted = {("TCP", port) for port in (53, 5432, 80, 443, 8080, 8443, 12000, 4318)} | {("UDP", 53)}
    if not config(objects)["REDIS_ADDRESS"].startswith("127."):
        wanted |= {("TCP", 6379), ("TCP", 26379)}  # and sentinels
    for workload in agents(objects):
        out = admitted(objects, workload, "Egress")
        assert out is not None
        assert wanted <= set(out)
        assert ("TCP", 22) not in out
    for policy in of_kind(objects, "NetworkPolicy"):
        for block in manifests.values(policy, "ipBlock"):
            assert "169.254.0.0/16" in block["except"]  # where clouds hand out credentials
