"""A full disk, under the SQLite file and under the uploads."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from django.conf import settings

from predictions.models import Task, Upload
from predictions.uploads import upload_address
from tests.e2e.callers import Callers
from tests.e2e.databases import manage, reachable_here
from tests.e2e.faults import Crowd, settles
from tests.e2e.small_disk import small_disk
from tests.helpers.factories import TaskFactory
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform, sleeping
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]


def test_a_full_disk_under_sqlite(serve: Serve, slow_platform: SlowPlatform, tmp_path: Path) -> None:
    """Callers get 503 and results wait; once there is space, everything goes on."""
    with (
        small_disk(tmp_path / "disk", megabytes=32) as disk,
        reachable_here(url := f"sqlite:///{disk.path / 'agent.sqlite3'}"),
    ):
        environment = {"MAX_QUEUE_SIZE": "2000", "WORKER_CONCURRENCY": "64", "DATABASE_URL": url}
        web = serve("web", **environment, **slow_platform.environment())
        worker = serve("worker", **environment, **slow_platform.environment())
        with (
            Crowd(web.url, callers=8, sleep=2) as crowd,
            Callers(web.port, "/v1/predict", lambda n: sleeping(1)(n + 10**6), count=16, keep_alive=True) as sync,
        ):
            crowd.wait_for(400)
            until(lambda: Task.objects.using("own").filter(status="running").count() >= 70)
            disk.fill()
            until(lambda: crowd.refused["503 unavailable"] >= 50, seconds=60)
            assert requests.get(f"{web.url}/live", timeout=30).status_code == 200
            assert requests.get(f"{web.url}/task/{crowd.accepted[0]}", timeout=30).status_code == 200
            disk.free()
            freed_at = time.monotonic()
            crowd.wait_for(len(crowd.accepted) + 1)
            print(f"\naccepted again {time.monotonic() - freed_at:.1f} s after there was space")
        assert set(crowd.refused) <= {"503 unavailable"}, crowd.refused
        assert set(sync.answers) <= {"200", "503 unavailable"}, sync.cuts
        manage("init_check", DATABASE_URL=url, **slow_platform.environment())
        print(settles(crowd, slow_platform, using="own"), len(crowd.accepted), crowd.refused, sync.answers)
        assert "malformed" not in web.output() + worker.output()


def test_a_full_disk_under_the_uploads(serve: Serve, slow_platform: SlowPlatform, tmp_path: Path) -> None:
    """Three hundred predictions run, and upload meanwhile: refused files leave nothing, kept ones are whole."""
    with small_disk(tmp_path / "disk", megabytes=32) as disk:
        web = serve("web", MEDIA_ROOT=str(disk.path / "media"), **slow_platform.environment())
        with Callers(web.port, "/v1/predict", sleeping(20), count=300, keep_alive=False) as callers:
            until(lambda: Task.objects.filter(status="running").count() == 300, seconds=60)
            callers.stop_asking()
            tasks = list(Task.objects.all())
            contents: dict[str, bytes] = {}

            def upload(task: Task, size: int) -> int:
                address = web.url + upload_address(task.pk).removeprefix(settings.UPLOAD_BASE_URL)
                content = task.pk.encode() * (size // 36)
                response = requests.post(address, files={"file": ("a.bin", content)}, timeout=30)
                if response.status_code == 200:
                    contents[response.json()["url"]] = content
                else:
                    assert response.json()["code"] == "unavailable"
                return response.status_code

            assert {upload(task, 10_000) for task in tasks[:50]} == {200}
            disk.fill()
            assert {upload(task, 10_000) for task in tasks[50:80]} == {503}
            assert {upload(task, 4_000_000) for task in tasks[80:84]} == {503}
            disk.free()
            filling = [upload(task, 3_000_000) for task in tasks[84:104]]  # more than there is room for
            assert set(filling) == {200, 503}
            assert upload(tasks[104], 1_000) in (200, 503)
        assert callers.answers == {"200": 300}
        stored = {str(path.relative_to(disk.path / "media")) for path in disk.path.rglob("*") if path.is_file()}
        assert stored == set(Upload.objects.values_list("name", flat=True))
        assert len(stored) == len(contents)
        for url, content in contents.items():
            assert requests.get(url, timeout=30).content == content


def test_a_full_disk_under_files_that_are_still_coming(
    serve: Serve, slow_platform: SlowPlatform, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", megabytes=8) as disk:
        web = serve("web", TMPDIR=str(disk.path), MEDIA_ROOT=str(tmp_path / "media"), **slow_platform.environment())
        task = TaskFactory(model_name="m", status="running", platform="k8s")
        address = web.url + upload_address(task.pk).removeprefix(settings.UPLOAD_BASE_URL)
        before = set(disk.path.iterdir())
        refused = requests.post(address, files={"file": ("a.bin", b"x" * 20_000_000)}, timeout=30)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        until(lambda: set(disk.path.iterdir()) == before)
        assert not Upload.objects.exists()
        taken = requests.post(address, files={"file": ("a.bin", b"x" * 5_000_000)}, timeout=30)
        assert taken.status_code == 200
        assert "Traceback" not in web.output()
