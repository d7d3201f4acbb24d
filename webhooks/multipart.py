"""Multipart bodies, complete or refused."""

from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from django.conf import settings
from django.core.exceptions import TooManyFilesSent
from django.core.files.uploadhandler import FileUploadHandler
from django.http.request import UnreadablePostError
from django.utils.http import parse_header_parameters
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import DataAndFiles, MultiPartParser

TAIL_BYTES = 1024


class UploadTooLarge(APIException):
    status_code = 413
    default_code = "upload_too_large"
    default_detail = "the file is larger than MAX_UPLOAD_SIZE allows"


class NotKept(APIException):
    status_code = 503
    default_code = "unavailable"
    default_detail = "the file could not be stored: try again later"


class SizeLimit(FileUploadHandler):
    """Stands before Django's own handlers and stops the request at the first byte too many."""

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


class WholeMultiPartParser(MultiPartParser):
    """Refuses a body that breaks off. Django's parser accepts it, with half a file."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> "DataAndFiles[Any, Any]":
        """Raises ParseError, UploadTooLarge and NotKept."""
        request = (parser_context or {})["request"]
        body = _Watched(stream)
        parsed: DataAndFiles[Any, Any] | None = None
        try:
            parsed = super().parse(body, media_type, parser_context)  # type: ignore[arg-type]
        except TooManyFilesSent as error:
            raise ParseError(f"send at most {settings.DATA_UPLOAD_MAX_NUMBER_FILES} files at once") from error
        except UnreadablePostError as error:
            raise ParseError("the body could not be read to its end") from error
        except OSError as error:  # Django writes large files to disk
            raise NotKept from error
        finally:
            if parsed is None:  # delete the unfinished file now, not at the next garbage collection
                for handler in request.upload_handlers:
                    with suppress(OSError):  # closing a file writes its buffer, perhaps to a full disk
                        handler.upload_interrupted()
        boundary = parse_header_parameters(media_type or "")[1].get("boundary", "")
        if body.length != int(request.META.get("CONTENT_LENGTH") or 0) or f"--{boundary}--".encode() not in body.tail:
            for _, files in parsed.files.lists():
                for file in files:
                    file.close()
            raise ParseError("the multipart body breaks off before its end")
        return parsed


class _Watched:
    """Notes the length and the last bytes of a stream."""

    def __init__(self, stream: IO[Any]) -> None:
        self._stream = stream
        self.length = 0
        self.tail = b""

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        self.length += len(data)
        self.tail = (self.tail + data)[-TAIL_BYTES:]
        return data
