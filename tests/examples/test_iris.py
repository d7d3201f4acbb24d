"""Checks the iris example: its data, its fit, its predictions and its server over a real socket."""

import contextlib
import http.client
import json
import math
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import examples.iris
from examples.iris import docs, fit, model, predict, server, softmax

SETOSA = [5.1, 3.5, 1.4, 0.2]
VERSICOLOR = [6.0, 2.7, 4.2, 1.3]
VIRGINICA = [6.7, 3.1, 5.8, 2.2]
ROOT = Path(examples.iris.__file__).parents[2]
# A stuck server process fails its test after this many seconds instead of holding up the whole run.
STUCK = 60


def refusal_of(inputs: Any) -> str:
    with pytest.raises(ValueError) as caught:
        predict("iris", inputs)
    return str(caught.value)


# The data and the fit


def test_the_data_is_fishers_table_of_fifty_flowers_of_each_species() -> None:
    table = fit.read_table()
    published = {
        "setosa": [5.006, 3.428, 1.462, 0.246],
        "versicolor": [5.936, 2.770, 4.260, 1.326],
        "virginica": [6.588, 2.974, 5.552, 2.026],
    }
    assert table.classes == list(published)
    for species, means in published.items():
        rows = [flower.features for flower in table.flowers if flower.species == species]
        assert len(rows) == 50
        assert [fit.mean(column) for column in zip(*rows, strict=True)] == pytest.approx(means)


def test_the_split_holds_out_the_same_number_of_each_species_and_loses_no_flower() -> None:
    table = fit.read_table()
    train, held_out = fit.split(table)
    for species in table.classes:
        assert sum(flower.species == species for flower in train) == 35
        assert sum(flower.species == species for flower in held_out) == 15
    assert sorted(map(repr, train + held_out)) == sorted(map(repr, table.flowers))


def test_another_seed_splits_the_flowers_differently() -> None:
    table = fit.read_table()
    assert fit.split(table, seed=1) != fit.split(table, seed=2)


def test_refitting_gives_the_committed_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit.main(["--output", str(tmp_path / "weights.json")])
    assert (tmp_path / "weights.json").read_text() == softmax.WEIGHTS_FILE.read_text()
    printed = capsys.readouterr().out
    assert "Train accuracy:    0.981 on 105 flowers" in printed
    assert "Held-out accuracy: 0.956 on 45 flowers" in printed


def test_the_weights_are_standardised_by_the_flowers_that_were_fitted() -> None:
    weights = softmax.read_weights()
    train, _ = fit.split(fit.read_table())
    rows = [softmax.standardise(flower.features, weights.means, weights.scales) for flower in train]
    for column in zip(*rows, strict=True):
        assert fit.mean(column) == pytest.approx(0, abs=1e-5)
        assert fit.standard_deviation(column) == pytest.approx(1, abs=1e-5)


def test_held_out_flowers_are_recognised_as_often_as_the_weights_file_says() -> None:
    _, held_out = fit.split(fit.read_table())
    answers = predict("iris", {"instances": [list(flower.features) for flower in held_out]})["predictions"]
    right = sum(a["species"] == flower.species for a, flower in zip(answers, held_out, strict=True))
    assert right / len(held_out) >= 0.93
    assert right / len(held_out) == pytest.approx(softmax.read_weights().accuracy.held_out, abs=1e-6)


# Predictions


def test_a_flower_from_each_species_is_recognised() -> None:
    answers = predict("iris", {"instances": [SETOSA, VERSICOLOR, VIRGINICA]})["predictions"]
    assert [a["species"] for a in answers] == ["setosa", "versicolor", "virginica"]
    assert [a["class"] for a in answers] == [0, 1, 2]


def test_the_probabilities_add_up_to_one_and_the_species_has_the_highest() -> None:
    for answer in predict("iris", {"instances": [SETOSA, VERSICOLOR, VIRGINICA]})["predictions"]:
        probabilities = answer["probabilities"]
        assert list(probabilities) == ["setosa", "versicolor", "virginica"]
        assert math.fsum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert max(probabilities, key=probabilities.__getitem__) == answer["species"]


def test_whole_numbers_are_measurements_too() -> None:
    assert predict("iris", {"instances": [[5, 3, 1, 0]]})["predictions"][0]["species"] == "setosa"


