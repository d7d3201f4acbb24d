"""`GET /`: a page for people, or the name and version as JSON."""

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class HomeView(APIView):
    """Answers JSON to a client that prefers it in its `Accept` header, and the page to every other client."""

    authentication_classes = []
    permission_classes = []

    def get(self, request: Request) -> Response | HttpResponse:
        about = {"name": "serving-agent", "version": settings.VERSION}
        if request._request.get_preferred_type(["text/html", "application/json"]) == "application/json":
            return Response(about, headers={"Vary": "Accept"})
        page = render(request._request, "home.html", {**about, "has_docs": settings.API_DOCS})
        page["Content-Security-Policy"] = PAGE_POLICY
        page["Vary"] = "Accept"
        return page
