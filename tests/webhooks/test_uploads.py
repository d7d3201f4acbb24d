"""Uploads: permissions, storage, downloads and deletion."""

import errno
import re
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.db import IntegrityError
from django.utils.timezone import now
from rest_framework.test import APIClient

from predictions import uploads
from predictions.models import Task, Upload
from predictions.uploads import upload_address
from tests.helpers.factories import TaskFactory
from webhooks.disk import TidyFileStorage


def file(name: str = "/tmp/out/picture.PNG", content: bytes = b"png") -> BytesIO:
    """A part whose file name is a full local path, as kservehelper sends it."""
    part = BytesIO(content)
    part.name = name
    return part


@pytest.fixture
def task() -> Task:
    return TaskFactory(model_name="painter", status="running", platform="kserve")


def address(task: Task) -> str:
    return upload_address(task.pk).removeprefix(settings.UPLOAD_BASE_URL)


def test_a_model_uploads_a_file_with_its_tasks_token(client: APIClient, task: Task) -> None:
    response = client.post(address(task), {"file": file()}, format="multipart")
    assert response.status_code == 200
    (url,) = response.json().values()
    assert re.fullmatch(r"http://testserver/media/uploads/[0-9a-f]{2}/[0-9a-f]{32}\.png", url)
    served = client.get(url)
    assert b"".join(served.streaming_content) == b"png"  # type: ignore[attr-defined]
    served.close()
    assert Upload.objects.get().task == task


def test_the_order_of_a_batch_is_that_of_its_numbers_and_needs_no_header(client: APIClient, task: Task) -> None:
    parts = {f"file_{number}": file(f"{number}.txt", str(number).encode()) for number in reversed(range(12))}
    response = client.post(address(task) + "_batch", parts, format="multipart")
    contents = [b"".join(client.get(url).streaming_content) for url in response.json()["urls"]]  # type: ignore[attr-defined]
    assert contents == [str(number).encode() for number in range(12)]


