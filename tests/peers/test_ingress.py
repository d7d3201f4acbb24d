"""The agent in front of an ingress: nginx, which finds the model server by the Host header."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from predictions.models import Task
from tests.helpers.api import assert_error
from tests.helpers.servers import ROOT, environment_of
from tests.helpers.waiting import until
from tests.peers.agent import FLOWER, NewAgent
from tests.peers.ingress import Ingress
from tests.peers.model_server import ModelServer

pytestmark = pytest.mark.slow

IRIS = {"instances": [FLOWER]}


def assert_says(response: requests.Response, status: int, code: str, sentence: str) -> None:
    """The caller reads this sentence, and nothing of nginx's page; so does the record."""
    assert_error(response, status, code)
    assert response.json()["error"] == sentence
    assert "<" not in response.text
    assert "nginx" not in response.text
    assert (Task.objects.latest("created_at").status, Task.objects.latest("created_at").error_info) == (
        "failed",
        sentence,
    )


def statuses(ingress: Ingress, at_least: int) -> list[int]:
    """nginx' access log, which is written after the answer has gone out."""
    until(lambda: len(ingress.requests()) >= at_least)
    return [request["status"] for request in ingress.requests()]


def test_a_flower_is_classified_behind_an_ingress(agent: NewAgent, ingress: Ingress, kserve: ModelServer) -> None:
    here = agent(ingress.address, worker=True)
    assert here.predict("iris", IRIS).json()["outputs"] == {"predictions": [0]}
    assert here.ended(here.submit("iris", IRIS))["outputs"] == {"predictions": [0]}
    assert statuses(ingress, 2) == [200, 200]
    for request in ingress.requests():
        assert (request["method"], request["uri"]) == ("POST", "/v1/models/iris:predict")
        assert (request["host"], request["content_type"]) == ("iris.default.example.com", "application/json")
        assert request["upstream"] == kserve.address


def test_a_raw_deployment_is_found_by_its_own_host(agent: NewAgent, ingress: Ingress) -> None:
    settings = {"KSERVE_NAMESPACE": "ml", "KSERVE_CUSTOM_DOMAIN": "models.test"}
    here = agent(ingress.address, KSERVE_HOST_TEMPLATE="{model}-{namespace}.{domain}", **settings)
    outputs = here.predict("moods", {"mood": "echo"}).json()["outputs"]
    assert outputs["headers"]["host"] == "moods-ml.models.test"
    wrong = agent(ingress.address, **settings)
    assert_says(
        wrong.predict("moods", {"mood": "echo"}),
        400,
        "invalid_inputs",
        "the kserve platform does not know this model",
    )


def test_connections_to_the_ingress_are_used_again(agent: NewAgent, ingress: Ingress) -> None:
    here = agent(ingress.address, worker=True)
    for _ in range(20):
        assert here.predict("iris", IRIS).status_code == 200
    statuses(ingress, 20)
    assert len({request["connection"] for request in ingress.requests()}) == 1
    for _ in range(20):
        here.ended(here.submit("iris", IRIS))
    statuses(ingress, 40)
    connections = {request["connection"] for request in ingress.requests()}
    assert len(connections) <= 3
    print(f"\n40 predictions over {len(connections)} connections")


def test_only_a_500_closes_the_connection(agent: NewAgent, ingress: Ingress) -> None:
    """Without the ingress, the model server closes the connection after a 500; the agent cannot tell who answers."""
    here = agent(ingress.address)
    for _ in range(5):
        assert_error(here.predict("iris", {"instances": "four"}), 400, "invalid_inputs")
        assert_error(here.predict("absent", {}), 400, "invalid_inputs")
        assert here.predict("iris", IRIS).status_code == 200
    statuses(ingress, 15)
    assert len({request["connection"] for request in ingress.requests()}) == 1
    assert_error(here.predict("iris", {"instances": [[1.0, 2.0]]}), 502, "platform_error")
    assert here.predict("iris", IRIS).status_code == 200
    statuses(ingress, 17)
    assert len({request["connection"] for request in ingress.requests()}) == 2


