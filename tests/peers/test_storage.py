"""Where uploads are kept: a local disk, and two real S3-compatible servers."""

import hashlib
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from django.conf import settings
from django.utils.timezone import now

from predictions.models import Task, Upload
from predictions.uploads import upload_address
from tests.helpers.api import assert_error
from tests.helpers.factories import TaskFactory
from tests.helpers.servers import ROOT, Server, database_url
from tests.peers.s3_servers import S3

pytestmark = pytest.mark.slow

BIG = 60 * 1024 * 1024
GROWTH_MB = 20

Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], S3]]:
    started: dict[str, S3] = {}

    def server(kind: str) -> S3:
        if kind not in started:
            started[kind] = S3(kind, tmp_path_factory.mktemp(kind))
            started[kind].start()
        return started[kind]

    yield server
    for s3 in started.values():
        s3.kill()


@pytest.fixture(params=["moto", "s3rver"])
def s3(request: pytest.FixtureRequest, servers: Callable[[str], S3]) -> S3:
    """One that runs, and that other tests use too."""
    return servers(request.param)


@pytest.fixture
def own_s3(tmp_path: Path) -> Iterator[S3]:
    """One that a test may stop and start."""
    server = S3("s3rver", tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def bucket() -> str:
    return f"files-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def task() -> Task:
    return TaskFactory(model_name="painter", status="running", platform="kserve")


def address(web: Server, task: Task) -> str:
    return web.url + upload_address(task.pk).removeprefix(settings.UPLOAD_BASE_URL)


def send(web: Server, task: Task, content: bytes, name: str = "/tmp/out/picture.PNG") -> requests.Response:
    return requests.post(address(web, task), files={"file": (name, BytesIO(content))}, timeout=120)


def manage(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database_url(), "LOG_LEVEL": "INFO", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def end_long_ago(task: Task) -> None:
    Task.objects.filter(pk=task.pk).update(status="succeeded", ended_at=now() - timedelta(days=3))


# --- S3


def test_a_file_goes_to_the_bucket_and_leaves_it_with_its_task(serve: Serve, s3: S3, bucket: str, task: Task) -> None:
    s3.make_bucket(bucket)
    environment = s3.agent_environment(bucket)
    web = serve("web", **environment)
    content = os.urandom(100_000)
    response = send(web, task, content)
    assert response.status_code == 200, response.text
    (url,) = response.json().values()
    kept = Upload.objects.get()
    assert (kept.task, kept.size) == (task, len(content))
    assert re.fullmatch(r"uploads/[0-9a-f]{2}/[0-9a-f]{32}\.png", kept.name)
    assert s3.objects(bucket) == [kept.name]
    assert s3.client.head_object(Bucket=bucket, Key=kept.name)["ContentType"] == "image/png"

    assert url.startswith(f"{s3.url}/{bucket}/{kept.name}?X-Amz-Algorithm=AWS4-HMAC-SHA256&"), url
    assert f"X-Amz-Expires={48 * 3600}" in url
    served = requests.get(url, timeout=30)
    assert (served.status_code, served.content) == (200, content)
    assert served.headers["Content-Disposition"] == "attachment"
    # The agent redirects callers there; the file does not pass through the agent.
    sent = requests.get(f"{web.url}/media/{kept.name}", allow_redirects=False, timeout=30)
    assert sent.status_code == 302
    assert requests.get(sent.headers["Location"], timeout=30).content == content

    assert manage("purge_tasks", **environment).returncode == 0
    assert s3.objects(bucket) == [kept.name]
    end_long_ago(task)
    purged = manage("purge_tasks", **environment)
    assert purged.returncode == 0, purged.stderr
    assert s3.objects(bucket) == []
    assert (Task.objects.count(), Upload.objects.count()) == (0, 0)
    assert requests.get(url, timeout=30).status_code == 404


def test_a_batch_goes_to_the_bucket_in_its_order(serve: Serve, s3: S3, bucket: str, task: Task) -> None:
    s3.make_bucket(bucket)
    web = serve("web", **s3.agent_environment(bucket))
    files = {f"file_{number}": (f"{number}.txt", BytesIO(str(number).encode())) for number in range(12)}
    response = requests.post(address(web, task) + "_batch", files=files, timeout=60)
    assert response.status_code == 200, response.text
    contents = [requests.get(url, timeout=30).content for url in response.json()["urls"]]
    assert contents == [str(number).encode() for number in range(12)]
    assert len(s3.objects(bucket)) == 12


def test_forty_models_upload_at_once(serve: Serve, s3: S3, bucket: str, task: Task) -> None:
    s3.make_bucket(bucket)
    web = serve("web", **s3.agent_environment(bucket))
    contents = [os.urandom(50_000) for _ in range(40)]
    began = time.monotonic()
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda content: send(web, task, content), contents))
    took = time.monotonic() - began
    print(f"\n40 uploads at once took {took:.2f} s")
    assert [answer.status_code for answer in answers] == [200] * 40
    for answer, content in zip(answers, contents, strict=True):
        assert requests.get(answer.json()["url"], timeout=30).content == content


