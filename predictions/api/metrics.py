"""`GET /metrics`, for Prometheus."""

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from predictions.api.authentication import Permission, is_one_of, key_of
from predictions.operations import metrics


class MayScrape(Permission):
    """METRICS_KEY, if it is set."""

    schemes = ("metricsKey",)
    without_key = "send METRICS_KEY: 'Authorization: Bearer …' or 'apikey: …'"

    def has_permission(self, request: Request, view: APIView) -> bool:
        if settings.METRICS_KEY and not is_one_of(key_of(request), [settings.METRICS_KEY]):
            raise NotAuthenticated(self.without_key)
        return True


class MetricsView(APIView):
    """Metrics for Prometheus."""

    authentication_classes = []
    permission_classes = [MayScrape]

    @extend_schema("getMetrics", responses={(200, "text/plain"): str})
    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(metrics.exposition(), content_type=metrics.CONTENT_TYPE)
