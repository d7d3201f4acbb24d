"""Management commands as processes."""

import os
import subprocess
import sys

from tests.helpers.servers import ROOT


def check(**environment: str) -> tuple[int, str]:
    """The exit code and output of `manage.py check` with only these variables set."""
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "ALLOW_ANONYMOUS": "true", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
