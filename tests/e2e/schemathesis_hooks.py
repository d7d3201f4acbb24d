"""Hooks for schemathesis: new ids for new records, streams in both forms, and a check of their lines."""

import itertools
import json
import re
from typing import Any

import jsonschema
import schemathesis

numbers = itertools.count()


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    number = next(numbers)
    if case.operation.label == "POST /task" and number % 4:  # most ids that it thinks of exist from then on
        case.body = with_a_new_id(case.body, number)
    if case.operation.label == "POST /v1/generate" and number % 2:
        case.headers["Accept"] = "text/event-stream"


def with_a_new_id(body: Any, number: int) -> Any:
    """A body that has a valid id has another one then."""
    given = body.get("id") if isinstance(body, dict) else None
    valid = isinstance(given, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,50}", given)
    return {**body, "id": f"{given}-{number}"} if valid else body


@schemathesis.check
def lines_are_as_documented(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """It checks events itself, but no lines of JSON."""
    if "application/x-ndjson" in response.headers.get("content-type", [""])[0]:
        line_schema = case.operation.definition.raw["responses"]["200"]["content"]["application/x-ndjson"]["schema"]
        schema = {**line_schema, "components": case.operation.schema.raw_schema["components"]}
        lines = (response.content or b"").decode().splitlines()
        assert lines, "no lines"
        for line in lines:
            jsonschema.validate(json.loads(line), schema)
