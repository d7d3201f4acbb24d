"""Files that models send here: where they may send them, and how they are kept and deleted with their task.

Model servers carry no credential, so the address handed to a model holds a token for its one task.
"""

import logging
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import UploadedFile
from django.core.signing import BadSignature, Signer
from django.db import IntegrityError

from predictions.database.errors import database_errors, release_connection
from predictions.models import Task, Upload, status_is
from predictions.recorder import RecordUnavailable

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,10}$")


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
        task = Task.objects.defer("inputs", "outputs").filter(status_is(Task.Status.RUNNING), pk=task_id).first()
    release_connection()  # the file is still to come
    if task is None:
        raise InvalidToken
    return task


def keep(files: Iterable["UploadedFile[Any]"], *, task: Task | None) -> list[str]:
    """Stores files under new names with the originals' extensions, all of them or none; answers those names.

    Raises StorageUnavailable and RecordUnavailable.
    """
    kept: list[str] = []
    try:
        for file in files:
            with _storage_errors():
                extension = _EXTENSION.search(file.name or "")
                name = uuid.uuid4().hex + (extension[0].lower() if extension else "")
                kept.append(default_storage.save(f"uploads/{name[:2]}/{name}", file))
            with database_errors():
                Upload.objects.create(task=task, name=kept[-1], size=file.size or 0)
            release_connection()
    except (StorageUnavailable, RecordUnavailable, IntegrityError):
        _discard(kept)
        raise
    logger.info("%d files kept", len(kept), extra={"task_id": task.pk} if task else {})
    return kept


def _discard(names: list[str]) -> None:
    """Deletes the files of an upload that is refused. The purge deletes those that cannot be deleted now."""
    try:
        for name in names:
            with _storage_errors():
                default_storage.delete(name)
        with database_errors():
            Upload.objects.filter(name__in=names).delete()
    except (StorageUnavailable, RecordUnavailable):
        logger.error("files of a refused upload are left: %s", ", ".join(names))


def try_storage() -> None:
    """Stores a small file and deletes it again. Raises StorageUnavailable."""
    with _storage_errors():
        default_storage.delete(default_storage.save(f"uploads/check-{uuid.uuid4().hex}", ContentFile(b"check")))


def delete_files_of(task_ids: Iterable[str]) -> set[str]:
    """Deletes the files uploaded for these tasks. Returns the tasks of which a file could not be deleted.

    A file that is gone already is no error. Raises StorageUnavailable when the storage deletes nothing at all.
    """
    return {upload.task_id for upload in _delete(Upload.objects.filter(task__in=list(task_ids))) if upload.task_id}


def delete_files_before(moment: datetime) -> int:
    """Deletes files without a task that are older; how many could not be deleted. Raises StorageUnavailable."""
    return len(_delete(Upload.objects.filter(task=None, created_at__lt=moment)))


def _delete(uploads: Iterable[Upload]) -> list[Upload]:
    """Deletes files and returns those that the storage kept. Stops after a few failures in a row."""
    left: list[Upload] = []
    in_a_row = 0
    for upload in uploads:
        try:
            with _storage_errors():
                default_storage.delete(upload.name)
        except StorageUnavailable as error:
            logger.error("the file %s could not be deleted: %s", upload.name, error)
            left.append(upload)
            in_a_row += 1
            if in_a_row >= FAILURES_IN_A_ROW:
                raise
        else:
            in_a_row = 0
            upload.delete()
    return left


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a full disk, an S3 that is down, no such bucket: each library has its own family
        raise StorageUnavailable(f"{type(error).__name__}: {error}") from error


def _signer() -> Signer:
    return Signer(salt="upload", sep="~")
