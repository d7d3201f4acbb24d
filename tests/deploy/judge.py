"""Validates the objects on standard input by their schemas, and prints the errors as JSON; runs in TOOLS' Python.

Kubernetes' own kinds: the strict schemas (an unknown field is an error) of several versions. KEDA's and the Prometheus
operator's: models generated from their definitions, which drop unknown fields; so output and input must be equal.
"""

import json
import sys
from importlib import import_module
from typing import Any

import kubernetes_validate

VERSIONS = ("1.29", "1.32", "1.35", "1.37")
DEFINED_ELSEWHERE = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}


def complaint(thing: dict[str, Any]) -> str:
    """The object's error, or an empty string."""
    module = DEFINED_ELSEWHERE.get(thing.get("apiVersion", ""))
    try:
        if module:
            return _differs(thing, getattr(import_module(module), thing["kind"]))
        for version in VERSIONS:
            kubernetes_validate.validate(thing, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _differs(thing: dict[str, Any], model: Any) -> str:
    known = json.loads(model.model_validate(thing).model_dump_json(by_alias=True, exclude_unset=True))
    return "" if known == thing else f"it has fields that its definition lacks; without them: {known}"


def name(thing: dict[str, Any]) -> str:
    return f"{thing.get('kind')}/{thing.get('metadata', {}).get('name')}"


if __name__ == "__main__":
    complaints = ((name(thing), complaint(thing)) for thing in json.load(sys.stdin))
    json.dump([f"{who}: {what}" for who, what in complaints if what], sys.stdout)