def test_an_uploaded_page_cannot_run_in_the_agents_origin(client: APIClient, task: Task) -> None:
    page = file("evil.html", b"<script>alert(1)</script>")
    url = client.post(address(task), {"file": page}, format="multipart").json()["url"]
    served = client.get(url)
    assert served["Content-Disposition"].startswith("attachment")
    assert served["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in served["Content-Security-Policy"]
    served.close()


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b/..%2f", "x.p/hp", "nothing", ".htaccess", "x." + "y" * 99])
def test_a_files_name_is_never_the_callers(client: APIClient, task: Task, name: str) -> None:
    client.post(address(task), {"file": file(name)}, format="multipart")
    kept = Upload.objects.get().name
    assert re.fullmatch(r"uploads/[0-9a-f]{2}/[0-9a-f]{32}(\.[a-z0-9]{1,10})?", kept)
    assert (Path(settings.MEDIA_ROOT) / kept).is_file()


@pytest.mark.parametrize("token", ["x", "task~bad", "~", "%2e%2e"])
def test_another_token_opens_nothing(client: APIClient, task: Task, token: str) -> None:
    response = client.post(f"/u/{token}/upload", {"file": file()}, format="multipart")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert not Upload.objects.exists()


@pytest.mark.parametrize("status", ["pending", "succeeded", "failed", "canceled"])
def test_a_token_is_good_while_its_task_runs(client: APIClient, task: Task, status: str) -> None:
    Task.objects.update(status=status)
    assert client.post(address(task), {"file": file()}, format="multipart").status_code == 404


def test_a_new_secret_key_makes_the_tokens_of_running_tasks_worthless(
    client: APIClient, task: Task, configured: Callable[..., None]
) -> None:
    issued = address(task)
    configured(SECRET_KEY="another one")
    assert client.post(issued, {"file": file()}, format="multipart").status_code == 404
    assert client.post(address(task), {"file": file()}, format="multipart").status_code == 200


def test_an_address_that_release_0_1_signed_is_still_good(client: APIClient, configured: Callable[..., None]) -> None:
    configured(SECRET_KEY="x" * 60)
    TaskFactory(pk="019a0000-0000-7000-8000-000000000000", status="running")
    token = "019a0000-0000-7000-8000-000000000000~5rUHjvD6Y4OhoETcHyOAqvTccPPcn1gWSoOkjlGDf6o"
    assert client.post(f"/u/{token}/upload", {"file": file()}, format="multipart").status_code == 200


def test_without_a_token_the_record_services_key_is_needed(client: APIClient, record_client: APIClient) -> None:
    for route in ("/upload", "/upload_batch"):
        assert client.post(route, {"file": file()}, format="multipart").status_code == 401
    assert record_client.post("/upload", {"file": file()}, format="multipart").status_code == 200
    assert record_client.post("/upload_batch", {"file_0": file()}, format="multipart").status_code == 200


def test_empty_files_and_missing_parts_are_refused(client: APIClient, task: Task) -> None:
    for route, parts in [
        (address(task), {"file": file(content=b"")}),
        (address(task), {"other": file()}),
        (address(task), {"file": "text"}),
        (address(task) + "_batch", {"file_1": file()}),
        (address(task) + "_batch", {"file_0": file(), "file_1": file(content=b"")}),
        (address(task) + "_batch", {}),
    ]:
        response = client.post(route, parts, format="multipart")
        assert (response.status_code, response.json()["code"]) == (400, "invalid_request"), parts
    assert not Upload.objects.exists()


def test_a_file_that_is_too_large_is_refused(client: APIClient, task: Task, configured: Callable[..., None]) -> None:
    configured(MAX_UPLOAD_SIZE=100_000)
    response = client.post(address(task), {"file": file(content=b"x" * 100_001)}, format="multipart")
    assert (response.status_code, response.json()["code"]) == (413, "upload_too_large")
    assert not Upload.objects.exists()
    assert client.post(address(task), {"file": file(content=b"x" * 100_000)}, format="multipart").status_code == 200


def whole(*contents: bytes, end: bytes = b"--edge--\r\n") -> bytes:
    """A multipart body with the parts `file_0`, `file_1` and so on."""
    parts = (
        b'--edge\r\nContent-Disposition: form-data; name="file_%d"; filename="a.txt"\r\n\r\n%s\r\n' % (number, content)
        for number, content in enumerate(contents)
    )
    return b"".join(parts) + end


@pytest.mark.parametrize("size", [10, 3_000_000])
@pytest.mark.parametrize(
    "cut",
    [
        lambda body: body[: len(body) // 2],
        lambda body: body.removesuffix(b"--edge--\r\n"),
        lambda body: body.removesuffix(b"--edge--\r\n") + b"--edge\r\n",
        lambda body: body.removesuffix(b"--\r\n"),
    ],
)
def test_a_body_without_its_end_is_refused(
    client: APIClient, task: Task, cut: Callable[[bytes], bytes], size: int
) -> None:
    """In memory and on disk alike: half a file is not a file."""
    body = cut(whole(b"x" * size, b"y" * size))
    response = client.generic("POST", address(task) + "_batch", body, "multipart/form-data; boundary=edge")
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert "breaks off" in response.json()["error"]
    assert not Upload.objects.exists()


def test_bytes_after_the_end_of_a_body_are_harmless(client: APIClient, task: Task) -> None:
    body = whole(b"x") + b"an epilogue"
    response = client.generic("POST", address(task) + "_batch", body, "multipart/form-data; boundary=edge")
    assert response.status_code == 200


def test_a_thousand_files_come_in_one_batch_and_no_more(client: APIClient, task: Task) -> None:
    batch = address(task) + "_batch"
    many = client.generic("POST", batch, whole(*[b"3 kilobytes" * 300] * 1000), "multipart/form-data; boundary=edge")
    assert len(set(many.json()["urls"])) == 1000
    more = client.generic("POST", batch, whole(*[b"x"] * 1001), "multipart/form-data; boundary=edge")
    assert (more.status_code, more.json()["error"]) == (400, "send at most 1000 files at once")
    assert Upload.objects.count() == 1000


class StubbornStorage(TidyFileStorage):
    """A disk that is full after this many files, and cannot delete some of them."""

    takes = 10**9
    keeps: set[str] = set()

    def _save(self, name: str, content: Any) -> str:
        type(self).takes -= 1
        if self.takes < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super()._save(name, content)

    def delete(self, name: str) -> None:
        if name in self.keeps:
            raise OSError(errno.EIO, "Input/output error")
        super().delete(name)


@pytest.fixture
def storage(settings: Any) -> type[StubbornStorage]:
    StubbornStorage.takes, StubbornStorage.keeps = 10**9, set()
    settings.STORAGES = {**settings.STORAGES, "default": {"BACKEND": "tests.webhooks.test_uploads.StubbornStorage"}}
    return StubbornStorage


def stored_files() -> list[Path]:
    return [path for path in Path(settings.MEDIA_ROOT).rglob("*") if path.is_file()]


def test_a_batch_is_kept_whole_or_not_at_all(client: APIClient, task: Task, storage: type[StubbornStorage]) -> None:
    before = stored_files()
    storage.takes = 2
    parts = {f"file_{number}": file(f"{number}.txt") for number in range(5)}
    response = client.post(address(task) + "_batch", parts, format="multipart")
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert not Upload.objects.exists()
    assert stored_files() == before


def test_a_file_whose_row_cannot_be_written_is_not_left_behind(task: Task) -> None:
    before = stored_files()
    gone = Task(pk="gone", agent="default", model_name="painter")
    with pytest.raises(IntegrityError):
        uploads.keep([SimpleUploadedFile("a.txt", b"content")], task=gone)
    assert stored_files() == before


def test_one_file_that_cannot_be_deleted_holds_up_no_other(
    client: APIClient, task: Task, storage: type[StubbornStorage]
) -> None:
    others = [TaskFactory(model_name="m", status="running") for _ in range(5)]
    for each in [task, *others]:
        client.post(address(each), {"file": file()}, format="multipart")
    storage.keeps = {Upload.objects.get(task=task).name}
    Task.objects.update(status="succeeded", ended_at=now() - timedelta(days=3))
    with pytest.raises(CommandError, match="1 files could not be deleted"):
        call_command("purge_tasks")
    assert Task.objects.get() == task
    assert Upload.objects.get().task == task
    storage.keeps = set()
    call_command("purge_tasks")
    assert not Task.objects.exists()


def test_a_storage_that_deletes_nothing_ends_the_purge(
    client: APIClient, task: Task, storage: type[StubbornStorage]
) -> None:
    for _ in range(5):
        client.post(address(task), {"file": file()}, format="multipart")
    storage.keeps = set(Upload.objects.values_list("name", flat=True))
    Task.objects.update(status="succeeded", ended_at=now() - timedelta(days=3))
    with pytest.raises(CommandError, match="Input/output error"):
        call_command("purge_tasks")
    assert Upload.objects.count() == 5


def test_files_go_with_their_task(client: APIClient, record_client: APIClient, task: Task) -> None:
    client.post(address(task), {"file": file()}, format="multipart")
    record_client.post("/upload", {"file": file()}, format="multipart")
    names = list(Upload.objects.values_list("name", flat=True))
    call_command("purge_tasks")
    assert Upload.objects.count() == 2
    Task.objects.update(status="succeeded", ended_at=now() - timedelta(days=3))
    Upload.objects.update(created_at=now() - timedelta(days=3))
    call_command("purge_tasks")
    assert not Upload.objects.exists()
    assert not [name for name in names if (Path(settings.MEDIA_ROOT) / name).exists()]


@pytest.mark.parametrize("path", ["/media/", "/media/../manage.py", "/media/uploads/00/x", "/media/uploads/%2e%2e/a"])
def test_nothing_else_is_served(client: APIClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_only_kserve_and_plain_services_get_an_upload_address(client: APIClient, configured: Any) -> None:
    from tests.helpers import predictors

    client.post("/v1/predict", {"model_name": "m", "inputs": {"upload_webhook": "http://evil"}}, format="json")
    assert "upload_webhook" not in predictors.calls[0]
