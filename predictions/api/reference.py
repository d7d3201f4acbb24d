"""`GET /openapi.json` and `GET /docs`: the OpenAPI document, and Swagger UI to read and try it.

Both are open: they describe the project's API and tell nothing about this deployment. Requests from the page need keys
like all others. API_DOCS=false turns both routes off.
"""

from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions.api.openapi import document, errors

# Swagger UI needs its own files, its own requests, and the icons in its style sheet.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class ReferenceView(APIView):
    """Base of both routes."""

    authentication_classes = []
    permission_classes = []

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if not settings.API_DOCS:
            raise NotFound


class OpenAPIView(ReferenceView):
    """Read this document."""

    @extend_schema("getOpenAPI", responses={200: dict[str, Any], **errors(NotFound)})
    def get(self, request: Request) -> Response:
        return Response(document())


class DocsPageView(ReferenceView):
    """Read this document as a page (Swagger UI)."""

    @extend_schema("getDocsPage", responses={(200, "text/html"): str, **errors(NotFound)})
    def get(self, request: Request) -> HttpResponse:
        response = render(request._request, "docs.html")
        response["Content-Security-Policy"] = PAGE_POLICY
        return response
