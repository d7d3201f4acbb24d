"""The record service's routes. The Procfile's `webhook` process serves only these (ROOT_URLCONF)."""

from django.urls import include, path

from predictions.api.health import LiveView, ReadyView
from predictions.api.tasks import TaskView
from webhooks.records import ModelStatusView, RecordsView
from webhooks.uploads import MediaView, TokenUploadBatchView, TokenUploadView, UploadBatchView, UploadView

handler400 = "predictions.api.errors.bad_request"
handler403 = "predictions.api.errors.forbidden"
handler404 = "predictions.api.errors.not_found"
handler500 = "predictions.api.errors.server_error"

routes = [
    path("task", RecordsView.as_view(), name="records"),
    path("task/modelstatus", ModelStatusView.as_view(), name="model-status"),
    path("upload", UploadView.as_view(), name="upload"),
    path("upload_batch", UploadBatchView.as_view(), name="upload-batch"),
    path("u/<str:token>/upload", TokenUploadView.as_view(), name="token-upload"),
    path("u/<str:token>/upload_batch", TokenUploadBatchView.as_view(), name="token-upload-batch"),
    path("media/<path:name>", MediaView.as_view(), name="media"),
]

urlpatterns = [
    path("", include(routes)),
    path("task/<str:task_id>", TaskView.as_view(), name="task"),
    path("live", LiveView.as_view(), name="live"),
    path("ready", ReadyView.as_view(), name="ready"),
]
