"""Checks the iris example's server over a real socket, and its command."""

import contextlib
import http.client
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import examples.iris
from examples.iris import docs, model, predict, server
from platforms import Level, Platform, Prediction
from tests.helpers.iris import README, refusal_of
from tests.helpers.makers import call, k8s, kserve

SETOSA = [5.1, 3.5, 1.4, 0.2]
VERSICOLOR = [6.0, 2.7, 4.2, 1.3]
VIRGINICA = [6.7, 3.1, 5.8, 2.2]
ROOT = Path(examples.iris.__file__).parents[2]
# A stuck server process fails its test after this many seconds instead of holding up the whole run.
STUCK = 60


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        assert int(self.headers["Content-Length"]) == len(self.body)
        return json.loads(self.body)


class Client:
    """Sends requests over one connection, so that every test also checks that it stays usable."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STUCK)

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self.connection.request(method, path, data, headers or {})
        response = self.connection.getresponse()
        return Reply(response.status, response.headers, response.read())

    def raw(self, data: bytes) -> bytes:
        """Return all that the server answers to these bytes until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=STUCK) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answer:
                return answer.read()


@contextlib.contextmanager
def serving(model_name: str) -> Iterator[Client]:
    with server.IrisServer("127.0.0.1", 0, model_name) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        client = Client(running.server_port)
        try:
            yield client
        finally:
            client.connection.close()
            running.shutdown()
            thread.join()


@pytest.fixture
def client() -> Iterator[Client]:
    with serving("iris") as started:
        yield started


def test_kserve_says_the_model_is_ready(client: Client) -> None:
    reply = client.send("GET", "/v1/models/iris")
    assert (reply.status, reply.json()) == (200, {"name": "iris", "ready": True})


def test_kserve_predicts_as_the_model_does(client: Client) -> None:
    inputs = {"instances": [SETOSA, VIRGINICA]}
    reply = client.send("POST", "/v1/models/iris:predict", inputs)
    assert (reply.status, reply.json()) == (200, predict("iris", inputs))


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models/nope"), ("POST", "/v1/models/nope:predict")])
def test_kserve_does_not_find_an_unknown_model(client: Client, method: str, path: str) -> None:
    reply = client.send(method, path)
    assert (reply.status, reply.json()) == (404, {"error": "Model with name nope does not exist."})


@pytest.mark.parametrize("instances", ["5.1", None, {"a": 1}, 3])
def test_kserve_refuses_instances_that_are_not_a_list(client: Client, instances: object) -> None:
    reply = client.send("POST", "/v1/models/iris:predict", {"instances": instances})
    assert (reply.status, reply.json()) == (400, {"error": 'Expected "instances" to be a list'})


@pytest.mark.parametrize("inputs", [{}, {"instances": [[1, 2, 3]]}, {"instances": [], "delay_seconds": -1}])
def test_kserve_reports_inputs_the_model_refuses_as_an_error_of_the_model(
    client: Client, inputs: dict[str, Any]
) -> None:
    reply = client.send("POST", "/v1/models/iris:predict", inputs)
    assert (reply.status, reply.json()) == (500, {"error": refusal_of(inputs)})


def test_the_plain_service_predicts_and_says_how_long_it_took(client: Client) -> None:
    inputs = {"instances": [SETOSA, VERSICOLOR]}
    reply = client.send("POST", "/v1/predict", {"model_name": "iris", "inputs": inputs})
    assert reply.status == 200
    content = reply.json()
    assert re.fullmatch(r"\d+\.\d{6}s", content.pop("running_time"))
    assert content == predict("iris", inputs)


def test_the_plain_service_counts_the_delay_in_the_running_time(client: Client) -> None:
    inputs = {"instances": [SETOSA], "delay_seconds": 0.05}
    content = client.send("POST", "/v1/predict", {"model_name": "iris", "inputs": inputs}).json()
    assert float(content["running_time"].removesuffix("s")) >= 0.05


def test_the_plain_service_does_not_find_an_unknown_model(client: Client) -> None:
    reply = client.send("POST", "/v1/predict", {"model_name": "nope", "inputs": {"instances": []}})
    assert (reply.status, reply.json()) == (404, {"error": "Model with name nope does not exist."})


@pytest.mark.parametrize("inputs", [{}, {"instances": "x"}, {"instances": [[1]]}])
def test_the_plain_service_refuses_inputs_the_model_refuses(client: Client, inputs: dict[str, Any]) -> None:
    reply = client.send("POST", "/v1/predict", {"model_name": "iris", "inputs": inputs})
    assert (reply.status, reply.json()) == (400, {"error": refusal_of(inputs)})


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"inputs": {}}, "model_name"),
        ({"model_name": 3, "inputs": {}}, "model_name"),
        ({"model_name": "iris"}, "inputs"),
        ({"model_name": "iris", "inputs": [SETOSA]}, "inputs"),
    ],
)
def test_the_plain_service_says_which_part_of_the_body_to_send(client: Client, body: Any, what: str) -> None:
    reply = client.send("POST", "/v1/predict", body)
    assert reply.status == 400
    assert reply.json()["error"].startswith(f'Send "{what}" as')


