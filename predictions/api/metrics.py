"""`GET /metrics`, for Prometheus."""

from django.conf import settings
from django.http import HttpResponse
from rest_framework.exceptions import NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from predictions.api.authentication import is_one_of, key_of
from predictions.operations import metrics


class MayScrape(BasePermission):
    """Anybody, unless METRICS_KEY is set."""

    message = "send METRICS_KEY: 'Authorization: Bearer …' or 'apikey: …'"

    def has_permission(self, request: Request, view: APIView) -> bool:
        if settings.METRICS_KEY and not is_one_of(key_of(request), [settings.METRICS_KEY]):
            raise NotAuthenticated(self.message)
        return True


class MetricsView(APIView):
    authentication_classes = []
    permission_classes = [MayScrape]

    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(metrics.exposition(), content_type=metrics.CONTENT_TYPE)
