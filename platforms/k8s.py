"""A plain Kubernetes service that answers `/v1/predict`; the agent's own API has this shape: agents chain."""

from typing import Any

from platforms.base import Call, PlatformError, Prediction, PredictionResult, lift_running_time
from platforms.http import DEFAULT_MAX_RESPONSE_BYTES, HttpPlatform, Request


class K8s(HttpPlatform):
    """One service at `address` (host:port) that knows its models by name."""

    name = "k8s"

    def __init__(
        self, *, address: str, timeout_seconds: float, max_response_bytes: int = DEFAULT_MAX_RESPONSE_BYTES
    ) -> None:
        super().__init__(timeout_seconds=timeout_seconds, max_response_bytes=max_response_bytes)
        self.address = address

    def predict(self, prediction: Prediction, call: Call) -> PredictionResult:
        call.shorten(self.timeout_seconds)
        body = {"model_name": prediction.model_name, "inputs": prediction.inputs_with_upload()}
        outputs = self.send_json(Request("POST", f"http://{self.address}/v1/predict", body), call)
        if not isinstance(outputs, dict):
            raise PlatformError("the k8s platform answered something that is not a JSON object")
        return lift_running_time(outputs)

    def docs(self, model_name: str, call: Call) -> Any:
        call.shorten(self.timeout_seconds)
        return self.get_docs(Request("GET", f"http://{self.address}/v1/docs", {"model_name": model_name}), call)
