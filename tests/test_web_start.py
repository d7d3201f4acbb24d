"""The imports of a web process at its start."""

import json
import subprocess
import sys

from tests.helpers.servers import ROOT, environment_of

PROGRAM = "import json, sys; import config.wsgi; print(json.dumps(sorted(sys.modules)))"
NOT_NEEDED = {"boto3", "botocore", "storages", "opentelemetry.exporter", "opentelemetry.sdk.trace", "honcho", "pytest"}


def test_web_starts_without_the_libraries_of_features_that_are_off() -> None:
    """S3 and traces are off. Their libraries would make a start longer by a third."""
    started = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment_of(), capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(started.stdout))
    assert "predictions.api.predictions" in loaded
    assert not NOT_NEEDED & loaded