@pytest.mark.parametrize("path", ["/v1/models/iris:predict", "/v1/predict"])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\xfa", b"[" * 200_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_a_body_that_is_not_json_is_refused(client: Client, path: str, body: bytes) -> None:
    reply = client.send("POST", path, body)
    assert reply.status == 400
    assert reply.json()["error"].startswith("The body is not JSON: ")


@pytest.mark.parametrize("path", ["/v1/models/iris:predict", "/v1/predict"])
@pytest.mark.parametrize("body", [[SETOSA], "text", 3, None])
def test_a_body_that_is_not_an_object_is_refused(client: Client, path: str, body: object) -> None:
    reply = client.send("POST", path, json.dumps(body).encode())
    assert (reply.status, reply.json()) == (400, {"error": "Send a JSON object as the body."})


def test_an_upload_webhook_is_not_given_to_the_model(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def remember(model_name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        seen.append(inputs)
        return {"predictions": []}

    monkeypatch.setattr(server, "predict", remember)
    inputs = {"instances": [], "upload_webhook": "https://example.org/upload"}
    assert client.send("POST", "/v1/models/iris:predict", inputs).status == 200
    assert client.send("POST", "/v1/predict", {"model_name": "iris", "inputs": inputs}).status == 200
    assert seen == [{"instances": []}, {"instances": []}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/docs", None),
        ("/v1/docs", {}),
        ("/v1/docs", {"model_name": "iris"}),
        ("/v1/docs?model_name=iris", None),
        ("/v1/docs/iris", None),
    ],
)
def test_the_docs_describe_the_inputs(client: Client, path: str, body: Any) -> None:
    reply = client.send("GET", path, body)
    assert (reply.status, reply.json()) == (200, docs("iris"))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/docs", {"model_name": "nope"}),
        ("/v1/docs?model_name=nope", None),
        ("/v1/docs/nope", None),
    ],
)
def test_there_are_no_docs_for_an_unknown_model(client: Client, path: str, body: Any) -> None:
    reply = client.send("GET", path, body)
    assert (reply.status, reply.json()) == (404, {"error": "Model with name nope does not exist."})


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model_name": 3}'])
def test_docs_asked_for_with_an_unusable_body_are_refused(client: Client, body: bytes) -> None:
    reply = client.send("GET", "/v1/docs", body)
    assert reply.status == 400
    assert "error" in reply.json()


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/models", "/v1/models/", "/v1/models/iris:explain", "/v1/docs/", "/v1/docs/a/b"]
)
def test_an_unknown_path_is_not_found(client: Client, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        reply = client.send(method, path, {"instances": []})
        assert (reply.status, reply.json()) == (404, {"error": f"There is nothing at {path}"})


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/models/iris", "GET"),
        ("/v1/models/iris:predict", "POST"),
        ("/v1/predict", "POST"),
        ("/v1/docs", "GET"),
        ("/v1/docs/iris", "GET"),
    ],
)
def test_a_wrong_method_is_refused_with_the_right_one(client: Client, path: str, allowed: str) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - {allowed}:
        reply = client.send(method, path, {"instances": []})
        assert (reply.status, reply.headers["Allow"]) == (405, allowed)
        assert reply.json() == {"error": f"{method} is not allowed here; use {allowed}."}


def test_head_is_refused_without_a_body_and_the_connection_stays_usable(client: Client) -> None:
    reply = client.send("HEAD", "/v1/models/iris")
    assert (reply.status, reply.body) == (405, b"")
    assert client.send("GET", "/v1/models/iris").status == 200


def test_an_unheard_of_method_is_refused_as_json(client: Client) -> None:
    reply = client.send("BREW", "/v1/predict")
    assert reply.status == 405
    assert "BREW" in reply.json()["error"]


