"""The upload service: models send the files they make, and get back where to read them (kservehelper's wire).

`POST …/upload` with part `file`, or `POST …/upload_batch` with parts `file_0` … `file_{n-1}`. The NUM_FILES header is
not read: servers drop headers with underscores, so the parts are counted.
"""

import re
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import UploadedFile
from django.http import FileResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions import uploads
from webhooks.multipart import NotKept, SizeLimit, UploadTooLarge, WholeMultiPartParser
from webhooks.permissions import IsRecordClient, MayUpload

_PART = re.compile(r"file_(0|[1-9]\d{0,3})")


class UploadView(APIView):
    """One file."""

    parser_classes = [WholeMultiPartParser]
    permission_classes = [IsRecordClient]

    def post(self, request: Request, token: str = "") -> Response:
        files = _files(request)
        if "file" not in files:
            raise ValidationError({"file": "send the file as the multipart part 'file'"})
        return Response({"url": _keep(request, [files["file"]])[0]})


class UploadBatchView(APIView):
    """Several files, answered in the order of their numbers."""

    parser_classes = [WholeMultiPartParser]
    permission_classes = [IsRecordClient]

    def post(self, request: Request, token: str = "") -> Response:
        parts = ((_PART.fullmatch(name), file) for name, file in _files(request).items())
        numbered = sorted(((int(match[1]), file) for match, file in parts if match), key=lambda pair: pair[0])
        if [number for number, _ in numbered] != list(range(len(numbered))) or not numbered:
            raise ValidationError({"file_0": "send the files as the multipart parts 'file_0', 'file_1' and so on"})
        return Response({"urls": _keep(request, [file for _, file in numbered])})


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


def _keep(request: Request, files: Sequence["UploadedFile[Any]"]) -> list[str]:
    """Stores all of them, or none; where to read them."""
    for file in files:
        if not file.size:
            raise ValidationError({"file": f"the file {file.name!r} is empty"})
    try:
        names = uploads.keep(files, task=getattr(request, "upload_task", None))
    except uploads.StorageUnavailable as error:
        raise NotKept from error
    urls = [default_storage.url(name) for name in names]
    return [url if "://" in url else request.build_absolute_uri(url) for url in urls]
