"""The operators' pages. Django imports this package to register them."""

from predictions.admin import people, queues, tasks  # noqa: F401  (each registers its pages)
