"""Every route of the agent: the record service's, its own, and the admin's."""

from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import include, path
from django.views.generic import RedirectView

import webhooks.urls

handler400 = "predictions.api.errors.bad_request"
handler403 = "predictions.api.errors.forbidden"
handler404 = "predictions.api.errors.not_found"
handler500 = "predictions.api.errors.server_error"


def _nowhere(request: HttpRequest, **kwargs: str) -> HttpResponse:
    raise Http404


urlpatterns = [
    path("", include(webhooks.urls.routes)),
    path("", include("predictions.api.urls")),
    path("admin/", include("predictions.admin.dashboard")),
    path("admin/", include("predictions.admin.playground")),
    path("admin/r/<path:anything>", _nowhere),  # "view on site": no record here has a page of its own
    path("admin/", admin.site.urls),
    path("admin", RedirectView.as_view(url="/admin/")),
]
