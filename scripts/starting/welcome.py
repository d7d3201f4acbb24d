"""The text that scripts/run prints once the agent is up."""

import json
import os
import shlex

from scripts.starting.addresses import Address

WELCOME = """
The serving agent is up.

  API    {url}
  Admin  {url}/admin/   (sign in as {operator}{password})
         If you forget the password, run .venv/bin/python manage.py changepassword {quoted_operator}

Try it in another terminal.{hint} A prediction that you wait for:

  curl -sS {url}/v1/predict{headers} -d {body}

One that is queued{how_long}, then what became of it, then its cancellation:

  TASK=$(curl -sS {url}/async/v1/predict{headers} -d {queued_body} | cut -d '"' -f 4); echo "$TASK"
  curl -sS {url}/task/$TASK{key}
  curl -sS -X POST {url}/cancel/$TASK{key}

Ctrl-C ends everything.

"""
EXAMPLE = "examples.iris:predict"
EXAMPLE_INPUTS = {"instances": [[5.1, 3.5, 1.4, 0.2]]}


def welcome(address: Address, operator: str, password: str) -> str:
    """Describes how to call the agent with its current settings."""
    key = " -H 'Authorization: Bearer YOUR_API_KEY'" if _setting("API_KEYS") else ""
    if _setting("ML_PLATFORM", "local") == "local" and _setting("LOCAL_PREDICTOR", EXAMPLE) == EXAMPLE:
        hint, how_long = "", " and takes a minute"
        body = _body("iris", json.dumps(EXAMPLE_INPUTS))
        queued_body = _body("iris", json.dumps({**EXAMPLE_INPUTS, "delay_seconds": 60}))
    else:
        model = _setting("MODEL_NAME")
        name = "" if model else "YOUR_MODEL with your model's name and "
        hint = f" Replace {name}YOUR_INPUTS with the model's inputs, a JSON object."
        how_long = ""
        body = queued_body = _body(model or "YOUR_MODEL", "YOUR_INPUTS")
    return WELCOME.format(
        url=address.url,
        operator=operator,
        password=f", password {password} : it is shown only now" if password else "",
        quoted_operator=shlex.quote(operator),
        hint=hint,
        how_long=how_long,
        key=key,
        headers=f"{key} -H 'Content-Type: application/json'",
        body=body,
        queued_body=queued_body,
    )


def _setting(name: str, default: str = "") -> str:
    return os.environ.get(name, "").strip() or default


def _body(model: str, inputs: str) -> str:
    """A request's body as an argument in a shell. `inputs` is JSON, or a placeholder for it."""
    return shlex.quote(f'{{"model_name": {json.dumps(model)}, "inputs": {inputs}}}')
