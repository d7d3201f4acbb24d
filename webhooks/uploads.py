"""The upload service: models send files and get their addresses (kservehelper's wire).

`POST …/upload` has the part `file`, `POST …/upload_batch` the parts `file_0` … `file_{n-1}`. The agent counts the parts
and does not read the NUM_FILES header, because servers drop headers with underscores.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from django.conf import settings
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import UploadedFile
from django.http import FileResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    extend_schema,
    extend_schema_field,
    extend_schema_view,
    inline_serializer,
)
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions import uploads
from predictions.api.openapi import NOT_JSON, errors
from predictions.api.serializers import TASK_ID
from webhooks.multipart import NotKept, SizeLimit, UploadTooLarge, WholeMultiPartParser
from webhooks.permissions import IsRecordClient, MayUpload

_PART = re.compile(r"file_(0|[1-9]\d{0,3})")


URL = "http://agent.example.com/media/uploads/0b/0b54bd9e2a1a4d64a1a2f9d1d6a6f3c8"
UPLOAD_ERRORS = (UploadTooLarge, NOT_JSON, NotKept)
NO_FILE = {"file": "send the file as the multipart part 'file'"}
NO_FILES = {"file_0": "send the files as the multipart parts 'file_0', 'file_1' and so on"}
multipart = partial(OpenApiExample, request_only=True, media_type="multipart/form-data")
TOKEN = OpenApiParameter(
    "token",
    location=OpenApiParameter.PATH,
    description="Part of the `upload_webhook` that the agent sends to the task's model. Valid while the task runs.",
    examples=[OpenApiExample("A token", f"{TASK_ID}~c0VXb4bEiaPiVNMFR0bzuvC_SmSzLBFdNhV8IsUAe2M")],
)


@extend_schema_field({"type": "string", "format": "binary", "minLength": 1})
class FilePart(serializers.FileField):
    """A file with content."""


class UploadView(APIView):
    """Upload a file."""

    parser_classes = [WholeMultiPartParser]
    permission_classes = [IsRecordClient]

    @extend_schema(
        "upload",
        request=inline_serializer("Upload", {"file": FilePart()}),
        responses={
            200: inline_serializer("FileAddress", {"url": serializers.CharField()}),
            **errors(ValidationError(NO_FILE), *UPLOAD_ERRORS),
        },
        examples=[multipart("A file", {"file": "hello"}), OpenApiExample("Its address", {"url": URL})],
    )
    def post(self, request: Request, token: str = "") -> Response:
        files = _files(request)
        if "file" not in files:
            raise ValidationError(NO_FILE)
        return Response({"url": _keep(request, [files["file"]])[0]})


class UploadBatchView(APIView):
    """Upload several files.

    The parts are `file_0`, `file_1` and so on, without a gap. The addresses are in the same order.
    """

    parser_classes = [WholeMultiPartParser]
    permission_classes = [IsRecordClient]

    @extend_schema(
        "uploadBatch",
        request=inline_serializer("UploadBatch", {"file_0": FilePart(), "file_1": FilePart(required=False)}),
        responses={
            200: inline_serializer("FileAddresses", {"urls": serializers.ListField(child=serializers.CharField())}),
            **errors(ValidationError(NO_FILES), *UPLOAD_ERRORS),
        },
        examples=[
            multipart("Two files", {"file_0": "hello", "file_1": "world"}),
            OpenApiExample("Their addresses", {"urls": [URL, URL]}),
        ],
    )
    def post(self, request: Request, token: str = "") -> Response:
        parts = ((_PART.fullmatch(name), file) for name, file in _files(request).items())
        numbered = sorted(((int(match[1]), file) for match, file in parts if match), key=lambda pair: pair[0])
        if [number for number, _ in numbered] != list(range(len(numbered))) or not numbered:
            raise ValidationError(NO_FILES)
        return Response({"urls": _keep(request, [file for _, file in numbered])})


@extend_schema_view(post=extend_schema("uploadOfTask", parameters=[TOKEN]))
class TokenUploadView(UploadView):
    """Upload a file of a task.

    For the task's model, which has no key. The agent deletes the file with the task.
    """

    authentication_classes = []
    permission_classes = [MayUpload]


@extend_schema_view(post=extend_schema("uploadBatchOfTask", parameters=[TOKEN]))
class TokenUploadBatchView(UploadBatchView):
    """Upload several files of a task.

    The parts are `file_0`, `file_1` and so on, without a gap. The addresses are in the same order.
    """

    authentication_classes = []
    permission_classes = [MayUpload]


class MediaView(APIView):
    """Read an uploaded file.

    The answer is an attachment that cannot run in the agent's origin, or a redirect to a temporary address in S3. The
    file's random name is its protection: everybody with the name can read it.
    """

    authentication_classes = []
    permission_classes = []

    @extend_schema(
        "getFile",
        parameters=[OpenApiParameter("name", location="path", examples=[OpenApiExample("A name", URL[-41:])])],
        responses={(200, "*/*"): OpenApiTypes.BINARY, 302: None, **errors(NotFound)},
    )
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
    """Receives the request's files."""
    if int(request.META.get("CONTENT_LENGTH") or 0) > settings.MAX_UPLOAD_SIZE * 10:
        raise UploadTooLarge
    request._request.upload_handlers.insert(0, SizeLimit(request._request))
    return {name: file for name, file in request.FILES.items() if isinstance(file, UploadedFile)}


def _keep(request: Request, files: Sequence["UploadedFile[Any]"]) -> list[str]:
    """Stores all files or none. Returns their addresses."""
    for file in files:
        if not file.size:
            raise ValidationError({"file": f"the file {file.name!r} is empty"})
    try:
        names = uploads.keep(files, task=getattr(request, "upload_task", None))
    except uploads.StorageUnavailable as error:
        raise NotKept from error
    urls = [default_storage.url(name) for name in names]
    return [url if "://" in url else request.build_absolute_uri(url) for url in urls]
