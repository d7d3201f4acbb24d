"""The core application."""

from django.apps import AppConfig

from predictions.telemetry import counter_files

counter_files.install()  # here, because another application's admin makes a metric before any `ready` of ours


class PredictionsConfig(AppConfig):
    name = "predictions"

    def ready(self) -> None:
        from predictions import checks  # noqa: F401  (registers the system checks)
