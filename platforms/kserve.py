"""KServe's v1 protocol (seen on the wire: model servers 0.21.0, 0.13.1 and 0.10.2)."""

import re
from collections.abc import Generator, Iterator
from typing import Any

from platforms.base import Call, Chunk, InvalidInputs, PlatformError, Prediction, PredictionResult, lift_running_time
from platforms.health import Health, ok, problem, warning
from platforms.http import DEFAULT_MAX_RESPONSE_BYTES, HttpPlatform, Reply, Request
from platforms.parsing import loads_or_none

LAST_WITH_GENERATE = (0, 10, 2)


class KServe(HttpPlatform):
    """Models behind a KServe ingress at `address` (host:port), told apart by their Host header.

    `host_template` makes that header from `{model}`, `{namespace}` and `{domain}`. Knative writes
    `{model}.{namespace}.{domain}`, raw deployments `{model}-{namespace}.{domain}`.
    """

    name = "kserve"
    takes_upload_address = True

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
        self.domain = domain
        self.namespace = namespace
        self.host_template = host_template
        self._streaming_verb = "generate" if has_generate(version) else "predict"

    def predict(self, prediction: Prediction, call: Call) -> PredictionResult:
        call.shorten(self.timeout_seconds)
        return lift_running_time(self.send_json(self._ask(prediction, "predict"), call))

    def stream(self, prediction: Prediction, call: Call) -> Generator[Chunk, None, None]:
        """Lines of `{"id": 0, "data": "…"}`; any other line, or a whole answer in JSON, is passed on as it is."""
        call.shorten(self.timeout_seconds)
        with self.open(self._ask(prediction, self._streaming_verb), call) as reply:
            self.check_status(reply)
            number = 0
            for line in self._texts(reply):
                chunk = _chunk(line, number)
                number = chunk.id + 1
                yield chunk

    def docs(self, model_name: str, call: Call) -> Any:
        """What kservehelper 1.x tells of a model's inputs; later servers have no such route."""
        call.shorten(self.timeout_seconds)
        url = f"http://{self.address}/v1/docs/{_checked(model_name)}"
        return self.get_docs(Request("GET", url, headers={"Host": self._host(model_name)}), call)

    def check(self, model_name: str, call: Call) -> Health:
        """Asks whether the model is ready; without a name, whether the ingress answers, whatever it does."""
        if not model_name:
            status, _ = self.look(Request("GET", f"http://{self.address}/"), call)
            return ok(f"the ingress at {self.address} answers ({status})")
        host = self._host(_checked(model_name))
        url = f"http://{self.address}/v1/models/{model_name}"
        status, said = self.look(Request("GET", url, headers={"Host": host}), call)
        if status == 200 and _is_ready(said):
            return ok(f"the ingress at {self.address} answers, and {model_name} is ready")
        if status == 200 or status >= 500:
            why = "" if status == 200 else f" ({self.in_words(status, said)})"
            return problem(f"{model_name} is not ready{why}", f"Look at its InferenceService in {self.namespace}.")
        if status == 404:
            return problem(
                f"the ingress at {self.address} knows no {model_name} under the host {host}",
                "Is the name right, and do KSERVE_HOST_TEMPLATE, KSERVE_NAMESPACE and KSERVE_CUSTOM_DOMAIN make the "
                "host of its InferenceService?",
            )
        return warning(
            f"asked about {model_name} the ingress answers {self.in_words(status, said)}",
            "Check the service behind it, and whether it needs a key.",
        )

    def _ask(self, prediction: Prediction, verb: str) -> Request:
        model = _checked(prediction.model_name)
        url = f"http://{self.address}/v1/models/{model}:{verb}"
        return Request("POST", url, prediction.inputs_with_upload(), headers={"Host": self._host(model)})

    def _texts(self, reply: Reply) -> Iterator[str]:
        """The lines of a stream (it has no Content-Type, or application/x-ndjson), or the one text of an answer."""
        if reply.content_type == "text/html":
            raise PlatformError("the kserve platform answered a web page")
        if reply.content_type == "application/json":
            yield reply.read(self.max_response_bytes).decode(errors="replace").strip()
        else:
            yield from filter(str.strip, reply.lines())

    def _host(self, model: str) -> str:
        """The model is one label of the host: with dots in it a caller would reach other namespaces of the domain."""
        if "." in model and "{model}" in self.host_template:
            raise InvalidInputs("model_name: where the host is made of it, a KServe model's name has no dots")
        return self.host_template.format(model=model, namespace=self.namespace, domain=self.domain)


def has_generate(version: str) -> bool:
    """Whether this KServe streams at `:generate` (up to 0.10.2), not at `:predict`. `v0.13.1` and `0.13` are fine."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    return match is not None and tuple(map(int, match[1].split("."))) <= LAST_WITH_GENERATE


def _is_ready(said: Any) -> bool:
    """`{"name": "iris", "ready": true}`; early servers wrote "True"."""
    return isinstance(said, dict) and str(said.get("ready")).lower() == "true"


def _chunk(line: str, number: int) -> Chunk:
    said = loads_or_none(line.encode())
    if isinstance(said, dict) and type(said.get("id")) is int and isinstance(said.get("data"), str):
        return Chunk(said["id"], said["data"])
    return Chunk(number, line)


def _checked(model_name: str) -> str:
    """A model's name as it may stand in a path and a host name: letters, digits, `-`, `_` and `.`."""
    if not model_name.replace("-", "").replace("_", "").replace(".", "").isalnum() or not model_name.isascii():
        raise InvalidInputs("model_name: KServe models are named with letters, digits, '-', '_' and '.'")
    return model_name
