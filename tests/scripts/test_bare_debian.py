"""scripts/run on a Debian 13 that has Python and no Redis."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.checkouts import copy_work_tree, in_a_shell, running
from tests.helpers.debian import make_root

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("debootstrap"),
        reason="needs root and debootstrap (apt install debootstrap)",
    ),
]

IN_ROOT = 'mount -t proc proc "$0/proc" && exec chroot "$0" sh -c \'cd /agent && exec "$@"\' sh "$@"'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("debian")
    root = directory / "root"
    make_root(root, "trixie", "python3,python3-venv,ca-certificates", log=directory / "log")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    yield root
    shutil.rmtree(root)


def test_one_command_starts_the_agent_on_a_bare_debian_13(root: Path) -> None:
    assert not list(root.glob("usr/bin/*-server"))
    checkout = root / "agent"
    copy_work_tree(checkout)
    in_root = ["unshare", "--mount", "sh", "-c", IN_ROOT, str(root)]
    with running(checkout, seconds=600, before=in_root) as run:
        assert "Creating .venv with Python 3.13" in run.output()
        assert "Started a Redis for this checkout" in run.output()
        (answer,) = in_a_shell(run.printed("/v1/predict"))
        assert json.loads(answer)["status"] == "succeeded"
        assert run.end() == 0
        assert run.processes() == {}
