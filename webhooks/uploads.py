"""The upload service: models send files and get their addresses (kservehelper's wire).

`POST …/upload` has the part `file`, `POST …/upload_batch` the parts `file_0` … `file_{n-1}`. The agent counts the parts
and does not read the NUM_FILES header, because servers drop headers with underscores.
"""

import re
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import UploadedFile
from django.http import FileResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_field,
    extend_schema_serializer,
    extend_schema_view,
)
from rest_framework import serializers
from rest_framework.exceptions import NotFound, UnsupportedMediaType, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions import uploads
from predictions.api.openapi import errors
from predictions.api.serializers import TASK_ID
from webhooks.multipart import NotKept, SizeLimit, UploadTooLarge, WholeMultiPartParser
from webhooks.permissions import IsRecordClient, MayUpload

_PART = re.compile(r"file_(0|[1-9]\d{0,3})")


URL = "http://agent.example.com/media/uploads/0b/0b54bd9e2a1a4d64a1a2f9d1d6a6f3c8"
UPLOAD_ERRORS = (UploadTooLarge, UnsupportedMediaType("text/plain"), NotKept)
NO_FILE = ValidationError({"file": "send the file as the multipart part 'file'"})
NO_FILES = ValidationError({"file_0": "send the files as the multipart parts 'file_0', 'file_1' and so on"})
TOKEN = OpenApiParameter(
    "token",
    location=OpenApiParameter.PATH,
    description="Part of the `upload_webhook` that the agent sends to the task's model. Valid while the task runs.",
    examples=[OpenApiExample("A token", f"{TASK_ID}~c0VXb4bEiaPiVNMFR0bzuvC_SmSzLBFdNhV8IsUAe2M")],
)


@extend_schema_field({"type": "string", "format": "binary", "minLength": 1})
class FilePart(serializers.FileField):
    """A file with content."""


@extend_schema_serializer(examples=[OpenApiExample("A file", {"file": "hello"}, media_type="multipart/form-data")])
class UploadSerializer(serializers.Serializer[Any]):
    """One file."""

    file = FilePart()


@extend_schema_serializer(
    examples=[OpenApiExample("Two files", {"file_0": "hello", "file_1": "world"}, media_type="multipart/form-data")]
)
class UploadBatchSerializer(serializers.Serializer[Any]):
    """Several files, numbered from 0 without a gap."""

    file_0 = FilePart()
    file_1 = FilePart(required=False)


@extend_schema_serializer(examples=[OpenApiExample("An address", {"url": URL})])
class FileAddressSerializer(serializers.Serializer[Any]):
    """The file's address."""

    url = serializers.CharField()


@extend_schema_serializer(examples=[OpenApiExample("Two addresses", {"urls": [URL, URL]})])
class FileAddressesSerializer(serializers.Serializer[Any]):
    """The files' addresses, in the order of their numbers."""

    urls = serializers.ListField(child=serializers.CharField())


class UploadView(APIView):
    """Keeps a file."""

    parser_classes = [WholeMultiPartParser]
    permission_classes = [IsRecordClient]

    @extend_schema(
        "upload",
        tags=["Uploads"],
        summary="Upload a file",
        request=UploadSerializer,
        responses={200: OpenApiResponse(FileAddressSerializer, "The address."), **errors(NO_FILE, *UPLOAD_ERRORS)},
    )
    def post(self, request: Request, token: str = "") -> Response:
        files = _files(request)
        if "file" not in files:
            raise ValidationError({"file": "send the file as the multipart part 'file'"})
        return Response({"url": _keep(request, [files["file"]])[0]})


class UploadBatchView(APIView):
    """Keeps several files. The parts are `file_0`, `file_1` and so on, without a gap."""

    parser_classes = [WholeMultiPartParser]
    permission_classes = [IsRecordClient]

    @extend_schema(
        "uploadBatch",
        tags=["Uploads"],
        summary="Upload several files",
        request=UploadBatchSerializer,
        responses={200: OpenApiResponse(FileAddressesSerializer, "The addresses."), **errors(NO_FILES, *UPLOAD_ERRORS)},
    )
    def post(self, request: Request, token: str = "") -> Response:
        parts = ((_PART.fullmatch(name), file) for name, file in _files(request).items())
        numbered = sorted(((int(match[1]), file) for match, file in parts if match), key=lambda pair: pair[0])
        if [number for number, _ in numbered] != list(range(len(numbered))) or not numbered:
            raise ValidationError({"file_0": "send the files as the multipart parts 'file_0', 'file_1' and so on"})
        return Response({"urls": _keep(request, [file for _, file in numbered])})


@extend_schema_view(
    post=extend_schema(
        "uploadOfTask",
        summary="Upload a file of a task",
        parameters=[TOKEN],
        responses={
            200: OpenApiResponse(FileAddressSerializer, "The address."),
            **errors(NO_FILE, NotFound, *UPLOAD_ERRORS),
        },
    )
)
class TokenUploadView(UploadView):
    """Keeps a file of a task, for the task's model, which has no key. The agent deletes the file with the task."""

    authentication_classes = []
    permission_classes = [MayUpload]


@extend_schema_view(
    post=extend_schema(
        "uploadBatchOfTask",
        summary="Upload several files of a task",
        parameters=[TOKEN],
        responses={
            200: OpenApiResponse(FileAddressesSerializer, "The addresses."),
            **errors(NO_FILES, NotFound, *UPLOAD_ERRORS),
        },
    )
)
class TokenUploadBatchView(UploadBatchView):
    """Keeps several files of a task. The parts are `file_0`, `file_1` and so on, without a gap."""

    authentication_classes = []
    permission_classes = [MayUpload]


class MediaView(APIView):
    """An uploaded file, as an attachment that cannot run in the agent's origin.

    Its random name is its protection: everybody with the name can read it.
    """

    authentication_classes = []
    permission_classes = []

    @extend_schema(
        "getFile",
        tags=["Uploads"],
        summary="Read an uploaded file",
        parameters=[OpenApiParameter("name", location="path", examples=[OpenApiExample("A name", URL[-41:])])],
        responses={
            (200, "*/*"): OpenApiResponse({"type": "string", "format": "binary"}, "The file."),
            302: OpenApiResponse(None, "The file is in S3. `Location` is a temporary address of it."),
            **errors(NotFound),
        },
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
