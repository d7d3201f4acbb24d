"""The Grafana dashboard and the Prometheus rules against the metrics that are served, and promtool."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from rest_framework.test import APIClient

from predictions.telemetry import counters

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
GRAFANA = DEPLOY / "grafana" / "serving-agent.json"
NOT_METRICS = {
    "sum",
    "max",
    "count",
    "by",
    "le",
    "on",
    "and",
    "job",
    "instance",
    "platform",
    "model",
    "status",
    "version",
    "outcome",
    "path",
    "m",
    "s",
}


def expressions() -> Iterator[str]:
    """Every PromQL expression of the rules and the dashboard."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    dashboard: dict[str, Any] = json.loads(GRAFANA.read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable)


def metrics_asked(expression: str) -> set[str]:
    """The metric names of an expression: its words outside braces, brackets and quotes that are no function's name."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', " ", expression)
    words = re.findall(r"\b([a-z][a-z0-9_]*)\b(?!\s*\()", bare)
    return set(words) - NOT_METRICS


@pytest.fixture
def served(client: APIClient) -> dict[str, set[str]]:
    """Sample name → its labels, of everything that is served once each thing happened."""
    counters.request_answered("/v1/predict", 200, 0.1)
    counters.task_finished("m", "failed")
    counters.tasks_set_to_failed(1)
    counters.async_prediction(1.0, failed=True)
    counters.platform_answered("local", "succeeded", 1.0)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").content.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_rules_and_dashboard_use_only_existing_metrics(served: dict[str, set[str]]) -> None:
    asked = set().union(*map(metrics_asked, expressions()))
    assert len(asked) > 10
    assert asked <= served.keys()


def test_rules_and_dashboard_ask_only_for_labels_that_are_there(served: dict[str, set[str]]) -> None:
    for expression in expressions():
        for name, selector in re.findall(r"([a-z_]+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*=", selector)) <= served[name] | {"job"}, expression


def test_every_metric_is_shown_or_watched(served: dict[str, set[str]]) -> None:
    asked = " ".join(expressions())
    names = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in served}
    assert [name for name in names if name not in asked] == []


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(GRAFANA.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.slow
@pytest.mark.parametrize("what", [["check", "rules", "rules.yml"], ["test", "rules", "rules.test.yml"]])
def test_promtool_accepts_the_rules_and_their_tests_pass(what: list[str]) -> None:
    told = subprocess.run(["promtool", *what], cwd=RULES.parent, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.slow
def test_promtool_finds_nothing_to_say_of_the_metrics_but_their_old_names(
    client: APIClient, served: dict[str, set[str]]
) -> None:
    text = client.get("/metrics").content
    told = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60)
    kept = {b"num_tasks_set_to_failed", b"response_status", b"async_predict_time"}
    complaints = [line for line in told.stderr.splitlines() if line.split(b" ")[0] not in kept]
    assert complaints == []
