"""Every route of the agent: the record service's, its own, and the admin's."""

from django.contrib import admin
from django.urls import include, path

import webhooks.urls

handler400 = "predictions.api.errors.bad_request"
handler403 = "predictions.api.errors.forbidden"
handler404 = "predictions.api.errors.not_found"
handler500 = "predictions.api.errors.server_error"

urlpatterns = [
    path("", include(webhooks.urls.routes)),
    path("", include("predictions.api.urls")),
    path("admin/", include("predictions.dashboard")),
    path("admin/", include("predictions.playground")),
    path("admin/", admin.site.urls),
]
