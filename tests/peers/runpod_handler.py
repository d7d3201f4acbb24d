"""A real RunPod worker, run with the Python of its own virtual environment: `python runpod_handler.py [--stream]`.

It answers as `input.mood` says. It first writes each step to the file EVENTS: one JSON object a line. A job of the
mood `gate` goes on once the file GATE is there.
"""

import asyncio
import json
import os
import pathlib
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import runpod

Job = dict[str, Any]
GATE = pathlib.Path(os.environ["GATE"])


def note(what: str, job: Job) -> None:
    with open(os.environ["EVENTS"], "a") as events:
        events.write(json.dumps({"what": what, "job": job["id"], "input": job["input"], "at": time.time()}) + "\n")


async def until_open() -> None:
    while not GATE.exists():
        await asyncio.sleep(0.05)


async def answer(job: Job) -> Any:
    inputs = job["input"]
    match inputs["mood"]:
        case "echo":
            return {"echo": inputs}
        case "say":
            return inputs["say"]
        case "not a number":
            return {"score": float("nan"), "scores": [1.5, float("inf"), float("-inf")]}
        case "refuse":
            return {"error": inputs["why"]}
        case "raise":
            raise ValueError(inputs["why"])
        case "progress":
            for part in range(1, 4):
                runpod.serverless.progress_update(job, f"{part} of 3")
                await asyncio.sleep(0.5)
            return {"parts": 3}
        case "sleep":
            await asyncio.sleep(inputs["seconds"])
            return {"slept": inputs["seconds"]}
        case "gate":
            await until_open()
            return {"went": "through"}
    raise ValueError("no such mood")


async def handler(job: Job) -> Any:
    note("started", job)
    try:
        return await answer(job)
    except asyncio.CancelledError:
        note("stopped", job)
        raise


async def generator(job: Job) -> AsyncIterator[Any]:
    note("started", job)
    inputs = job["input"]
    try:
        for number, piece in enumerate(inputs["pieces"]):
            if number == inputs.get("raise_at"):
                raise ValueError(inputs["why"])
            yield piece
            await asyncio.sleep(inputs.get("pause", 0))
        if inputs.get("hang"):
            await until_open()
    except asyncio.CancelledError:
        note("stopped", job)
        raise


if __name__ == "__main__":
    sys.argv, streams = sys.argv[:1], "--stream" in sys.argv
    runpod.serverless.start(
        {
            "handler": generator if streams else handler,
            "return_aggregate_stream": True,
            "concurrency_modifier": lambda _: 16,
        }
    )