def test_a_model_the_ingress_does_not_know(agent: NewAgent, ingress: Ingress, kserve: ModelServer) -> None:
    here = agent(ingress.address, worker=True)
    sentence = "the kserve platform does not know this model"
    assert_says(here.predict("roses", IRIS), 400, "invalid_inputs", sentence)
    task = here.ended(here.submit("roses", IRIS))
    assert (task["status"], task["error_info"]) == ("failed", sentence)
    assert statuses(ingress, 2) == [404, 404]  # asked once each
    assert ingress.requests()[0]["host"] == "roses.default.example.com"
    assert kserve.calls() == []


def test_the_doctor_reports_an_unknown_host_as_the_platforms_page_shows(
    ingress: Ingress,
) -> None:
    page = (ROOT / "docs/platforms.md").read_text()
    shown = re.search(r"manage\.py (doctor --model \S+)\n…\n(.*?)```", page, re.DOTALL)
    settings = re.search(r"```sh\n(ML_PLATFORM=kserve\n.*?)```", page, re.DOTALL)
    assert shown
    assert settings
    documented = dict(line.split("=") for line in settings[1].splitlines())
    doctor = subprocess.run(
        [sys.executable, "manage.py", *shown[1].split()],
        cwd=ROOT,
        env=environment_of(**{**documented, "KSERVE_ADDRESS": ingress.address}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert doctor.returncode == 1
    assert shown[2].replace(documented["KSERVE_ADDRESS"], ingress.address) in doctor.stdout


def test_a_404_without_a_word(agent: NewAgent, ingress: Ingress) -> None:
    here = agent(ingress.address, KSERVE_NAMESPACE="empty")
    assert_says(here.predict("iris", IRIS), 400, "invalid_inputs", "the kserve platform does not know this model")


def test_a_model_server_that_is_down(agent: NewAgent, ingress: Ingress) -> None:
    here = agent(ingress.address, worker=True, KSERVE_NAMESPACE="down")
    sentence = "the kserve platform answered 502"
    assert_says(here.predict("iris", IRIS), 502, "platform_error", sentence)
    assert statuses(ingress, 1) == [502]
    task = here.ended(here.submit("iris", IRIS))
    assert (task["status"], task["error_info"]) == ("failed", sentence)
    assert statuses(ingress, 2) == [502, 502]


def test_a_prediction_is_sent_once_though_its_model_server_is_killed_behind_the_ingress(
    agent: NewAgent, own_kserve: Callable[..., ModelServer], tmp_path: Path
) -> None:
    """The ingress answers 502 for killed and for stopped models: the agent cannot know whether the model ran."""
    server = own_kserve()
    (tmp_path / "nginx").mkdir()
    ingress = Ingress(tmp_path / "nginx", models=server.address)
    ingress.start()
    here = agent(ingress.address, worker=True)
    with ThreadPoolExecutor() as pool:
        sync = pool.submit(here.predict, "moods", {"mood": "sleep", "seconds": 60})
        task_id = here.submit("moods", {"mood": "sleep", "seconds": 60})
        until(lambda: len(server.calls()) == 2)
        server.kill()
        assert_error(sync.result(60), 502, "platform_error")
    task = here.ended(task_id)
    assert (task["status"], task["error_info"]) == ("failed", "the kserve platform answered 502")
    assert statuses(ingress, 2) == [502, 502]
    ingress.kill()


def test_a_rate_limit_of_the_ingress_is_waited_for(agent: NewAgent, ingress: Ingress, kserve: ModelServer) -> None:
    here = agent(ingress.address, KSERVE_NAMESPACE="scarce")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: here.predict("iris", IRIS), range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len(kserve.calls()) == 4
    assert 429 in statuses(ingress, 5)


def test_an_ingress_that_gives_up_waiting(agent: NewAgent, ingress: Ingress, kserve: ModelServer) -> None:
    here = agent(ingress.address, KSERVE_NAMESPACE="hasty")
    response = here.predict("moods", {"mood": "sleep", "seconds": 10})
    assert_says(response, 504, "platform_timeout", "the kserve platform's gateway gave up waiting (504)")
    time.sleep(1)
    assert statuses(ingress, 1) == [504]
    assert len(kserve.calls()) == 1


@pytest.mark.parametrize(
    ("namespace", "status"),
    [("moved", 308), ("slash", 307)],  # nginx' own redirect, and the model server's of `:predict/`
)
def test_redirects_are_not_followed(
    agent: NewAgent, ingress: Ingress, kserve: ModelServer, namespace: str, status: int
) -> None:
    here = agent(ingress.address, KSERVE_NAMESPACE=namespace)
    sentence = f"the kserve platform answered {status}"
    assert_says(here.predict("iris", IRIS), 502, "platform_error", sentence)
    time.sleep(0.5)
    assert statuses(ingress, 1) == [status]
    assert kserve.calls() == []


def test_inputs_that_are_too_large_for_the_ingress(agent: NewAgent, ingress: Ingress, kserve: ModelServer) -> None:
    here = agent(ingress.address)
    for megabytes in (2, 15):
        response = here.predict("moods", {"mood": "text", "picture": "x" * megabytes * 1024 * 1024})
        assert_says(response, 400, "invalid_inputs", "the kserve platform refused the request (413)")
    assert kserve.calls() == []


def test_large_inputs_reach_the_model_server(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address)
    response = here.predict("moods", {"mood": "text", "picture": "x" * 15 * 1024 * 1024})
    assert response.json()["outputs"] == "quite well, thank you"
    assert len(kserve.calls()[0]["inputs"]["picture"]) == 15 * 1024 * 1024


def test_canceling_closes_the_connection(agent: NewAgent, ingress: Ingress, kserve: ModelServer) -> None:
    here = agent(ingress.address, worker=True)
    task_id = here.submit("moods", {"mood": "sleep", "seconds": 60})
    until(kserve.calls)
    assert here.cancel(task_id).status_code == 202
    assert statuses(ingress, 1) == [499]  # nginx' word for a client that left
    assert here.ended(task_id)["status"] == "canceled"

    with ThreadPoolExecutor() as pool:
        answer = pool.submit(here.predict, "moods", {"mood": "sleep", "seconds": 60})
        until(lambda: len(kserve.calls()) == 2)
        assert here.cancel(Task.objects.get(status="running").pk).status_code == 202
        assert_error(answer.result(20), 409, "canceled")
    assert statuses(ingress, 2) == [499, 499]
    assert here.predict("iris", IRIS).status_code == 200


def test_a_connection_that_the_ingress_closed_while_idle_is_replaced(agent: NewAgent, ingress: Ingress) -> None:
    here = agent(ingress.address, KSERVE_NAMESPACE="brief")
    for pause in (0, 0.5, 1.5, 3, 0.98, 1.0, 1.02):
        time.sleep(pause)
        response = here.predict("iris", IRIS)
        assert response.status_code == 200, (pause, response.text)


def test_predictions_work_again_after_the_ingress_was_restarted(agent: NewAgent, ingress: Ingress) -> None:
    here = agent(ingress.address)
    assert here.predict("iris", IRIS).status_code == 200
    ingress.kill()
    assert_says(here.predict("iris", IRIS), 502, "platform_error", "the kserve platform could not be reached")
    ingress.start()
    assert here.predict("iris", IRIS).status_code == 200


def test_a_missing_nginx_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *args, **kwargs: None)
    with pytest.raises(AssertionError, match="apt install nginx-light"):
        Ingress(tmp_path, models="127.0.0.1:1")
