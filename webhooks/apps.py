"""The record service and its client."""

from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    name = "webhooks"
