"""Replicate's real client, run with the Python of its own virtual environment: `python replicate_client.py < CASES`.

CASES is a JSON object of name → {"how", "input", …}; a JSON object of name → outcome is printed. `how` is `create`,
`run`, `stream`, `cancel`, `cancel_that` (the prediction `id`) or `list_all`.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import replicate

Case = dict[str, Any]


def create(client: Any, case: Case) -> Any:
    prediction = client.predictions.create(version=case["version"], input=case["input"])
    first = prediction.status
    prediction.wait()
    return {"first": first, **prediction.dict()}


def run(client: Any, case: Case) -> Any:
    return {"output": client.run(case["model"], input=case["input"], use_file_output=False)}


def stream(client: Any, case: Case) -> Any:
    prediction = client.predictions.create(version=case["version"], input=case["input"], stream=True)
    pieces: list[str] = []
    logs: list[str] = []
    error = ""
    try:
        for event in prediction.stream():
            {"output": pieces, "logs": logs, "done": []}[event.event.value].append(event.data)
    except RuntimeError as raised:
        error = str(raised)
    prediction.reload()
    return {"pieces": pieces, "logs": logs, "error": error, "status": prediction.status}


def cancel(client: Any, case: Case) -> Any:
    prediction = client.predictions.create(version=case["version"], input=case["input"])
    while prediction.status == "starting":
        time.sleep(0.05)
        prediction.reload()
    prediction.cancel()
    answered = prediction.status
    prediction.reload()
    return {"answered": answered, "status": prediction.status}


def cancel_that(client: Any, case: Case) -> Any:
    return client.predictions.cancel(case["id"]).status


def list_all(client: Any, case: Case) -> Any:
    return [prediction.id for prediction in client.predictions.list().results]


def outcome(case: Case) -> Any:
    client = replicate.Client(api_token=case.get("key", os.environ["KEY"]), base_url=os.environ["BASE_URL"])
    try:
        return globals()[case["how"]](client, case)
    except Exception as error:
        status = getattr(error, "status", None)
        return {"exception": type(error).__name__, "words": str(error), "http_status": status}


if __name__ == "__main__":
    cases = json.load(sys.stdin)
    with ThreadPoolExecutor(len(cases)) as pool:
        print(json.dumps(dict(zip(cases, pool.map(outcome, cases.values()), strict=True))))
