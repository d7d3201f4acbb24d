"""`GET /`: a page for people, or the name and version as JSON."""

from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ABOUT = {"name": "serving-agent", "version": settings.VERSION}


class HomeSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    version = serializers.CharField()


class HomeView(APIView):
    """Show a page with the version and links.

    A client that prefers `application/json` in its `Accept` header gets the name and version as JSON.
    """

    authentication_classes = []
    permission_classes = []

    @extend_schema(
        "home",
        responses={(200, "application/json"): HomeSerializer, (200, "text/html"): str},
        examples=[OpenApiExample("Home", ABOUT, media_type="application/json")],
    )
    def get(self, request: Request) -> Response | HttpResponse:
        if request._request.get_preferred_type(["text/html", "application/json"]) == "application/json":
            return Response(ABOUT, headers={"Vary": "Accept"})
        page = render(request._request, "home.html", {**ABOUT, "has_docs": settings.API_DOCS})
        page["Content-Security-Policy"] = PAGE_POLICY
        page["Vary"] = "Accept"
        return page
