"""`manage.py doctor` and its checks: they find each fault, describe it, and say how to fix it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils.timezone import now
from rest_framework.test import APIClient
from rq.defaults import RQ_KEY_PREFIX

from platforms import Health, Level
from platforms.health import ok, warning
from predictions.models import Task
from predictions.operations.diagnosis import Finding, checks, database, diagnose, formatting, worst
from predictions.operations.diagnosis.formatting import because, full_stop
from predictions.operations.diagnosis.queueing import judged
from predictions.queue import queue
from predictions.queue.overview import overview
from predictions.queue.scheduler import Scheduler
from predictions.recorder import get_recorder
from predictions.redis.connections import forget_connections, get_redis
from predictions.redis.server import Server, server
from tests.helpers import environment, predictors
from tests.helpers.api import submit
from tests.helpers.factories import task
from tests.helpers.proxy import Proxy
from tests.helpers.redis_servers import RedisServer, one_redis
from tests.helpers.stub import Stub, answers, closed_port, says
from tests.helpers.waiting import until
from tests.helpers.workers import RunningWorker
from tests.predictions.commands import Shell

LIVE = "GET /live"
DOCTOR = "GET /task/doctor"


def found(part: str, model: str = "") -> list[Finding]:
    """The findings about one part."""
    return list(diagnose({part: checks(model)[part]}))


def worst_of(part: str, model: str = "") -> Finding:
    order = list(Level)
    return max(found(part, model), key=lambda finding: order.index(finding.level))


@pytest.fixture
def stub() -> Iterator[Stub]:
    one = Stub()
    yield one
    one.close()


@pytest.fixture
def kserve(stub: Stub, configured: Callable[..., None], settings: Any) -> Stub:
    """The stub stands where KServe would, and where models upload."""
    path, arguments = settings.PLATFORMS["kserve"]
    known = {**settings.PLATFORMS, "kserve": (path, {**arguments, "address": stub.address})}
    configured(ML_PLATFORM="kserve", KSERVE_ADDRESS=stub.address, PLATFORMS=known, UPLOAD_BASE_URL=stub.url)
    return stub


@pytest.fixture
def record_service(stub: Stub, configured: Callable[..., None]) -> Iterator[Stub]:
    configured(WEBHOOK_SERVER_ADDRESS=stub.address, TASK_RECORDER="webhooks.client.HttpRecorder")
    get_recorder.cache_clear()
    yield stub
    get_recorder.cache_clear()


@pytest.fixture
def deployment(start_worker: Callable[..., RunningWorker]) -> None:
    """A worker and a scheduler, as the Procfile has them."""
    start_worker()
    scheduler = Scheduler()
    scheduler.register_birth()
    until(lambda: overview().workers_alive)


@pytest.fixture
def redis_config() -> Iterator[Callable[..., None]]:
    """Changes options of the real Redis for one test."""
    before: dict[str, str] = {}

    def change(**options: str) -> None:
        for name, value in options.items():
            option = name.replace("_", "-")
            before.setdefault(option, get_redis().config_get(option)[option])
            get_redis().config_set(option, value)

    yield change
    for option, value in before.items():
        get_redis().config_set(option, value)


# --- the command


def test_a_healthy_deployment_is_ok_throughout(shell: Shell, deployment: None) -> None:
    said = shell("doctor", "--json")
    findings = said.json["findings"]
    assert [(finding["part"], finding["level"], finding["hint"]) for finding in findings] == [
        (part, "ok", "") for part in checks()
    ], findings
    assert (said.code, said.json["level"]) == (0, "ok")


def test_people_get_a_line_each_and_what_mends_it(shell: Shell, deployment: None) -> None:
    queue.pause("anna")
    said = shell("doctor")
    lines = said.out.splitlines()
    at = lines.index("warning  queue            paused by anna")
    assert lines[at + 1].strip() == "`manage.py queue resume` goes on."
    assert lines[0].startswith("ok       settings         ")
    assert said.code == 0


def test_a_problem_ends_it_with_1(shell: Shell, redis_proxy: Proxy) -> None:
    redis_proxy.cut()
    said = shell("doctor", "--json")
    assert (said.code, said.json["level"]) == (1, "problem")
    redis = [finding for finding in said.json["findings"] if finding["part"] == "redis"]
    assert [finding["level"] for finding in redis] == ["problem"]
    assert "REDIS_ADDRESS" in redis[0]["hint"]
    assert {finding["part"] for finding in said.json["findings"]} == set(checks())


def test_doctor_describes_a_broken_deployment_in_sentences(
    shell: Shell, redis_proxy: Proxy, no_database: None, kserve: Stub
) -> None:
    redis_proxy.cut()
    kserve.close()
    said = shell("doctor")
    assert said.code == 1
    assert "Traceback" not in said.out + said.err
    problems = {line.split()[1] for line in said.out.splitlines() if line.startswith("problem")}
    assert problems == {"database", "redis", "queue", "workers", "platform"}


def test_doctor_runs_no_prediction(shell: Shell, deployment: None) -> None:
    shell("doctor", "--model", "iris")
    assert predictors.calls == []
    assert not Task.objects.exists()


def test_secrets_are_not_told(
    shell: Shell, kserve: Stub, record_service: Stub, configured: Callable[..., None]
) -> None:
    secrets = {"SECRET_KEY": "sesame-1", "API_KEYS": ["sesame-2"], "WEBHOOK_APIKEY": "sesame-3"}
    configured(**secrets, REDIS_PASSWORD="sesame-4", RUNPOD_APIKEY="sesame-5")
    record_service.script(DOCTOR, answers({"error": "no"}, status=401))
    assert "sesame" not in shell("doctor", "--json").out


# --- how it looks


def test_a_part_that_hangs_holds_up_no_other() -> None:
    def hangs() -> Iterator[Health]:
        yield ok("so far")
        time.sleep(60)

    findings = list(diagnose({"slow": hangs, "quick": lambda: [ok("well")]}, deadline_seconds=0.3))
    assert [(finding.part, finding.level) for finding in findings] == [
        ("slow", "ok"),
        ("slow", "problem"),
        ("quick", "ok"),
    ]


def test_a_check_that_fails_itself_is_a_problem_and_not_the_end() -> None:
    def broken() -> Iterator[Health]:
        raise KeyError("surprise")
        yield

    findings = list(diagnose({"broken": broken, "well": lambda: [warning("hm", "do")]}))
    assert [finding.level for finding in findings] == ["problem", "warning"]
    assert "KeyError: 'surprise'" in findings[0].message
    assert (worst(findings), worst([])) == (Level.PROBLEM, Level.OK)


# --- settings and database


def test_doctor_shows_the_system_checks_with_their_hints(configured: Callable[..., None]) -> None:
    configured(TASK_TYPE_NAME="a b")
    finding = worst_of("settings")
    assert (finding.level, "(agent.E004)" in finding.message) == (Level.PROBLEM, True)
    assert finding.hint == "Use letters, digits, '-', '_' and '.' only."


def test_in_production_djangos_deployment_checks_are_among_the_findings(configured: Callable[..., None]) -> None:
    def of_django() -> bool:
        return any("(security.W" in finding.message for finding in found("settings"))

    assert not of_django()
    configured(PRODUCTION=True)
    assert of_django()


def test_a_database_that_is_away(no_database: None) -> None:
    (finding,) = found("database")
    assert (finding.level, "cannot be reached: " in finding.message) == (Level.PROBLEM, True)
    assert "DATABASE_URL" in finding.hint


def test_migrations_that_are_missing() -> None:
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied("sessions", "0001_initial")
    try:
        finding = worst_of("database")
    finally:
        recorder.record_applied("sessions", "0001_initial")
    assert (finding.level, finding.hint) == (Level.PROBLEM, "Run `manage.py migrate`.")
    assert "1 migrations are not applied, from sessions.0001_initial on" in finding.message


def test_a_database_that_takes_no_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    options = connection.settings_dict["OPTIONS"]
    with monkeypatch.context() as patch:
        if connection.vendor == "sqlite":
            patch.setitem(options, "init_command", "PRAGMA query_only=ON;")
        else:
            patch.setitem(options, "options", "-c default_transaction_read_only=on")
        finding = worst_of("database")
    assert (finding.level, "cannot be written to: " in finding.message) == (Level.PROBLEM, True)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite counts no connections")
def test_a_database_with_few_connections_left_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worst_of("database").level is Level.OK
    monkeypatch.setattr(database, "CROWDED", 0.0)
    finding = worst_of("database")
    assert (finding.level, "connections are used" in finding.message) == (Level.WARNING, True)


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("database", marks=pytest.mark.skipif(connection.vendor != "sqlite", reason="it is elsewhere")),
        "storage",
    ],
)
def test_a_disk_that_is_nearly_full_is_warned_of(
    part: str, configured: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configured(MEDIA_ROOT=str(tmp_path))
    monkeypatch.setattr(formatting, "SHORT_SHARE", 0.0)
    for short_bytes, level in ((0, Level.OK), (2**60, Level.WARNING)):
        monkeypatch.setattr(formatting, "SHORT_BYTES", short_bytes)
        finding = worst_of(part)
        assert (finding.level, "MiB left" in finding.message) == (level, level is Level.WARNING)


def test_sqlite_in_production_is_warned_of(configured: Callable[..., None]) -> None:
    configured(PRODUCTION=True)
    warned = any("SQLite in production" in finding.message for finding in found("database"))
    assert warned == (connection.vendor == "sqlite")


# --- Redis


def well(**changes: Any) -> Server:
    """A server as it should be, but for the changes."""
    return replace(
        Server(
            address="redis:6379",
            version="7.2.4",
            mode="standalone",
            role="master",
            replicas=1,
            appends=True,
            is_saved=True,
            memory=10,
            memory_limit=100,
            eviction="noeviction",
            cluster_is_well=True,
            seconds_ahead=0.1,
            answers_in=0.001,
        ),
        **changes,
    )


@pytest.mark.parametrize(
    ("changes", "level", "hint"),
    [
        ({}, "ok", ""),
        ({"version": "6.0.16"}, "problem", "6.2"),
        ({"version": "8.0.1"}, "ok", ""),
        ({"role": "slave"}, "problem", "master"),
        ({"mode": "sentinel"}, "problem", "REDIS_SENTINELS"),
        ({"mode": "cluster"}, "problem", "REDIS_CLUSTER_MODE=true"),
        ({"cluster_is_well": False}, "problem", "CLUSTER NODES"),
        ({"eviction": "allkeys-lru"}, "problem", "noeviction"),
        ({"memory": 95}, "warning", "maxmemory"),
        ({"memory": 95, "memory_limit": 0}, "ok", ""),
        ({"is_saved": False}, "problem", "disk"),
        ({"appends": False}, "warning", "appendonly"),
        ({"seconds_ahead": -3600}, "warning", "NTP"),
        ({"answers_in": 0.5}, "warning", "nearer"),
    ],
)
def test_doctor_checks_whether_redis_suits_a_queue(
    configured: Callable[..., None], changes: dict[str, Any], level: str, hint: str
) -> None:
    configured(REDIS_CLUSTER_MODE=False)
    last = list(judged(well(**changes)))[-1]
    assert (last.level, hint in last.hint) == (level, True)


def test_a_cluster_that_is_meant_to_be_one_is_well(configured: Callable[..., None]) -> None:
    configured(REDIS_CLUSTER_MODE=True)
    assert [health.level for health in judged(well(mode="cluster"))] == ["ok"]
    assert [health.level for health in judged(well(mode="cluster", replicas=0))] == ["ok", "warning"]


def test_a_redis_that_dies_with_its_pod_need_write_nothing_down(configured: Callable[..., None]) -> None:
    configured(USE_LOCAL_REDIS=True, REDIS_CLUSTER_MODE=False)
    assert [health.level for health in judged(well(appends=False))] == ["ok"]


def test_a_real_redis_is_read_as_it_is(redis_config: Callable[..., None]) -> None:
    before = server()
    assert before.address == environment.servers.master().address
    assert (before.mode == "cluster", before.cluster_is_well) == (django_settings.REDIS_CLUSTER_MODE, True)
    assert (before.role, before.appends, before.eviction, before.memory_limit) == ("master", True, "noeviction", 0)
    assert abs(before.seconds_ahead) < 5
    redis_config(appendonly="no", maxmemory_policy="volatile-ttl", maxmemory=str(before.memory * 100))
    after = server()
    assert (after.appends, after.eviction, after.memory_limit) == (False, "volatile-ttl", before.memory * 100)


def test_a_cluster_with_unassigned_slots_is_down(configured: Callable[..., None], tmp_path: Path) -> None:
    node = RedisServer(tmp_path / "node", options={"cluster-enabled": "yes"})
    configured(**one_redis(node.address))
    forget_connections()
    assert (server().mode, server().cluster_is_well) == ("cluster", False)
    forget_connections()
    node.kill()


# --- the queue and its workers


def test_waiting_tasks_without_a_worker_are_a_problem(client: APIClient) -> None:
    assert worst_of("workers").level is Level.WARNING
    submit(client)
    finding = found("workers")[0]
    assert (finding.level, "1 tasks wait" in finding.message) == (Level.PROBLEM, True)


def test_doctor_reports_a_silent_worker(deployment: None) -> None:
    gone = f"{RQ_KEY_PREFIX}:worker:gone"
    get_redis().hset(gone, mapping={"birth": "x", "hostname": "pod-7", "beat_at": time.time() - 600})
    get_redis().sadd(f"{RQ_KEY_PREFIX}:workers:default", gone)
    alive, silent = found("workers")
    assert alive.level is Level.OK
    assert "1 alive, 0 of 8 slots busy" in alive.message
    assert (silent.level, "gone on pod-7 has been silent for 10 min" in silent.message) == (Level.WARNING, True)


def test_doctor_reports_a_missing_scheduler(deployment: None) -> None:
    get_redis().delete(f"{RQ_KEY_PREFIX}:cron_schedulers")
    assert worst_of("workers").hint == "Start `manage.py scheduler`."


def test_doctor_reports_a_full_queue_and_archived_jobs(client: APIClient, configured: Callable[..., None]) -> None:
    configured(MAX_QUEUE_SIZE=1)
    submit(client)
    get_redis().zadd(f"{RQ_KEY_PREFIX}:failed:default", {"x": 9e12})
    well_, full, archived = found("queue")
    assert well_.message == "1 of 1 wait, 0 run in workers"
    assert ("429" in full.message, "sweep_archive" in archived.hint) == (True, True)


def test_doctor_reports_failed_scheduler_jobs_until_they_expire() -> None:
    registry = f"{RQ_KEY_PREFIX}:failed:{django_settings.MAINTENANCE_QUEUE}"
    get_redis().zadd(registry, {"lapsed": time.time() - 1, "one": 9e12, "two": 9e12})
    finding = worst_of("queue")
    assert (finding.level, finding.message) == (Level.WARNING, "2 maintenance jobs failed in the last 12 hours")


def test_doctor_distinguishes_lost_tasks_from_waiting_ones(client: APIClient) -> None:
    task("pending", 7200)
    assert worst_of("queue").hint == "Run `manage.py init_check` to settle lost tasks."
    Task.objects.update(created_at=now() - timedelta(hours=2))
    submit(client)
    finding = worst_of("queue")
    assert ("has waited 2 h" in finding.message, finding.hint) == (True, "Start more workers.")


# --- the services


@pytest.mark.parametrize(
    ("step", "level"),
    [
        (answers({"error": "not found"}, status=404), "ok"),
        (answers({"error": "redis: nil"}, status=400), "ok"),
        (answers({"error": "no"}, status=401), "problem"),
        (answers({"error": "no"}, status=403), "problem"),
        (says(b"", status=500), "warning"),
    ],
)
def test_the_check_of_the_record_service_sends_the_key(record_service: Stub, step: Any, level: str) -> None:
    record_service.script(DOCTOR, step)
    (finding,) = found("record service")
    assert finding.level == level
    assert record_service.calls(DOCTOR)[0].headers["apikey"] == django_settings.WEBHOOK_APIKEY


def test_doctor_reports_an_unreachable_record_service_and_unreported_results(record_service: Stub) -> None:
    record_service.close()
    task("succeeded", 5, unreported=True)
    away, unheard = found("record service")
    assert (away.level, unheard.level) == (Level.PROBLEM, Level.WARNING)
    assert "1 ended tasks" in unheard.message


def test_a_storage_that_takes_no_file(configured: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "media").write_text("a file where the directory should be")
    configured(MEDIA_ROOT=str(tmp_path / "media"))
    finding = worst_of("storage")
    assert (finding.level, "MEDIA_ROOT" in finding.hint) == (Level.PROBLEM, True)


def test_the_storage_is_left_as_it_was(configured: Callable[..., None], tmp_path: Path) -> None:
    configured(MEDIA_ROOT=str(tmp_path))
    assert worst_of("storage").level is Level.OK
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("step", "says_"),
    [
        (answers({"message": "API OK"}), "only to models on this host"),
        (says(b"", status=404), "answers 404, not as this agent does"),
    ],
)
def test_the_upload_address_is_checked_with_a_models_request(kserve: Stub, step: Any, says_: str) -> None:
    kserve.script(LIVE, step)
    (finding,) = found("upload address")
    assert (finding.level, says_ in finding.message) == (Level.WARNING, True)
    assert "UPLOAD_WEBHOOK_ADDRESS" in finding.hint


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}", "http://", "http://[", "http://a:b"]
)
def test_an_upload_address_that_leads_nowhere(kserve: Stub, settings: Any, url: str) -> None:
    settings.UPLOAD_BASE_URL = url.format(port=closed_port())
    assert worst_of("upload address").level is Level.WARNING


def test_the_check_of_the_platform_includes_the_model(shell: Shell, kserve: Stub, deployment: None) -> None:
    kserve.script("GET /v1/models/iris", answers({"name": "iris", "ready": True}))
    kserve.script(LIVE, answers({"message": "API OK"}))
    asked = shell("doctor", "--model", "iris", "--json")
    (finding,) = [finding for finding in asked.json["findings"] if finding["part"] == "platform"]
    assert (asked.code, finding["level"], "iris is ready" in finding["message"]) == (0, "ok", True)


def test_without_a_model_the_check_uses_the_one_of_the_settings(
    shell: Shell, kserve: Stub, configured: Callable[..., None]
) -> None:
    configured(MODEL_NAME="wine")
    shell("doctor")
    shell("doctor", "--model", "iris")
    assert [asked.path for asked in kserve.received if asked.path != "/live"] == ["/v1/models/wine", "/v1/models/iris"]


def test_doctor_names_the_host_of_a_model_unknown_to_the_ingress(shell: Shell, kserve: Stub) -> None:
    kserve.script("GET /v1/models/roses", says(b"<html>", status=404, content_type="text/html"))
    finding = worst_of("platform", "roses")
    host = "roses.default.example.com"
    assert finding.level is Level.PROBLEM
    assert finding.message == f"the ingress at {kserve.address} knows no roses under the host {host}"
    assert "KSERVE_HOST_TEMPLATE" in finding.hint
    assert kserve.calls("GET /v1/models/roses")[0].headers["host"] == host
    assert shell("doctor", "--model", "roses").code == 1


def test_a_platform_that_is_away(kserve: Stub) -> None:
    kserve.close()
    finding = worst_of("platform")
    assert (finding.level, "could not be reached (" in finding.message) == (Level.PROBLEM, True)


def test_a_predictor_that_cannot_be_imported(configured: Callable[..., None], settings: Any) -> None:
    path, arguments = settings.PLATFORMS["local"]
    local = (path, {**arguments, "predictor": "no.such.module:predict"})
    configured(PLATFORMS={**settings.PLATFORMS, "local": local})
    finding = worst_of("platform")
    assert (finding.level, "No module named" in finding.message) == (Level.PROBLEM, True)


def test_a_cause_in_brackets_comes_before_the_full_stop() -> None:
    error = OSError("it broke.")
    error.__cause__ = TimeoutError("timed out")
    assert full_stop(because(error)) == "it broke (timed out)."
