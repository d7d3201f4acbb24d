"""KServe's v1 protocol (seen on the wire: model servers 0.21.0, 0.13.1 and 0.10.2)."""

from typing import Any

from platforms.base import Call, InvalidInputs, Prediction, PredictionResult, lift_running_time
from platforms.http import DEFAULT_MAX_RESPONSE_BYTES, HttpPlatform


class KServe(HttpPlatform):
    """Models behind a KServe ingress at `address` (host:port), told apart by their Host header.

    `host_template` makes that header from `{model}`, `{namespace}` and `{domain}`. Knative writes
    `{model}.{namespace}.{domain}`, raw deployments `{model}-{namespace}.{domain}`.
    """

    name = "kserve"

    def __init__(
        self,
        *,
        address: str,
        version: str,
        domain: str,
        namespace: str,
        host_template: str,
        timeout_seconds: float,
        max_response_bytes: int = DEFAULT_MAX_RESPONSE_BYTES,
    ) -> None:
        super().__init__(timeout_seconds=timeout_seconds, max_response_bytes=max_response_bytes)
        self.address = address
        self.version = version
        self.domain = domain
        self.namespace = namespace
        self.host_template = host_template

    def predict(self, prediction: Prediction, call: Call) -> PredictionResult:
        call.shorten(self.timeout_seconds)
        model = _checked(prediction.model_name)
        inputs = {name: value for name, value in prediction.inputs.items() if name != "upload_webhook"}
        if prediction.upload_webhook:
            inputs["upload_webhook"] = prediction.upload_webhook
        outputs = self.send_json(
            "POST",
            f"http://{self.address}/v1/models/{model}:predict",
            inputs,
            call,
            headers={"Host": self._host(model)},
        )
        return lift_running_time(outputs)

    def docs(self, model_name: str, call: Call) -> Any:
        call.shorten(self.timeout_seconds)
        model = _checked(model_name)
        url = f"http://{self.address}/v1/docs/{model}"
        return self.send_json("GET", url, None, call, headers={"Host": self._host(model)})

    def _host(self, model: str) -> str:
        return self.host_template.format(model=model, namespace=self.namespace, domain=self.domain)


def _checked(model_name: str) -> str:
    """A model's name as it may stand in a path and a host name: letters, digits, `-`, `_` and `.`."""
    if not model_name.replace("-", "").replace("_", "").replace(".", "").isalnum() or not model_name.isascii():
        raise InvalidInputs("model_name: KServe models are named with letters, digits, '-', '_' and '.'")
    return model_name