def test_s3_goes_away_and_comes_back(serve: Serve, own_s3: S3, bucket: str, task: Task) -> None:
    own_s3.make_bucket(bucket)
    environment = own_s3.agent_environment(bucket)
    web = serve("web", **environment)
    kept = send(web, task, b"before")
    assert kept.status_code == 200, kept.text
    own_s3.kill()

    began = time.monotonic()
    refused = send(web, task, b"meanwhile")
    print(f"\nit took {time.monotonic() - began:.1f} s until the answer said that S3 is down")
    assert_error(refused, 503, "unavailable")
    assert "Traceback" not in web.output()
    assert Upload.objects.count() == 1

    end_long_ago(task)
    purge = manage("purge_tasks", **environment)
    assert purge.returncode != 0
    assert (Task.objects.count(), Upload.objects.count()) == (1, 1)  # the next purge tries again

    own_s3.start()
    Task.objects.update(status="running", ended_at=None)
    again = send(web, task, b"after")
    assert again.status_code == 200, again.text
    assert [requests.get(answer.json()["url"], timeout=30).content for answer in (kept, again)] == [b"before", b"after"]


def test_a_bucket_that_is_not_there(serve: Serve, s3: S3, bucket: str, task: Task) -> None:
    web = serve("web", **s3.agent_environment(bucket))
    assert_error(send(web, task, b"content"), 503, "unavailable")
    assert "Traceback" not in web.output()
    assert not Upload.objects.exists()


# --- A local disk


def test_a_disk_that_takes_nothing(serve: Serve, task: Task, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    web = serve("web", MEDIA_ROOT=str(tmp_path / "file" / "media"))
    assert_error(send(web, task, b"content"), 503, "unavailable")
    batch = requests.post(address(web, task) + "_batch", files={"file_0": ("a.txt", b"content")}, timeout=30)
    assert_error(batch, 503, "unavailable")
    assert "NotADirectoryError" in web.output()
    assert "Traceback" not in web.output()
    assert not Upload.objects.exists()


# --- Memory


def workers_of(web: Server) -> list[int]:
    """gunicorn's worker processes: the children of its master."""
    master = web.process.pid
    return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


@pytest.mark.parametrize("kind", ["disk", "moto", "s3rver"])
def test_a_large_file_does_not_fill_the_memory(
    serve: Serve, servers: Callable[[str], S3], bucket: str, task: Task, kind: str, tmp_path: Path
) -> None:
    environment: dict[str, Any] = {"MEDIA_ROOT": str(tmp_path)}
    if kind != "disk":
        servers(kind).make_bucket(bucket)
        environment = servers(kind).agent_environment(bucket)
    web = serve("web", **environment)
    (worker,) = workers_of(web)
    small = send(web, task, b"the libraries are loaded now")
    assert small.status_code == 200, small.text
    requests.get(small.json()["url"], timeout=30)
    content = os.urandom(BIG)
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # resets the peak
    before = peak_mb(worker)

    began = time.monotonic()
    response = send(web, task, content, "film.mp4")
    took = time.monotonic() - began
    assert response.status_code == 200, response.text
    uploaded = peak_mb(worker)
    served = hashlib.sha256()
    with requests.get(response.json()["url"], stream=True, timeout=60) as answer:
        for chunk in answer.iter_content(1024 * 1024):
            served.update(chunk)
    downloaded = peak_mb(worker)
    assert served.digest() == hashlib.sha256(content).digest()
    assert workers_of(web) == [worker]
    print(
        f"\n{kind}: {BIG >> 20} MB in {took:.2f} s; peak memory {before:.1f} MB before,"
        f" {uploaded:.1f} after the upload, {downloaded:.1f} after the download"
    )
    assert uploaded - before < GROWTH_MB
    assert downloaded - before < GROWTH_MB
