"""The upload service: models send the files they make, and get back where to read them (kservehelper's wire).

`POST …/upload` with part `file`, or `POST …/upload_batch` with parts `file_0` … `file_{n-1}`. The NUM_FILES header is
not read: servers drop headers with underscores, so the parts are counted.
"""

import re
from typing import Any

from django.conf import settings
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http import FileResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from rest_framework.exceptions import APIException, NotFound, ValidationError
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions import uploads
from predictions.models import Task
from webhooks.permissions import IsRecordClient, MayUpload

_PART = re.compile(r"file_(0|[1-9]\d{0,3})")


class UploadTooLarge(APIException):
    status_code = 413
    default_code = "upload_too_large"
    default_detail = "the file is larger than MAX_UPLOAD_SIZE allows"


class NotKept(APIException):
    status_code = 503
    default_code = "unavailable"
    default_detail = "the file could not be stored: try again later"


class SizeLimit(FileUploadHandler):
    """Stands before Django's own handlers and ends the request at the byte that is too many."""

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        self._received = 0

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes:
        self._received += len(raw_data)
        if self._received > settings.MAX_UPLOAD_SIZE:
            raise UploadTooLarge
        return raw_data

    def file_complete(self, file_size: int) -> None:
        return None


class UploadView(APIView):
    """One file."""

    parser_classes = [MultiPartParser]
    permission_classes = [IsRecordClient]

    def post(self, request: Request, token: str = "") -> Response:
        files = _files(request)
        if "file" not in files:
            raise ValidationError({"file": "send the file as the multipart part 'file'"})
        return Response({"url": _keep(request, files["file"], _task(request))})


class UploadBatchView(APIView):
    """Several files, answered in the order of their numbers."""

    parser_classes = [MultiPartParser]
    permission_classes = [IsRecordClient]

    def post(self, request: Request, token: str = "") -> Response:
        parts = ((_PART.fullmatch(name), file) for name, file in _files(request).items())
        numbered = sorted(((int(match[1]), file) for match, file in parts if match), key=lambda pair: pair[0])
        if [number for number, _ in numbered] != list(range(len(numbered))) or not numbered:
            raise ValidationError({"file_0": "send the files as the multipart parts 'file_0', 'file_1' and so on"})
        task = _task(request)
        for _, file in numbered:
            _refuse_empty(file)
        return Response({"urls": [_keep(request, file, task) for _, file in numbered]})


class TokenUploadView(UploadView):
    """One file, from the model that was given this address."""

    authentication_classes = []
    permission_classes = [MayUpload]


class TokenUploadBatchView(UploadBatchView):
    authentication_classes = []
    permission_classes = [MayUpload]


class MediaView(APIView):
    """`GET /media/…`: an uploaded file, sent so that a browser shows pictures and runs nothing.

    Its name is a random one, and who knows it may read it. Where the storage serves its files itself, it is told where.
    """

    authentication_classes = []
    permission_classes = []

    def get(self, request: Request, name: str) -> HttpResponseBase:
        if not re.fullmatch(r"uploads/[0-9a-f]{2}/[0-9a-f]{32}\w*(\.\w{1,10})?", name):
            raise NotFound
        url = default_storage.url(name)
        if "://" in url:
            return HttpResponseRedirect(url)
        try:
            response = FileResponse(default_storage.open(name), as_attachment=True, filename=name.rsplit("/", 1)[-1])
        except FileNotFoundError as error:
            raise NotFound from error
        response["X-Content-Type-Options"] = "nosniff"
        response["Content-Security-Policy"] = "sandbox; default-src 'none'"
        return response


def _files(request: Request) -> dict[str, "UploadedFile[Any]"]:
    """The request's files; reading them here is what receives them."""
    if int(request.META.get("CONTENT_LENGTH") or 0) > settings.MAX_UPLOAD_SIZE * 10:
        raise UploadTooLarge
    request._request.upload_handlers.insert(0, SizeLimit(request._request))
    return {name: file for name, file in request.FILES.items() if isinstance(file, UploadedFile)}


def _task(request: Request) -> Task | None:
    return getattr(request, "upload_task", None)


def _refuse_empty(file: "UploadedFile[Any]") -> None:
    if not file.size:
        raise ValidationError({"file": f"the file {file.name!r} is empty"})


def _keep(request: Request, file: "UploadedFile[Any]", task: Task | None) -> str:
    _refuse_empty(file)
    try:
        name = uploads.keep(file, original_name=file.name or "", size=file.size or 0, task=task)
    except uploads.StorageUnavailable as error:
        raise NotKept from error
    url = default_storage.url(name)
    return url if "://" in url else request.build_absolute_uri(url)
