"""The core application."""

from django.apps import AppConfig


class PredictionsConfig(AppConfig):
    name = "predictions"

    def ready(self) -> None:
        from predictions import checks  # noqa: F401  (registers the system checks)
