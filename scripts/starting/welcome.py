"""What a caller can try as soon as the agent is up."""

import json
import os
import shlex
from typing import Any

from scripts.starting.addresses import Address

WELCOME = """
The serving agent is up.

  API    {url}
  Admin  {url}/admin/   (sign in as {operator}{password})

Try it in another terminal.{hint} A prediction that you wait for:

  curl -sS {url}/v1/predict{headers} -d {inputs}

One that is queued and takes a minute, then what became of it, then its cancellation:

  TASK=$(curl -sS {url}/async/v1/predict{headers} -d {slow_inputs} | cut -d '"' -f 4); echo "$TASK"
  curl -sS {url}/task/$TASK{key}
  curl -sS -X POST {url}/cancel/$TASK{key}

Ctrl-C ends everything.

"""


def welcome(address: Address, operator: str, password: str) -> str:
    """How to call the agent as it is configured now."""
    inputs: dict[str, Any] = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
    model, hint = "iris", ""
    has_iris = os.environ.get("LOCAL_PREDICTOR", "examples.iris:predict") == "examples.iris:predict"
    if os.environ.get("ML_PLATFORM", "local") != "local" or not has_iris:
        model, hint = os.environ.get("MODEL_NAME") or "iris", " Put your model's name and inputs in."
    key = " -H 'Authorization: Bearer YOUR_API_KEY'" if os.environ.get("API_KEYS") else ""

    def body(**more: Any) -> str:
        return shlex.quote(json.dumps({"model_name": model, "inputs": {**inputs, **more}}))

    return WELCOME.format(
        url=address.url,
        operator=operator,
        password=f", password {password} : it is shown only now" if password else "",
        hint=hint,
        key=key,
        headers=f"{key} -H 'Content-Type: application/json'",
        inputs=body(),
        slow_inputs=body(delay_seconds=60),
    )
