"""Reads the settings file, and writes one at the first start."""

import os
import secrets
import sys
from pathlib import Path

import environ

from scripts.starting.terminal import ROOT, say

WEBHOOK_BIND = "127.0.0.1:12000"

SETTINGS = """\
# The settings of this checkout. scripts/run wrote this file once; edit it as you like. Environment variables override
# it, and .env.example lists every setting.

# Signs the admin's sessions. Keep it secret.
SECRET_KEY={secret_key}

# Callers need no key. Before other machines can reach the port, set API_KEYS=key1,key2 instead.
ALLOW_ANONYMOUS=true

# Only this machine can reach the agent, because callers need no key. With 0.0.0.0:8000 all machines can.
HTTP_SERVER_ADDRESS=127.0.0.1:8000

# Runs the example model in examples/iris. Others: kserve, k8s, replicate, runpod.
ML_PLATFORM=local
"""


def read_settings() -> None:
    """Adds the settings file to the environment. Writes the file if there is none."""
    chosen = os.environ.get("ENV_FILE")
    path = Path(chosen) if chosen else ROOT / ".env"
    if not chosen and not path.exists() and os.environ.get("ENVIRONMENT") != "production":
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(SETTINGS.format(secret_key=secrets.token_urlsafe(50)))
        say("Wrote .env: an API without keys for this machine only, with the example model. Edit it to change that.")
    environ.Env.read_env(path)
    os.environ["WEBHOOK_BIND"] = os.environ.get("WEBHOOK_BIND") or WEBHOOK_BIND
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["PYTHONUNBUFFERED"] = "1"
