"""Files that models send here: where they may send them, and how they are kept and deleted with their task.

Model servers carry no credential, so the address handed to a model holds a token for its one task.
"""

import logging
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

from django.conf import settings
from django.core.files.base import ContentFile, File
from django.core.files.storage import default_storage
from django.core.signing import BadSignature, Signer

from predictions.lifecycle import database_errors, release_connection
from predictions.models import Task, Upload

logger = logging.getLogger(__name__)

_EXTENSION = re.compile(r"\.([A-Za-z0-9]{1,10})$")


class InvalidToken(Exception):
    """The token is not one of ours, or its task is not running."""


class StorageUnavailable(Exception):
    """The storage did not take the file, or did not delete it; the message says why and is for the log alone."""


def upload_address(task_id: str) -> str:
    """Where the model may upload while the task runs: `…/u/<token>/upload` (the path is kservehelper's demand)."""
    return f"{settings.UPLOAD_BASE_URL}/u/{_signer().sign(task_id)}/upload"


def task_of(token: str) -> Task:
    """The running task whose model holds the token. Raises InvalidToken."""
    try:
        task_id = _signer().unsign(token)
    except BadSignature as error:
        raise InvalidToken from error
    with database_errors():
        task = Task.objects.defer("inputs", "outputs").filter(pk=task_id, status=Task.Status.RUNNING).first()
    release_connection()  # the file is still to come
    if task is None:
        raise InvalidToken
    return task


def keep(file: "File[bytes]", *, original_name: str, size: int, task: Task | None) -> str:
    """Stores a file under a new name with the original's extension; answers that name. Raises StorageUnavailable."""
    extension = _EXTENSION.search(original_name)
    name = f"{uuid.uuid4().hex}.{extension[1].lower()}" if extension else uuid.uuid4().hex
    with _storage_errors():
        stored = default_storage.save(f"uploads/{name[:2]}/{name}", file)
    with database_errors():
        Upload.objects.create(task=task, name=stored, size=size)
    release_connection()
    logger.info("file of %d bytes kept", size, extra={"task_id": task.pk} if task else {})
    return stored


def try_storage() -> None:
    """Stores a small file and deletes it again. Raises StorageUnavailable."""
    with _storage_errors():
        default_storage.delete(default_storage.save(f"uploads/check-{uuid.uuid4().hex}", ContentFile(b"check")))


def delete_files_of(task_ids: Iterable[str]) -> None:
    """Deletes what was uploaded for these tasks; a file that is gone already is no error. Raises StorageUnavailable."""
    _delete(Upload.objects.filter(task__in=list(task_ids)))


def delete_files_before(moment: datetime) -> None:
    """Deletes files without a task that are older. Raises StorageUnavailable."""
    _delete(Upload.objects.filter(task=None, created_at__lt=moment))


def _delete(uploads: Iterable[Upload]) -> None:
    for upload in uploads:
        with _storage_errors():
            default_storage.delete(upload.name)
        upload.delete()


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a full disk, an S3 that is down, no such bucket: each library has its own family
        raise StorageUnavailable(f"{type(error).__name__}: {error}") from error


def _signer() -> Signer:
    return Signer(salt="upload", sep="~")
