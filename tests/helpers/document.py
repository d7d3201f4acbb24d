"""The OpenAPI document for tests: its operations, and requests made from their examples."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.core.files.uploadedfile import SimpleUploadedFile
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
from rest_framework.test import APIClient

from predictions.api.openapi import document

KEYS = {"API_KEYS": ["caller-key"], "METRICS_KEY": "metrics-key", "ALLOW_ANONYMOUS": False}
"""Settings under which every scheme of the document is needed."""
CREDENTIALS = {
    "bearer": {"Authorization": "Bearer operator-key"},
    "apikey": {"apikey": "operator-key"},
    "recordKey": {"apikey": "record-key"},
    "metricsKey": {"Authorization": "Bearer metrics-key"},
}


@dataclass(frozen=True)
class Operation:
    """One operation of the document."""

    path: str
    method: str
    told: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.told["operationId"])

    @property
    def schemes(self) -> list[str]:
        """Names of the security schemes, each of which is enough."""
        return [name for requirement in self.told.get("security", []) for name in requirement]

    @property
    def body(self) -> dict[str, Any]:
        """Media type and value of the request's example; empty where it has no body."""
        for media_type, media in self.told.get("requestBody", {}).get("content", {}).items():
            value = next(iter(media["examples"].values()))["value"]
            return {"media_type": media_type, "value": value}
        return {}

    def parameters(self, location: str) -> dict[str, str]:
        """Example values of the path's or the query's parameters."""
        return {
            parameter["name"]: next(iter(parameter["examples"].values()))["value"]
            for parameter in self.told["parameters"]
            if parameter["in"] == location
        }

    def answers(self, *, successes: bool) -> dict[tuple[int, str], dict[str, Any]]:
        """(Status, media type) → its media object; successes or errors."""
        return {
            (int(status), media_type): media
            for status, response in self.told["responses"].items()
            for media_type, media in response.get("content", {}).items()
            if (status < "400") == successes
        }

    def send(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        path: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        **body: Any,
    ) -> Any:
        """The answer to the example, with other path values, another query or another body where given."""
        sent = self.body | body
        url = self.path.format(**(self.parameters("path") | dict(path or {})))
        content, content_type = _encoded(sent.get("media_type", ""), sent.get("value"))
        return APIClient().generic(
            self.method,
            url,
            data=content,
            content_type=content_type,
            headers=self.credentials if headers is None else headers,
            query_params=self.parameters("query") if query is None else query,
        )

    @property
    def credentials(self) -> dict[str, str]:
        """Headers of the first scheme that is enough."""
        return CREDENTIALS[self.schemes[0]] if self.schemes else {}


def _encoded(media_type: str, value: Any) -> tuple[bytes, str]:
    """The body as it is sent, and its Content-Type; a multipart value is the contents of files."""
    if media_type == "application/json":
        return json.dumps(value).encode(), media_type
    if media_type == "multipart/form-data":
        files = {name: SimpleUploadedFile(name, content.encode()) for name, content in value.items()}
        return encode_multipart(BOUNDARY, files), MULTIPART_CONTENT
    return (value or "").encode(), media_type


OPERATIONS = [
    Operation(path, method, told)
    for path, operations in document()["paths"].items()
    for method, told in operations.items()
]


def operation(name: str) -> Operation:
    return next(found for found in OPERATIONS if found.id == name)
