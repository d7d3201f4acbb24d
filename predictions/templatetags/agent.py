"""How the dashboard words its figures."""

import json
from typing import Any

from django import template
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from platforms import Level
from predictions.operations.diagnosis import Finding
from predictions.operations.statistics import ModelFigures, Percentiles
from predictions.queue.overview import Worker

register = template.Library()


@register.filter
def seconds(value: float | str | None) -> str:
    """`0.015 s`, `12.3 s`, `4 min 10 s`, `2 h 5 min`; `–` where there is none."""
    if not isinstance(value, float | int):  # unknown: a missing variable is "" in a template
        return "–"
    if value == 0:
        return "0 s"
    if value < 1:
        return f"{value:.3f} s"
    if value < 60:
        return f"{value:.1f} s"
    whole = int(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@register.filter
def json_text(value: Any) -> str:
    return json.dumps(value)


@register.filter
def models_table(models: list[ModelFigures] | None) -> dict[str, Any]:
    return {
        "headers": ["Model", "Platform", "Ended", "Failed", "Run time p50 · p90 · p99", "Queue time p50 · p90 · p99"],
        "rows": [
            [
                one.model_name,
                one.platform,
                one.ended,
                f"{one.failed_percent:.1f} %",
                _three(one.run_time),
                _three(one.queue_time),
            ]
            for one in models or ()
        ],
    }


@register.filter
def workers_table(workers: tuple[Worker, ...] | None) -> dict[str, Any]:
    return {
        "headers": ["Worker", "Host", "Load", "State"],
        "rows": [
            [one.name[:12], f"{one.host} ({one.pid})", f"{one.running} of {one.slots}", _state(one)]
            for one in workers or ()
        ],
    }


@register.filter
def findings_table(findings: list[Finding]) -> dict[str, Any]:
    rows = [
        [one.part.capitalize(), _level(one.level), f"{one.message}. {one.hint}" if one.hint else one.message]
        for one in findings
    ]
    return {"headers": ["Part", "State", "What was found"], "rows": rows}


def _level(level: Level) -> SafeString:
    badge = {Level.OK: "success", Level.WARNING: "warning", Level.PROBLEM: "danger"}[level]
    return render_to_string("unfold/helpers/label.html", {"type": badge, "text": level.value})


def _three(times: Percentiles) -> str:
    return " · ".join(seconds(time) for time in (times.p50, times.p90, times.p99))


def _state(worker: Worker) -> SafeString:
    badge = {"type": "success", "text": "alive"}
    if not worker.is_alive:
        badge = {"type": "danger", "text": f"silent for {seconds(worker.silent_seconds)}"}
    return render_to_string("unfold/helpers/label.html", badge)
