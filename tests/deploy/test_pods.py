"""The pods that kustomize renders, run as containers: the same images, arguments, users, volumes and memory limits.

There is no cluster: services are names in a podman network, the tests run the probes, and end a pod as a kubelet
does it. The images of PostgreSQL and Redis are stand-ins (podman.py).
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.deploy import podman
from tests.deploy.manifests import (
    SECRETS,
    Object,
    agents,
    arguments,
    environment,
    name,
    named,
    of_kind,
    pod,
    pre_stop,
    render,
)
from tests.deploy.podman import Container
from tests.deploy.podman import podman as run_podman
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

IMAGES = {"serving-agent": podman.AGENT, "redis:7.4-alpine": podman.REDIS, "postgres:17-bookworm": podman.POSTGRES}
CALLER = {"apikey": SECRETS["API_KEYS"]}
IRIS = {"model_name": "iris", "inputs": {"instances": [[5.1, 3.5, 1.4, 0.2]]}}
UNITS = {"Mi": "m", "Gi": "g"}


class Pod:
    """The containers of a workload's pod, by their names in the manifest."""

    def __init__(
        self, workload: Object, objects: tuple[Object, ...], network: str, start: Callable[..., Container]
    ) -> None:
        self.spec = pod(workload)
        self.objects = objects
        self.network = network
        self.containers: dict[str, Container] = {}
        self._start = start
        self._aliases = [
            service["metadata"]["name"]
            for service in of_kind(objects, "Service")
            if service["spec"]["selector"].items() <= workload["spec"]["template"]["metadata"]["labels"].items()
        ]
        for part in self.spec.get("initContainers", []):
            container = self._run(part)
            if part.get("restartPolicy") == "Always":
                until(
                    lambda part=part, container=container: container.succeeds(*part["startupProbe"]["exec"]["command"])
                )
            else:
                assert container.wait(120) == 0, container.output()
                container.remove()
                del self.containers[part["name"]]
        for part in self.spec["containers"]:
            self._run(part)

    def _run(self, part: Object) -> Container:
        first = next(iter(self.containers.values()), None)
        user = {**self.spec["securityContext"], **part["securityContext"]}
        memory = part["resources"]["limits"]["memory"]
        options = [f"--user={user['runAsUser']}:{user['runAsGroup']}", f"--memory={memory[:-2]}{UNITS[memory[-2:]]}"]
        options += [f"--network-alias={alias}" for alias in self._aliases] if first is None else []
        options += [f"--entrypoint={json.dumps(part['command'])}"] if "command" in part else []
        container = self._start(
            *arguments(part),
            image=IMAGES[part["image"]],
            environment=self._environment(part),
            temporary=tuple(mount["mountPath"] for mount in part["volumeMounts"]),
            network=self.network if first is None else f"container:{first.id}",
            options=tuple(options),
        )
        self.containers[part["name"]] = container
        return container

    def _environment(self, part: Object) -> dict[str, str]:
        if part["image"] == "serving-agent":
            return {**environment(self.objects, part), "DATABASE_URL": SECRETS["DATABASE_URL"]}
        return {
            variable["name"]: variable.get("value") or SECRETS[variable["valueFrom"]["secretKeyRef"]["key"]]
            for variable in part.get("env", [])
        }

    @property
    def address(self) -> str:
        return next(iter(self.containers.values())).address

    def probe(self, kind: str) -> bool:
        """Whether all its containers pass a probe; one that has none passes."""
        return all(self._passes(part, part.get(f"{kind}Probe", {})) for part in self.spec["containers"])

    def _passes(self, part: Object, probe: Object) -> bool:
        if "exec" in probe:
            return self.containers[part["name"]].succeeds(*probe["exec"]["command"])
        if "httpGet" not in probe:
            return True
        port = next(p["containerPort"] for p in part["ports"] if p["name"] == probe["httpGet"]["port"])
        try:
            url = f"http://{self.address}:{port}{probe['httpGet']['path']}"
            return requests.get(url, timeout=probe["timeoutSeconds"]).status_code < 400
        except requests.RequestException:
            return False

    def end(self) -> dict[str, int]:
        """As a kubelet does: preStop and SIGTERM for each container side by side. Their exit codes."""
        codes: dict[str, int] = {}

        def stop(part: Object) -> None:
            time.sleep(pre_stop(part))
            self.containers[part["name"]].signal("TERM")
            codes[part["name"]] = self.containers[part["name"]].wait(self.spec["terminationGracePeriodSeconds"])

        threads = [threading.Thread(target=stop, args=(part,), daemon=True) for part in self.spec["containers"]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return codes


class Cluster:
    def __init__(self, variant: str, network: str, start: Callable[..., Container]) -> None:
        self.objects = render(variant)
        self.pods: dict[str, Pod] = {}
        self._network = network
        self._start = start

    def run(self, workload: Object) -> Pod:
        made = Pod(workload, self.objects, self._network, self._start)
        self.pods[name(workload)] = made
        return made

    def run_and_wait(self, workload: Object, *, seconds: float = 60) -> Pod:
        made = self.run(workload)
        try:
            until(lambda: made.probe("startup"), seconds=seconds)
            until(lambda: made.probe("liveness") and made.probe("readiness"), seconds=seconds)
        except AssertionError as error:
            raise AssertionError({part: each.output()[-2000:] for part, each in made.containers.items()}) from error
        return made


@pytest.fixture
def network(image: str, tmp_path: Path) -> Iterator[str]:
    """A network with names of its own."""
    name = f"agent-{os.getpid()}-{tmp_path.name.replace('_', '-')[-20:]}"
    run_podman("network", "create", name)
    yield name
    run_podman("network", "rm", "--force", name)


@pytest.fixture
def cluster(network: str, run: Callable[..., Container]) -> Callable[..., Cluster]:
    """Starts with the trial's PostgreSQL alone."""
    podman.stand_in(podman.REDIS)
    podman.stand_in(podman.POSTGRES)

    def start(variant: str) -> Cluster:
        stores = Cluster("shared-all", network, run)
        stores.run_and_wait(named(stores.objects, "StatefulSet", "postgresql"))
        return Cluster(variant, network, run)

    return start


def migrate(cluster: Cluster) -> None:
    job = cluster.run(named(cluster.objects, "Job", "serving-agent-migrate"))
    (container,) = job.containers.values()
    assert container.wait(120) == 0, container.output()


def predict(web: Pod, **inputs: Any) -> dict[str, Any]:
    url = f"http://{web.address}:8000/v1/predict"
    answer = requests.post(url, json={**IRIS, "inputs": {**IRIS["inputs"], **inputs}}, headers=host(CALLER), timeout=60)  # type: ignore[dict-item]
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def submit(web: Pod, **inputs: Any) -> str:
    url = f"http://{web.address}:8000/async/v1/predict"
    body = {**IRIS, "inputs": {**IRIS["inputs"], **inputs}}  # type: ignore[dict-item]
    answer = requests.post(url, json=body, headers=host(CALLER), timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def task(web: Pod, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(
        f"http://{web.address}:8000/task/{task_id}", headers=host(CALLER), timeout=60
    ).json()
    return found


def host(headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "Host": "serving-agent"}


def test_the_pods_of_the_shared_redis_come_up_and_predict(cluster: Callable[..., Cluster]) -> None:
    shared = cluster("shared-all")
    shared.run_and_wait(named(shared.objects, "StatefulSet", "redis"))
    migrate(shared)
    for workload in agents(shared.objects):
        if workload["kind"] == "Deployment":
            shared.run_and_wait(workload)
    web = shared.pods["Deployment/serving-agent-web"]
    assert predict(web)["status"] == "succeeded"
    submitted = submit(web)
    until(lambda: task(web, submitted)["status"] == "succeeded")
    worker = shared.pods["Deployment/serving-agent-worker"]
    scrape = requests.get(
        f"http://{worker.address}:9100/metrics", headers={"apikey": SECRETS["METRICS_KEY"]}, timeout=30
    )
    assert 'tasks_finished_total{model="iris",status="succeeded"}' in scrape.text
    for each in shared.pods.values():
        for container in each.containers.values():
            told = container.state
            assert not told["OOMKilled"]


def test_a_leaving_pod_of_the_shared_redis_finishes_its_work(cluster: Callable[..., Cluster]) -> None:
    shared = cluster("shared-all")
    shared.run_and_wait(named(shared.objects, "StatefulSet", "redis"))
    migrate(shared)
    web = shared.run_and_wait(named(shared.objects, "Deployment", "serving-agent-web"))
    worker = shared.run_and_wait(named(shared.objects, "Deployment", "serving-agent-worker"))
    running = submit(web, delay_seconds=8)
    until(lambda: task(web, running)["status"] == "running")
    began = time.monotonic()
    assert set(worker.end().values()) == {0}
    print(f"\nthe worker's pod ended in {time.monotonic() - began:.1f} s")
    assert (task(web, running)["status"], task(web, running)["attempt"]) == ("succeeded", 1)

    answers: list[dict[str, Any]] = []
    caller = threading.Thread(target=lambda: answers.append(predict(web, delay_seconds=14)), daemon=True)
    caller.start()
    time.sleep(1)
    began = time.monotonic()
    assert set(web.end().values()) == {0}
    print(f"web's pod ended in {time.monotonic() - began:.1f} s")
    caller.join()
    assert answers[0]["status"] == "succeeded"


def test_the_pod_with_its_own_redis_comes_up_and_predicts(cluster: Callable[..., Cluster]) -> None:
    local = cluster("local")
    migrate(local)
    whole = local.run_and_wait(named(local.objects, "StatefulSet", "serving-agent"))
    assert predict(whole)["status"] == "succeeded"
    submitted = submit(whole)
    until(lambda: task(whole, submitted)["status"] == "succeeded")
    known = whole.containers["redis"].execute("redis-cli", "smembers", "rq:queues").split()
    assert "rq:queue:serving-agent-0" in known  # the pod's name is its queue's


def test_a_leaving_pod_with_its_own_redis_finishes_running_tasks_and_fails_waiting_ones(
    cluster: Callable[..., Cluster],
) -> None:
    local = cluster("local")
    migrate(local)
    workload = named(local.objects, "StatefulSet", "serving-agent")
    whole = local.run_and_wait(workload)
    slots = int(environment(local.objects, {})["WORKER_CONCURRENCY"])
    running = [submit(whole, delay_seconds=25) for _ in range(slots)]
    until(lambda: all(task(whole, each)["status"] == "running" for each in running))
    waiting = [submit(whole, delay_seconds=25) for _ in range(3)]
    began = time.monotonic()
    assert set(whole.end().values()) == {0}
    print(f"\nthe pod ended in {time.monotonic() - began:.1f} s")
    for container in whole.containers.values():
        container.remove()

    follower = local.run_and_wait(workload)  # of the same name, with an empty Redis
    assert {task(follower, each)["status"] for each in running} == {"succeeded"}
    assert {(task(follower, each)["status"], task(follower, each)["error_info"]) for each in waiting} == {
        ("failed", "the task queue was closed")
    }


def test_two_migrations_at_once_leave_the_database_whole(cluster: Callable[..., Cluster]) -> None:
    shared = cluster("shared-all")
    job = named(shared.objects, "Job", "serving-agent-migrate")
    attempts = [shared.run(job) for _ in range(2)]
    codes = [container.wait(120) for each in attempts for container in each.containers.values()]
    print(f"\nexit codes of two migrations at once: {codes}")
    if any(codes):
        migrate(shared)  # Kubernetes runs a failed one again
    check = shared.run(
        named(shared.objects, "Deployment", "serving-agent-scheduler")
    )  # its init container waits for it
    assert check.containers