def test_the_largest_measurements_still_give_finite_probabilities() -> None:
    answers = predict("iris", {"instances": [[1e6, -1e6, 1e6, -1e6], [-1e6, 1e6, -1e6, 1e6]]})
    for answer in answers["predictions"]:
        assert math.fsum(answer["probabilities"].values()) == pytest.approx(1)
    json.dumps(answers, allow_nan=False)


def test_no_flowers_give_no_predictions() -> None:
    assert predict("iris", {"instances": []}) == {"predictions": []}


def test_ten_thousand_flowers_are_answered_and_one_more_is_refused() -> None:
    assert len(predict("iris", {"instances": [SETOSA] * 10_000})["predictions"]) == 10_000
    assert "at most 10,000" in refusal_of({"instances": [SETOSA] * 10_001})


def test_any_model_name_and_unknown_keys_are_accepted_and_the_inputs_stay_as_they_were() -> None:
    inputs = {"instances": [SETOSA], "upload_webhook": "https://example.org/", "colour": "blue"}
    before = json.dumps(inputs)
    assert predict("another", inputs) == predict("iris", {"instances": [SETOSA]})
    assert json.dumps(inputs) == before


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ({}, '"instances" is missing'),
        ({"instances": "5.1,3.5,1.4,0.2"}, '"instances" is not a list'),
        ({"instances": None}, '"instances" is not a list'),
        ({"instances": {"0": SETOSA}}, '"instances" is not a list'),
        ({"instances": SETOSA}, "instances[0] is not a list"),
        ({"instances": [SETOSA, SETOSA[:3]]}, "instances[1] has 3 values, not four"),
        ({"instances": [[*SETOSA, 1.0]]}, "instances[0] has 5 values, not four"),
        ({"instances": [[]]}, "instances[0] has 0 values, not four"),
        ({"instances": [[5.1, 3.5, 1.4, True]]}, "instances[0][3] is not a number"),
        ({"instances": [[5.1, "3.5", 1.4, 0.2]]}, "instances[0][1] is not a number"),
        ({"instances": [[None, 3.5, 1.4, 0.2]]}, "instances[0][0] is not a number"),
        ({"instances": [[5.1, 3.5, math.nan, 0.2]]}, "instances[0][2] is not a number"),
        ({"instances": [[5.1, 3.5, math.inf, 0.2]]}, "instances[0][2] is not a number"),
        ({"instances": [[5.1, 3.5, -math.inf, 0.2]]}, "instances[0][2] is not a number"),
        ({"instances": [[5.1, 3.5, 10**400, 0.2]]}, "instances[0][2] is not a number"),
        ([SETOSA], "not a JSON object"),
    ],
)
def test_unusable_instances_are_refused_with_the_fault_and_what_to_send(inputs: Any, fault: str) -> None:
    refusal = refusal_of(inputs)
    assert fault in refusal
    assert "list of four numbers in cm, such as [[5.1, 3.5, 1.4, 0.2]]" in refusal


@pytest.mark.parametrize("delay", [-1, 300.1, math.nan, math.inf, True, "5", None, [1]])
def test_an_unusable_delay_is_refused_with_what_to_send(delay: object) -> None:
    assert "number of seconds from 0 to 300" in refusal_of({"instances": [SETOSA], "delay_seconds": delay})


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("delay", [0.25, 7, 300])
def test_a_delay_is_waited_for_before_the_answer(delay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(model, "time", clock)
    answer = predict("iris", {"instances": [SETOSA], "delay_seconds": delay})
    assert clock.now == pytest.approx(delay)
    assert max(clock.waits) <= model.STEP_SECONDS
    assert answer["predictions"][0]["species"] == "setosa"


def test_bad_instances_are_refused_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(model, "time", clock)
    refusal_of({"instances": [[1]], "delay_seconds": 300})
    assert clock.waits == []


def test_the_documented_defaults_are_inputs_that_work() -> None:
    described = docs("iris")
    assert set(described) == {"instances", "delay_seconds"}
    assert all(isinstance(entry["type"], str) for entry in described.values())
    defaults = {name: entry["default"] for name, entry in described.items()}
    assert predict("iris", defaults)["predictions"][0]["species"] == "setosa"


def test_changing_the_described_default_does_not_change_the_next_description() -> None:
    docs("iris")["instances"]["default"][0].clear()
    assert docs("iris")["instances"]["default"] == [SETOSA]


# The server


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
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
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
