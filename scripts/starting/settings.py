"""The settings file, and the environment of the processes."""

import os
import secrets
import sys
from pathlib import Path

import environ

from scripts.starting.terminal import ROOT, say

WEBHOOK_BIND = "127.0.0.1:12000"

SETTINGS = """\
# The settings of this checkout. scripts/run has created this file; change it as you like. The environment takes
# precedence over it, and .env.example lists every setting.

# Signs sessions and upload addresses. Keep it secret.
SECRET_KEY={secret_key}

# Anyone who reaches the port may call the API. Set API_KEYS=key1,key2 instead before others can reach it.
ALLOW_ANONYMOUS=true

# Only this machine can connect, because callers need no key. With 0.0.0.0:8000 every machine can.
HTTP_SERVER_ADDRESS=127.0.0.1:8000

# Runs the models in examples/: iris and text. Others: kserve, k8s, replicate, runpod.
ML_PLATFORM=local
"""


def read_settings() -> None:
    """Adds the settings file, which it creates if there is none, to the environment, which takes precedence."""
    chosen = os.environ.get("ENV_FILE")
    path = Path(chosen) if chosen else ROOT / ".env"
    if not chosen and not path.exists() and os.environ.get("ENVIRONMENT") != "production":
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(SETTINGS.format(secret_key=secrets.token_urlsafe(50)))
        say("Created .env: the API needs no key, only this machine can connect, and the example models run.")
    environ.Env.read_env(path)
    os.environ["WEBHOOK_BIND"] = os.environ.get("WEBHOOK_BIND") or WEBHOOK_BIND
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["PYTHONUNBUFFERED"] = "1"
