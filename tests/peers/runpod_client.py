"""RunPod's real client, run with the Python of its own virtual environment: `python runpod_client.py < CASES`.

CASES is a JSON object of name → {"endpoint", "how", "input", …}; a JSON object of name → outcome is printed. `how` is
`run`, `run_sync`, `stream`, `cancel`, `cancel_that` (the job `id`) or `health`.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import runpod

Case = dict[str, Any]


def run(endpoint: Any, case: Case) -> Any:
    job = endpoint.run({"input": case["input"], "policy": case.get("policy")})
    first = job.status()
    output = job.output(timeout=30)
    seen = job.rp_client.get(f"{case['endpoint']}/status/{job.job_id}")
    return {"first": first, "status": job.status(), "output": output, "error": seen.get("error"), "keys": sorted(seen)}


def run_sync(endpoint: Any, case: Case) -> Any:
    return {"output": endpoint.run_sync({"input": case["input"]}, timeout=30)}


def stream(endpoint: Any, case: Case) -> Any:
    job = endpoint.run({"input": case["input"]})
    pieces = list(job.stream())
    return {"pieces": pieces, "status": job.status(), "output": job.output()}


def cancel(endpoint: Any, case: Case) -> Any:
    job = endpoint.run({"input": case["input"]})
    while job.status() == "IN_QUEUE":
        time.sleep(0.05)
    return {"answer": job.cancel(), "status": job.status(), "id": job.job_id}


def cancel_that(endpoint: Any, case: Case) -> Any:
    return runpod.endpoint.runner.Job(case["endpoint"], case["id"], endpoint.rp_client).cancel()


def health(endpoint: Any, case: Case) -> Any:
    return endpoint.health()


def outcome(case: Case) -> Any:
    try:
        return globals()[case["how"]](
            runpod.Endpoint(case["endpoint"], api_key=case.get("key", os.environ["KEY"])), case
        )
    except Exception as error:
        return {"exception": type(error).__name__, "words": str(error)}


if __name__ == "__main__":
    cases = json.load(sys.stdin)
    with ThreadPoolExecutor(len(cases)) as pool:
        print(json.dumps(dict(zip(cases, pool.map(outcome, cases.values()), strict=True))))