def test_a_garbled_request_line_is_refused_as_json(client: Client) -> None:
    head, _, body = client.raw(b"GET /v1/docs HTTP/one\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Type: application/json" in head
    assert "error" in json.loads(body)


def test_one_connection_carries_many_requests_even_after_errors(client: Client) -> None:
    assert client.send("GET", "/v1/models/iris").status == 200
    first = client.connection.sock
    assert first is not None
    for body, status in [({"instances": [SETOSA]}, 200), ({"instances": 1}, 400), ({}, 500)]:
        assert client.send("POST", "/v1/models/iris:predict", body).status == status
    assert client.send("POST", "/nowhere", {"instances": [SETOSA] * 1000}).status == 404
    assert client.send("GET", "/v1/models/iris").status == 200
    assert client.connection.sock is first


def test_the_connection_is_closed_when_the_caller_asks_for_it(client: Client) -> None:
    reply = client.send("GET", "/v1/models/iris", headers={"Connection": "close"})
    assert reply.headers["Connection"] == "close"
    assert client.connection.sock is None


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Transfer-Encoding: chunked", b"411"),
        (b"Content-Length: -1", b"400"),
        (b"Content-Length: many", b"400"),
        (b"Content-Length: 16777217", b"413"),
    ],
)
def test_a_body_of_unknown_or_too_great_length_is_refused(client: Client, header: bytes, status: bytes) -> None:
    head, _, body = client.raw(b"POST /v1/predict HTTP/1.1\r\n" + header + b"\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert b"Connection: close" in head
    assert json.loads(body)["error"].startswith("Send ")


def test_a_caller_that_hangs_up_midway_is_not_reported_and_others_are_still_served(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client.raw(b"POST /v1/predict HTTP/1.1\r\nContent-Length: 100\r\n\r\n{") == b""
    assert client.send("GET", "/v1/models/iris").status == 200
    assert capsys.readouterr().err == ""


COMMANDS = re.findall(r"^    (curl (?:.*\\\n)*.*)$", README, re.MULTILINE)
CURL = [shlex.split(command) for command in COMMANDS]


@pytest.mark.parametrize("command", CURL, ids=lambda command: command[-1])
def test_a_curl_command_of_the_page_is_answered(client: Client, command: list[str]) -> None:
    url = urlsplit(next(word for word in command if word.startswith("http://127.0.0.1:8080/")))
    body = command[command.index("-d") + 1].encode() if "-d" in command else None
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
    reply = client.send("POST" if body else "GET", url.path, body, headers)
    assert reply.status == 200
    if body:
        assert reply.json()["predictions"][0]["species"] == "setosa"
    else:
        assert reply.json() == docs("iris")


@pytest.mark.parametrize("make", [kserve, k8s], ids=["kserve", "k8s"])
def test_the_agents_adapters_predict_and_read_the_docs_here(client: Client, make: Callable[..., Platform]) -> None:
    platform = make(f"127.0.0.1:{client.port}")
    inputs = {"instances": [SETOSA, VIRGINICA]}
    assert platform.predict(Prediction("iris", inputs), call()).outputs == predict("iris", inputs)
    assert platform.docs("iris", call()) == docs("iris")
    assert platform.check("iris", call()).level is Level.OK


@pytest.mark.parametrize(("options", "is_reached"), [([], False), (["--host", "0.0.0.0"], True)])
def test_only_this_machine_reaches_it_unless_the_host_is_given(options: list[str], is_reached: bool) -> None:
    """127.0.0.2 stands for another of the machine's addresses."""
    host = server.parsed(options).host
    with server.IrisServer(host, 0, "iris") as running, socket.socket() as caller:
        assert (caller.connect_ex(("127.0.0.2", running.server_port)) == 0) is is_reached


def test_one_slow_request_does_not_hold_up_another(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, release = threading.Event(), threading.Event()

    def wait(seconds: float) -> None:
        if seconds:
            entered.set()
            release.wait(STUCK)

    monkeypatch.setattr(model, "wait", wait)
    slow = Client(client.port)
    body = json.dumps({"instances": [SETOSA], "delay_seconds": 300}).encode()
    slow.connection.request("POST", "/v1/models/iris:predict", body)
    assert entered.wait(STUCK)
    assert client.send("POST", "/v1/models/iris:predict", {"instances": [SETOSA]}).status == 200
    release.set()
    response = slow.connection.getresponse()
    assert response.status == 200
    response.read()
    slow.connection.close()


def test_the_model_can_be_served_under_another_name() -> None:
    with serving("my flowers") as client:
        assert client.send("GET", "/v1/models/my%20flowers").json() == {"name": "my flowers", "ready": True}
        reply = client.send("POST", "/v1/models/my%20flowers:predict", {"instances": [SETOSA]})
        assert reply.json()["predictions"][0]["species"] == "setosa"
        assert client.send("GET", "/v1/models/iris").status == 404
        assert client.send("GET", "/v1/docs").json() == docs("my flowers")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_its_addresses_serves_and_stops_cleanly_when_told_to(stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "examples.iris.server", "--port", "0", "--model-name", "flowers"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)/v1/models/flowers:predict", line)
            assert found, line
            client = Client(int(found[1]))
            assert client.send("GET", "/v1/models/flowers").status == 200
            process.send_signal(stop)
            rest, errors = process.communicate(timeout=STUCK)
            client.connection.close()
        finally:
            process.kill()
    assert (process.returncode, rest, errors) == (0, "", "")


def test_a_port_in_use_is_reported_in_one_sentence(client: Client) -> None:
    with pytest.raises(SystemExit) as caught:
        server.main(["--port", str(client.port)])
    assert str(caught.value) == f"Cannot listen on 127.0.0.1:{client.port}: Address already in use"


@pytest.mark.parametrize("text", ["-1", "65536", "http"])
def test_a_port_that_is_not_one_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        server.main([f"--port={text}"])
    assert caught.value.code == 2
    assert "invalid port value" in capsys.readouterr().err
