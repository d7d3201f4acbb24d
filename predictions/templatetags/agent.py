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

LEVELS = {Level.OK: "success", Level.WARNING: "warning", Level.PROBLEM: "danger"}


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
    headers = ["Model", "Platform", "Ended", "Failed", "Run time p50 · p90 · p99", "Queue time p50 · p90 · p99"]
    rows = []
    for one in models or ():
        failed = f"{one.failed_percent:.1f} %"
        rows.append([one.model_name, one.platform, one.ended, failed, _three(one.run_time), _three(one.queue_time)])
    return {"headers": headers, "rows": rows}


@register.filter
def workers_table(workers: tuple[Worker, ...] | None) -> dict[str, Any]:
    rows = []
    for one in workers or ():
        silent = f"silent for {seconds(one.silent_seconds)}"
        state = _badge("success", "alive") if one.is_alive else _badge("danger", silent)
        rows.append([one.name[:12], f"{one.host} ({one.pid})", f"{one.running} of {one.slots}", state])
    return {"headers": ["Worker", "Host", "Load", "State"], "rows": rows}


@register.filter
def findings_table(findings: list[Finding]) -> dict[str, Any]:
    rows = [
        [
            one.part.capitalize(),
            _badge(LEVELS[one.level], one.level.value),
            f"{one.message}. {one.hint}" if one.hint else one.message,
        ]
        for one in findings
    ]
    return {"headers": ["Part", "State", "What was found"], "rows": rows}


def _badge(colour: str, text: str) -> SafeString:
    return render_to_string("unfold/helpers/label.html", {"type": colour, "text": text})


def _three(times: Percentiles) -> str:
    return " · ".join(seconds(time) for time in (times.p50, times.p90, times.p99))
