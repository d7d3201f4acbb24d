"""A plain Kubernetes service that answers `/v1/predict`; the agent's own API has this shape: agents chain."""

from typing import Any

from platforms.base import Call, PlatformError, Prediction, PredictionResult, lift_running_time
from platforms.health import Health, ok, problem, warning
from platforms.http import DEFAULT_MAX_RESPONSE_BYTES, HttpPlatform, Request


class K8s(HttpPlatform):
    """One service at `address` (host:port) that knows its models by name."""

    name = "k8s"
    takes_upload_address = True

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
        return self.get_docs(self._ask_for_docs(model_name), call)

    def check(self, model_name: str, call: Call) -> Health:
        """Asks for a model's documentation, which any service of this shape may lack."""
        status, said = self.look(self._ask_for_docs(model_name), call)
        if status in (401, 403):
            return problem(f"the service wants a key ({status})", "Let this agent call it without one.")
        if status >= 500 and status != 501:
            return problem(f"the service answers {self.in_words(status, said)}", "Look at its pods and their logs.")
        if not model_name or status in (404, 405, 501):
            return ok(f"the service at {self.address} answers")
        if status == 200:
            return ok(f"the service at {self.address} answers, and describes {model_name}")
        return warning(
            f"asked about {model_name} the service answers {self.in_words(status, said)}",
            "Is the model's name right?",
        )

    def _ask_for_docs(self, model_name: str) -> Request:
        return Request("GET", f"http://{self.address}/v1/docs", {"model_name": model_name})
