"""`GET /openapi.json` and `GET /docs`: the OpenAPI document, and Swagger UI to read and try it with.

Both are open: they say what this project's API is, the same for every deployment and nothing of this one. Calls made
from the page need their keys like any other. API_DOCS=false takes both away.
"""

from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions.api.openapi import document

# What Swagger UI needs: its own files, its own requests, and the icons within its style sheet.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class ReferenceView(APIView):
    """Base of both."""

    authentication_classes = []
    permission_classes = []

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if not settings.API_DOCS:
            raise NotFound


class OpenAPIView(ReferenceView):
    """`GET /openapi.json`."""

    def get(self, request: Request) -> Response:
        return Response(document())


class DocsPageView(ReferenceView):
    """`GET /docs`."""

    def get(self, request: Request) -> HttpResponse:
        response = render(request._request, "docs.html")
        response["Content-Security-Policy"] = PAGE_POLICY
        return response
