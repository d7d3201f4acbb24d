"""The settings file, and what the processes find in their environment."""

import os
import secrets
import sys
from pathlib import Path

import environ

from scripts.starting.terminal import ROOT, say

WEBHOOK_BIND = "127.0.0.1:12000"

SETTINGS = """\
# The settings of this checkout, written once by scripts/run; change what you like. The environment wins over this
# file, and .env.example lists every setting.

# Signs what the admin hands to browsers. Keep it to yourself.
SECRET_KEY={secret_key}

# Whoever reaches the port may call the API. Before others can reach it, set API_KEYS=key1,key2 instead.
ALLOW_ANONYMOUS=true

# Reachable from this machine only, because callers need no key. 0.0.0.0:8000 is reachable from everywhere.
HTTP_SERVER_ADDRESS=127.0.0.1:8000

# Runs the models in examples/: iris and text. Others: kserve, k8s, replicate, runpod.
ML_PLATFORM=local
"""


def read_settings() -> None:
    """Puts the settings file, made if there is none, below the environment."""
    chosen = os.environ.get("ENV_FILE")
    path = Path(chosen) if chosen else ROOT / ".env"
    if not chosen and not path.exists() and os.environ.get("ENVIRONMENT") != "production":
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(SETTINGS.format(secret_key=secrets.token_urlsafe(50)))
        say("Wrote .env: an open API on this machine only, with the example models. Change it there.")
    environ.Env.read_env(path)
    os.environ["WEBHOOK_BIND"] = os.environ.get("WEBHOOK_BIND") or WEBHOOK_BIND
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["PYTHONUNBUFFERED"] = "1"
