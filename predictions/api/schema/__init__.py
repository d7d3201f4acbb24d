"""What the OpenAPI document says of the agent's own routes. A test sends every example and compares the answer."""

from predictions.api.schema import predictions, service  # noqa: F401  (each describes its routes)
