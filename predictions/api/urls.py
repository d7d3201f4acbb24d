"""The agent's own routes, in the order of docs/reference.md."""

from django.urls import path

from predictions.api.docs import DocsView
from predictions.api.health import LiveView, ReadyView
from predictions.api.home import HomeView
from predictions.api.metrics import MetricsView
from predictions.api.predictions import AsyncPredictView, PredictView
from predictions.api.queue import DeletePendingView, PauseView, QueueSizeView, UnfinishedView, UnpauseView
from predictions.api.reference import DocsPageView, OpenAPIView
from predictions.api.streaming import GenerateView
from predictions.api.tasks import CancelView, TaskView

urlpatterns = [
    path("", HomeView.as_view(), name="home"),
    path("v1/predict", PredictView.as_view(), name="predict"),
    path("async/v1/predict", AsyncPredictView.as_view(), name="async-predict"),
    path("v1/generate", GenerateView.as_view(), name="generate"),
    path("task/<str:task_id>", TaskView.as_view(), name="task"),
    path("cancel/<str:task_id>", CancelView.as_view(), name="cancel"),
    path("v1/docs", DocsView.as_view(), name="docs"),
    path("v1/queue_size", QueueSizeView.as_view(), name="queue-size"),
    path("unfinished", UnfinishedView.as_view(), name="unfinished"),
    path("pause", PauseView.as_view(), name="pause"),
    path("unpause", UnpauseView.as_view(), name="unpause"),
    path("delete_pending", DeletePendingView.as_view(), name="delete-pending"),
    path("live", LiveView.as_view(), name="live"),
    path("ready", ReadyView.as_view(), name="ready"),
    path("metrics", MetricsView.as_view(), name="metrics"),
    path("docs", DocsPageView.as_view(), name="docs-page"),
    path("openapi.json", OpenAPIView.as_view(), name="openapi"),
]
